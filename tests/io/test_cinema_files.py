"""OpenEXR and DPX files."""

import base64
import struct
import sys
import zlib
from io import BytesIO

import av
import numpy as np
import pytest
from cinema_frames import LINEAR, LOGARITHMIC, REC_709, dpx, encoded, exr, srgb

from sam2fast.io.cinema_files import _read_planes
from sam2fast.io.image_files import as_rgb, read_image, read_image_size
from sam2fast.transforms import ImageError, to_pixels

RNG = np.random.default_rng(0)
LIGHT = (RNG.random((5, 7, 3)) * 2 - 0.3).astype(np.float16).astype(np.float64)
CODES = RNG.integers(0, 1024, (5, 7, 3))
# Written by OpenEXR: two parts, and one tile. Pixel (y, x) of the first part has the values 3 * (6y + x) + (0, 1, 2),
# divided by 64.
PARTS = zlib.decompress(base64.b85decode(
    b"c-kw|H)LcIU|>kjNX*Mi%_#;lax#lc7|a<M7@Qaw86bcWirq0pf-ppYCY0u7JLi|?l`v!iF$+{YIX}0cD7CmaGd~Z74U%I{Ni0bW&&*57FK0-"
    b"~uQ1AF5MV$6R*(uHPRT4T$Vsdus4gcnFV(*&CAA2N1$J3pVs0u!aY<2TUOHGHry#Q;HOH~IAT_xpD6u3npCK(LKM~?&28IUv;^d;#)I5lN&Z&7"
    b"NKy%8B(ik|9>_k=)o|#gTfo4QWWdYnuUa<PaJdmq0a}(23M`oxO4Rok8urfo8DPm?o0f|6d5$D?(DA-"
    b"`Y<E+i9Dcr!2qR{Yo67RbUhr(5Tn1s|AIhXYC7rphKER_%@d?;>)>dLJP<SrR(5vU6(-g$r59p&)(-"
    b"wvJmsWG$CX1flvrw(J6mx4+5@^9LUUb1{-@Sfwf7Z!6V5X(*k@&YYmx!`$_-"
    b"JZjNMd(MnPPwc~#=~roUFwXSCC&V^zTDmFxT|QN>eDwXw&*=fH~-"
    b";rHDJ|U7MArZE^^p9D15q{oV(BVmk{@fU*#`;nZEBl_S3^n`uy1*e*2T&TL5w?073"
))  # fmt: skip
TILES = zlib.decompress(base64.b85decode(
    b"c-kw|H)LdDVqi#4EO1FINo6Q5Day=CXAov!U@$T;GP5!?v@)_(Ffy<*Ft9Q-"
    b"NzO>j%S+8EW=PJ+$t*5mFb67gVqj!|07fWw#}Em^5MfBp&n+lQEiTT?&qHB@B$-nZOA^B~^HTE58ItlVj4~Mn7!ZIJqymUjGK&jx5-"
    b"SO+%gM}3^)E_EEka^}oluZjk(%RJT#%Yv5|mhyna_}xlb=|^zyj9YU|*bEl$x3cG2S^fuLP*A%qWe41IY?xCE=MVB^hW&lw{_l7Bhgzl+@y622"
    b"P-$02DJYG&3?_1&Kgh5$D?(DA-`Y<E+i9Dcr!2qR{Yo67RbUhr(5Tn1s|AIhXYC7rphKER_%@d?;>)>dLJP<SrR(5vU6(-g$r59p&)(-"
    b"wvJmsWG$CX1flvrw(J6mx4+5@^9LUUb1{-@Sfwf7XV%Kc=!"
))  # fmt: skip
SMALL = np.arange(4 * 6 * 3).reshape(4, 6, 3) / 64


def shown(content: bytes) -> np.ndarray:
    image = read_image(content)
    rgb = as_rgb(image, image.own_scale())
    assert read_image_size(content) == rgb.shape[1::-1]
    return rgb


@pytest.mark.parametrize("compression", ["none", "rle", "zip1", "zip16"])
@pytest.mark.parametrize("half", [True, False])
def test_exr_has_the_values(half, compression):
    image = read_image(exr(LIGHT, half, compression))
    kind = np.float16 if half else np.float32
    assert image.values.dtype == kind and np.array_equal(image.values, LIGHT.astype(kind))


def test_light_is_shown_by_the_curve_of_srgb():
    assert np.array_equal(shown(exr(LIGHT)), srgb(LIGHT))
    light = RNG.random((50, 70, 3))  # as half floats are converted
    assert np.abs(shown(exr(light, half=False)) - srgb(light)).max() <= 1
    image = read_image(exr(LIGHT))
    assert image.choices(image.own_scale()) == {"scale": {"black": 0, "white": 1, "curve": "sRGB"}}
    note = image.note(image.own_scale())
    assert note.startswith("is scene-linear; it has values from -0.") and "0 is black and 1 is white" in note
    assert note.endswith(", by the curve of sRGB")


def test_values_that_are_not_finite():
    light = LIGHT.copy()
    light[0, 0], light[0, 1], light[0, 2] = np.nan, np.inf, 1e30
    for half in (True, False):
        found = shown(exr(light, half))
        assert found[0, 0].tolist() == [0] * 3 and found[0, 1:3].tolist() == [[255] * 3] * 2


def test_alpha_is_dropped_and_grey_is_repeated():
    four = np.dstack([LIGHT, np.full((5, 7), 0.5)]).astype(np.float32)
    assert np.abs(shown(encoded("exr", four, "gbrapf32le")) - srgb(LIGHT)).max() <= 1
    assert np.abs(shown(encoded("exr", four[..., 1].copy(), "grayf32le")) - srgb(LIGHT[..., 1:2])).max() <= 1
    eight = RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    assert np.array_equal(shown(encoded("dpx", eight, "rgba")), eight[..., :3])
    assert np.array_equal(shown(encoded("dpx", eight, "abgr")), eight[..., :0:-1])
    assert np.array_equal(shown(encoded("dpx", eight[..., 0].copy(), "gray")), eight[..., :1].repeat(3, 2))


@pytest.mark.parametrize("content", [PARTS, TILES], ids=["parts", "tiles"])
def test_parts_and_tiles(content):
    assert np.array_equal(shown(content), srgb(SMALL))
    with pytest.raises(ValueError, match="it is truncated"):
        read_image(content[:-1])


@pytest.mark.parametrize("bits, name", [(10, "gbrp10be"), (10, "gbrp10le"), (12, "gbrp12le"), (16, "rgb48be")])
def test_codes_of_dpx(bits, name):
    codes = RNG.integers(0, 1 << bits, (5, 7, 3), dtype=np.uint16)
    assert np.array_equal(shown(encoded("dpx", codes, name)), np.rint(codes * (255 / (2**bits - 1))))


@pytest.mark.parametrize("transfer", [0, 255, REC_709])
def test_values_of_video_are_unchanged(transfer):
    image = read_image(content := dpx(CODES, transfer))
    assert np.array_equal(shown(content), np.rint(CODES * (255 / 1023))) and image.choices(None) == {}
    said = "has a header without its curve, so its values are shown unchanged"
    assert image.note(image.own_scale()) == ("" if transfer == REC_709 else said)


def test_linear_dpx():
    assert np.abs(shown(dpx(CODES, LINEAR)) - srgb(CODES / 1023)).max() <= 1
    # FFmpeg wrote "linear" into the header of any video.
    assert np.array_equal(shown(dpx(CODES, LINEAR, b"Lavc59.37.100")), np.rint(CODES * (255 / 1023)))


@pytest.mark.parametrize("transfer", [1, LOGARITHMIC])
def test_logarithmic_dpx(transfer):
    """Cineon: 95 is black, 685 white, and a step of 90 codes below it 0.3 of density, about half of the light."""
    codes = np.array([0, 95, 595, 685, 1023])
    black = 10 ** (-590 / 300)
    half = (10 ** (-90 / 300) - black) / (1 - black)
    found = shown(dpx(np.broadcast_to(codes[:, None, None], (5, 7, 3)), transfer))[:, 0, 0]
    assert found.tolist() == [0, 0, srgb(half), 255, 255]


def test_formats_of_videos_are_refused():
    with pytest.raises(ValueError, match="FFmpeg's format yuv420p; convert it to RGB"):
        _read_planes(av.VideoFrame(4, 4, "yuv420p"))


def test_unfinished_files():
    content = exr(LIGHT)
    for cut in (len(content) - 1, len(content) // 2, 400):
        with pytest.raises(ValueError, match="truncated"):
            read_image(content[:cut])
    (table,) = (at for at in range(len(content)) if content[at : at + 8] == struct.pack("<Q", at + 8))
    with pytest.raises(ValueError, match="not written to its end"):  # as a renderer leaves it that was killed
        read_image(content[:table] + bytes(8) + content[table + 8 :])
    with pytest.raises(ValueError):
        read_image(dpx(CODES, 0)[:-1])
    with pytest.raises(ValueError, match="it is truncated"):
        read_image(dpx(CODES, 0)[:900])


def test_files_that_cannot_be_decoded():
    """FFmpeg has no decoder for the compression 10, nor for channels of other names."""
    content = exr(LIGHT)
    unknown = content.replace(b"compression\0compression\0\1\0\0\0\3", b"compression\0compression\0\1\0\0\0\x0a")
    renamed = content.replace(b"B\0\1", b"X\0\1")
    assert content not in (unknown, renamed)
    for file, channels in ((unknown, "B, G, R"), (renamed, "X, G, R")):
        with pytest.raises(ImageError, match=f"FFmpeg cannot decode it .*channels are {channels}; convert it to R, G"):
            to_pixels(file)
    with pytest.raises(ImageError, match="0x5 pixels"):
        to_pixels(dpx(CODES, 0)[:772] + struct.pack(">II", 0, 5) + dpx(CODES, 0)[780:])


@pytest.mark.parametrize("kind", [b"\x08", b"\x09"], ids=["DWAA", "DWAB"])
def test_dwa_needs_a_new_pyav(kind, monkeypatch):
    """Others make it black without an error."""
    content = exr(LIGHT).replace(b"compression\0compression\0\1\0\0\0\3", b"compression\0compression\0\1\0\0\0" + kind)
    monkeypatch.setattr(av, "__version__", "16.0.1")
    assert shown(exr(LIGHT)).any()
    with pytest.raises(ValueError, match="PyAV 17 or newer, and this is PyAV 16.0.1: pip install 'av>=17'"):
        read_image(content)


def test_without_pyav(monkeypatch):
    content = exr(LIGHT)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"pip install 'sam2fast\[video\]' to read it"):
        read_image(BytesIO(content))
