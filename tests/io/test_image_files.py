"""Image files of many layouts, compared with the arrays of tifffile."""

import contextlib
import io
import logging
import sys
from itertools import product

import cv2
import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image, ImageOps

from sam2fast.io import images
from sam2fast.io.image_files import as_rgb, has_eight_bits, read_image, read_image_size
from sam2fast.transforms import ImageError, to_pixels

HEIGHT, WIDTH = 40, 48
EXTRA = "unspecified"


def array_of(dtype, *shape):
    """Random values of the whole range of a type, smooth enough for JPEG."""
    rng, dtype = np.random.default_rng(0), np.dtype(dtype)
    ramps = rng.random(shape[:-2] + (4, 4) if shape[-1] == WIDTH else (4, 4, shape[-1]))
    axes = (-2, -1) if shape[-1] == WIDTH else (0, 1)
    large = ramps.repeat(HEIGHT // 4, axis=axes[0]).repeat(WIDTH // 4, axis=axes[1])
    large = (large - large.min()) / (large.max() - large.min())
    if dtype.kind == "f":
        return large.astype(dtype)
    limits = np.iinfo(dtype)
    return np.rint(limits.min + large * (int(limits.max) - limits.min)).clip(limits.min, limits.max).astype(dtype)


def grey(dtype, **options):
    return array_of(dtype, HEIGHT, WIDTH), {"photometric": "minisblack", **options}


def colours(dtype, bands=3, planar="contig", **options):
    shape = (HEIGHT, WIDTH, bands) if planar == "contig" else (bands, HEIGHT, WIDTH)
    more = {"photometric": "rgb", "planarconfig": planar, **options}
    inks = 4 if more["photometric"] == "separated" else 1 if more["photometric"] == "minisblack" else 3
    return array_of(dtype, *shape), {"extrasamples": [EXTRA] * (bands - inks) or None, **more}


FILES = {
    **{f"{dtype} grey": grey(dtype) for dtype in ("uint8", "int8", "uint16", "int16", "uint32", "int32")},
    **{f"{dtype} grey": grey(dtype) for dtype in ("float16", "float32", "float64")},
    **{f"{dtype} grey lzw {o}": grey(dtype, compression="lzw", byteorder=o)
       for dtype in ("uint16", "int16", "float32") for o in "<>"},
    "uint32 big-endian": grey("uint32", byteorder=">"),
    "float32, predictor": grey("float32", compression="deflate", predictor=3, byteorder=">"),
    "uint16, predictor": grey("uint16", compression="lzw", predictor=2, byteorder=">"),
    "int16 tiles": grey("int16", tile=(16, 16)),
    "uint16 strips": grey("uint16", rowsperstrip=7),
    "uint16 BigTIFF": grey("uint16", bigtiff=True),
    **{f"{dtype} BigTIFF, big-endian": grey(dtype, bigtiff=True, byteorder=">") for dtype in ("uint8", "uint16")},
    "RGB BigTIFF, big-endian": colours("uint8", bigtiff=True, byteorder=">"),
    "int8 BigTIFF, big-endian": grey("int8", bigtiff=True, byteorder=">"),
    **{f"{dtype} RGB {planar} {o}": colours(dtype, planar=planar, byteorder=o)
       for dtype in ("uint8", "int8", "uint16", "int16", "float32") for planar in ("contig", "separate") for o in "<>"},
    **{f"uint16 RGB {planar} {c}": colours("uint16", planar=planar, compression=c)
       for planar in ("contig", "separate") for c in ("lzw", "zstd")},
    "uint16 RGB separate tiles": colours("uint16", planar="separate", tile=(16, 16)),
    "uint16 RGB separate strips": colours("uint16", planar="separate", rowsperstrip=7, byteorder=">"),
    "uint16 RGB predictor": colours("uint16", compression="lzw", predictor=2),
    **{f"{dtype} RGBA {planar}": colours(dtype, 4, planar, extrasamples=["unassalpha"])
       for dtype in ("uint8", "uint16", "float32") for planar in ("contig", "separate")},
    **{f"{dtype}, {bands} bands {planar}": colours(dtype, bands, planar)
       for dtype in ("uint8", "uint16") for bands in (4, 5, 7) for planar in ("contig", "separate")},
    **{f"{dtype}, {bands} bands of grey {planar}": colours(dtype, bands, planar, photometric="minisblack")
       for dtype in ("uint8", "uint16", "float32") for bands in (2, 3) for planar in ("contig", "separate")},
    "JPEG": colours("uint8", compression="jpeg"),
    "grey JPEG": grey("uint8", compression="jpeg"),
    "JPEG of YCbCr": colours("uint8", compression="jpeg", photometric="ycbcr"),
    "JPEG 2000": grey("uint16", compression="jpeg2000"),
    **{f"{c} RGB": colours("uint8", compression=c) for c in ("webp", "lzma", "zstd", "jpegxl")},
}  # fmt: skip


def expected_values(path, page=0):
    """The first band or the first three of tifffile's array."""
    with tifffile.TiffFile(path) as file:
        values, axes = file.pages[page].asarray(), file.pages[page].axes
    values = np.moveaxis(values, 0, -1) if axes == "SYX" else values
    if values.ndim == 3:
        values = values[..., :3] if values.shape[2] >= 3 else values[..., 0]
    return values


def assert_same_values(image, expected, tolerance=0):
    values = image.values
    if values.ndim > expected.ndim:
        assert (values == values[..., :1]).all()
        values = values[..., 0]
    if values.dtype == expected.dtype == np.uint16 and not (values % 257).any():
        values, expected = values >> 8, expected >> 8  # full range, of which Pillow keeps the upper 8 bits
    assert values.shape == expected.shape
    assert values.dtype.itemsize == expected.dtype.itemsize or expected.dtype.itemsize == 2
    assert np.abs(values.astype(np.float64) - expected).max() <= tolerance


@pytest.mark.parametrize("name", FILES)
def test_values_are_those_of_tifffile(tmp_path, name):
    array, options = FILES[name]
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, array, metadata=None, **options)
    assert read_image_size(path) == (WIDTH, HEIGHT)
    expected = expected_values(path)
    tolerance = 3 if options.get("compression") in ("jpeg", "webp", "jpegxl") else 0
    for file in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        assert_same_values(read_image(file), expected, tolerance)
    pixels = to_pixels(path).float()
    pixels = pixels if pixels.max() <= 1 else pixels / 255
    # Black is the least value of a signed type and 0 of others, and white the greatest value.
    black = int(expected.min()) if array.dtype.kind == "i" else 0
    white = {"uint8": 255, "uint16": 65535}.get(array.dtype.name, 1 if array.dtype.kind == "f" else int(expected.max()))
    shades = (expected.astype(np.float64) - black) / (white - black)
    assert np.abs(pixels.numpy() - (shades if shades.ndim == 3 else shades[..., None])).max() < 0.005 + tolerance / 255


def packed(values, bits):
    """Rows of values as a stream of bits."""
    streams = [np.unpackbits(row.astype(">u2").view(np.uint8)).reshape(-1, 16)[:, 16 - bits :] for row in values]
    return np.concatenate([np.packbits(stream) for stream in streams]).tobytes()


def write_by_hand(path, content, **tags):
    """A little-endian TIFF file of one strip. ``tags`` are numbers by tag."""
    numbers = {256: WIDTH, 257: HEIGHT, 259: 1, 277: 1, 278: HEIGHT, 279: len(content)}
    numbers |= {int(tag[1:]): value for tag, value in tags.items()}
    numbers[273] = 8 + 2 + 12 * (len(numbers) + 1) + 4
    entries = [np.array([tag, 4], "<u2").tobytes() + np.array([1, value], "<u4").tobytes()
               for tag, value in sorted(numbers.items())]  # fmt: skip
    header = b"II*\0" + np.array([8], "<u4").tobytes() + np.array([len(entries)], "<u2").tobytes()
    path.write_bytes(header + b"".join(entries) + bytes(4) + content)


@pytest.mark.parametrize("bits", [1, 2, 4, 10, 12, 14])
@pytest.mark.parametrize("is_white_zero", [False, True])
def test_packed_bits(tmp_path, bits, is_white_zero):
    values = np.random.default_rng(0).integers(0, 1 << bits, (HEIGHT, WIDTH))
    values[0, :2] = 0, (1 << bits) - 1
    write_by_hand(tmp_path / "packed.tif", packed(values, bits), t258=bits, t262=0 if is_white_zero else 1)
    expected = np.rint(values * (255 / ((1 << bits) - 1))).astype(np.uint8)
    expected = 255 - expected if is_white_zero else expected
    found = to_pixels(tmp_path / "packed.tif").numpy()
    assert np.abs(found[..., 0].astype(int) - expected).max() <= 1
    if bits > 8:
        assert np.array_equal(tifffile.imread(tmp_path / "packed.tif"), values)


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_colours_of_few_bits(tmp_path, bits):
    values = np.random.default_rng(0).integers(0, 1 << bits, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    write_by_hand(tmp_path / "a.tif", packed(values.reshape(HEIGHT, -1), bits), t258=bits, t262=2, t277=3)
    assert np.abs(to_pixels(tmp_path / "a.tif").numpy() - values * (255 / ((1 << bits) - 1))).max() <= 0.5


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("bands", [1, 3])
def test_premultiplied_alpha(tmp_path, dtype, bands):
    """Divides colours by alpha, as Pillow does for 8 bits. Transparent pixels are black."""
    colour = array_of("float64", HEIGHT, WIDTH, bands)
    alpha = np.tile(np.linspace(0, 1, WIDTH)[:, None], (HEIGHT, 1, 1))
    most = 1 if dtype == "float32" else 65535
    values = (np.concatenate([colour * alpha, alpha], axis=2) * most).astype(dtype)
    photometric = "rgb" if bands == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", values, photometric=photometric, planarconfig="contig",
                     extrasamples=["assocalpha"])  # fmt: skip
    found = as_rgb(image := read_image(tmp_path / "a.tif"), image.own_scale())
    assert image.bands == ((1, 2, 3)[:bands], bands)
    assert np.abs(found[:, 15:] - 255 * colour[:, 15:]).max() <= 4
    assert not found[:, 0].any()


def test_alpha_is_no_band(tmp_path):
    values, extra = array_of("uint8", HEIGHT, WIDTH, 4), ["unassalpha", "unspecified", "unspecified"]
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", planarconfig="contig", extrasamples=extra)
    image = read_image(tmp_path / "a.tif")
    assert image.bands == ((1, 2, 3), 3)
    assert np.array_equal(image.values, values[..., [0, 2, 3]])


def test_raw_files_of_cameras(tmp_path):
    """The first page is a marked thumbnail, and the sensor's values are in a sub-IFD."""
    with tifffile.TiffWriter(tmp_path / "a.dng") as file:
        file.write(array_of("uint8", HEIGHT, WIDTH, 3), photometric="rgb", subifds=1, subfiletype=1, metadata=None)
        file.write(array_of("uint16", 4 * HEIGHT, WIDTH), photometric="cfa", metadata=None)
    with pytest.raises(ImageError, match="only a thumbnail, like raw files of cameras: convert it to TIFF or JPEG"):
        to_pixels(tmp_path / "a.dng")


@pytest.mark.parametrize("most", [4095, 65535])
@pytest.mark.parametrize("suffix", ["ppm", "jp2", "png"])
def test_deep_colours(tmp_path, caplog, suffix, most):
    """Pillow cuts colours of 16 bits to 8. In JPEG 2000 its white is black."""
    values = (array_of("uint16", HEIGHT, WIDTH, 3).astype(np.uint32) * most // 65535).astype(np.uint16)
    assert cv2.imwrite(str(tmp_path / f"a.{suffix}"), values[..., ::-1])
    found = to_pixels(tmp_path / f"a.{suffix}").numpy()
    assert np.abs(found - values * (255 / most)).max() <= 1
    assert not has_eight_bits(tmp_path / f"a.{suffix}")
    assert ("16 bits, and values up to 4095 only" in caplog.text) == (most == 4095)


def test_jpeg_2000_without_imagecodecs(tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "deep.jp2"), array_of("uint16", HEIGHT, WIDTH, 3))
    cv2.imwrite(str(tmp_path / "a.jp2"), array_of("uint8", HEIGHT, WIDTH, 3))
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert to_pixels(tmp_path / "a.jp2").shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(
        ImageError, match=r"JPEG 2000 with colours of more than 8 bits: pip install 'sam2fast\[images\]'"
    ):
        to_pixels(tmp_path / "deep.jp2")


@pytest.mark.parametrize("kind", ["jpg", "tif"])
def test_a_file_that_cannot_be_rewound(tmp_path, kind):
    """As the answers of ``urllib.request.urlopen``."""

    class Pipe(io.BytesIO):
        def seek(self, *_):
            raise io.UnsupportedOperation("seek")

    Image.fromarray(array_of("uint8", HEIGHT, WIDTH, 3)).save(tmp_path / f"a.{kind}")
    content = (tmp_path / f"a.{kind}").read_bytes()
    assert np.array_equal(to_pixels(Pipe(content)).numpy(), to_pixels(content).numpy())


def test_a_format_whose_decoder_has_no_arguments(tmp_path):
    image = Image.new("1", (WIDTH, HEIGHT), "white")
    image.paste(0, (3, 4, 20, 30))
    image.save(tmp_path / "a.xbm")
    with Image.open(tmp_path / "a.xbm") as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(to_pixels(tmp_path / "a.xbm").numpy(), expected)


@pytest.mark.parametrize(
    ("dtype", "white_is_zero"), [("uint8", 0), ("uint8", 1), ("int8", 0), ("uint16", 0), ("int16", 0), ("float32", 0)]
)
def test_one_band_in_a_plane_of_its_own(tmp_path, dtype, white_is_zero):
    """As GDAL writes a single band with ``INTERLEAVE=BAND``."""
    values = array_of(dtype, HEIGHT, WIDTH)
    tags = {"t258": 8 * values.itemsize, "t284": 2, "t339": {"u": 1, "i": 2, "f": 3}[values.dtype.kind]}
    write_by_hand(tmp_path / "a.tif", values.tobytes(), t262=1 - white_is_zero, **tags)
    image = read_image(tmp_path / "a.tif")
    assert_same_values(image, tifffile.imread(tmp_path / "a.tif"))
    assert image.is_negative == bool(white_is_zero)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("order", "<>")
def test_white_is_zero(tmp_path, dtype, order):
    values = array_of(dtype, HEIGHT, WIDTH)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite", byteorder=order)
    white = 1 if dtype == "float32" else np.iinfo(dtype).max
    shades = 1 - tifffile.imread(tmp_path / "a.tif") / white
    assert np.abs(as_rgb(image := read_image(tmp_path / "a.tif"), image.own_scale())[..., 0] - 255 * shades).max() < 1


@pytest.mark.parametrize(
    ("dtype", "planar", "extra"),
    [*product(["uint8", "uint16"], ["contig", "separate"], [[]]), ("uint8", "contig", ["unassalpha"])],
)
def test_inks(tmp_path, dtype, planar, extra):
    values, options = colours(dtype, 4 + len(extra), planar, photometric="separated", extrasamples=extra or None)
    tifffile.imwrite(tmp_path / "a.tif", values, metadata=None, **options)
    inks = (values if planar == "contig" else np.moveaxis(values, 0, -1)) / np.iinfo(dtype).max
    expected = 255 * (1 - inks[..., :3]) * (1 - inks[..., 3:4])
    image = read_image(tmp_path / "a.tif")
    assert image.bands == ((1, 2, 3), 3)
    assert np.abs(as_rgb(image, image.own_scale()) - expected).max() <= 2


# The pages of each file, its options, the number of the page that is the image, and the number of images.
SMALL = array_of("uint8", HEIGHT, WIDTH)[::4, ::4]
LARGE = [array_of("uint8", HEIGHT, WIDTH), 255 - array_of("uint8", HEIGHT, WIDTH)]
PAGES = {
    "scans": ([(LARGE[0], {}), (LARGE[1], {})], 0, 2),
    "a marked thumbnail": ([(SMALL, {"subfiletype": 1}), (LARGE[1], {})], 1, 1),
    "a thumbnail": ([(SMALL, {}), (LARGE[1], {})], 1, 1),
    "a thumbnail of several pages": ([(SMALL, {}), (LARGE[1], {}), (LARGE[0], {})], 1, 2),
    "a thumbnail at the end": ([(LARGE[1], {}), (SMALL, {"subfiletype": 1})], 0, 1),
    "a mask": ([(LARGE[1], {}), (LARGE[0] > 99, {"subfiletype": 4, "photometric": "mask"})], 0, 1),
}


@pytest.mark.parametrize("name", PAGES)
def test_the_image_among_several_pages(tmp_path, name):
    pages, number, count = PAGES[name]
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for values, options in pages:
            file.write(values, metadata=None, **{"photometric": "minisblack", **options})
    image = read_image(tmp_path / "a.tif")
    assert_same_values(image, expected_values(tmp_path / "a.tif", number))
    assert image.page == (1, count)
    assert read_image_size(tmp_path / "a.tif") == (WIDTH, HEIGHT)
    assert ("is page 1 of 2" in image.note(None)) == (count == 2)
    assert image.choices(None) == ({"page": {"number": 1, "of": 2}} if count == 2 else {})


# The axes of each stack, its options, and the number of images.
STACKS = {
    "z, ImageJ": ("ZYX", {"imagej": True}, 5),
    "channels, ImageJ": ("CYX", {"imagej": True}, 1),
    "z and channels, ImageJ": ("ZCYX", {"imagej": True}, 5),
    "channels, OME": ("CYX", {"ome": True}, 1),
    "z and channels, OME": ("ZCYX", {"ome": True}, 5),
    "channels and z, OME": ("CZYX", {"ome": True}, 5),
    "time, channels and z, OME": ("TCZYX", {"ome": True}, 10),
    "time, z and channels, OME": ("TZCYX", {"ome": True}, 10),
    "colours, OME": ("ZYXS", {"ome": True, "photometric": "rgb"}, 5),
}
LENGTHS = {"T": 2, "C": 4, "Z": 5, "Y": HEIGHT, "X": WIDTH, "S": 3}


@pytest.mark.parametrize("name", STACKS)
def test_stacks(tmp_path, name):
    """The images of a stack are in the order of the file; channels in pages of their own are bands."""
    axes, options, count = STACKS[name]
    values = np.random.default_rng(0).integers(0, 65536, [LENGTHS[axis] for axis in axes], dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, metadata={"axes": axes}, **{"photometric": "minisblack", **options})
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        series = file.series[0]
        # (T, Z, Y, X, bands)
        kinds = ["T", "Z", "Y", "X", "S" if "S" in axes else "C"]
        found = series.asarray().transpose([series.axes.index(axis) for axis in kinds if axis in series.axes])
    found = found[..., None] if found.ndim == len(axes) and not {"S", "C"} & {*axes} else found
    planes = found.reshape(-1, HEIGHT, WIDTH, found.shape[-1])
    assert len(planes) == count
    for index in (0, count - 1):
        image = read_image(tmp_path / "a.tif", index)
        assert_same_values(image, planes[index, ..., :3] if planes.shape[-1] > 1 else planes[index, ..., 0])
        assert image.page == (index + 1, count)
        assert image.bands == (((1, 2, 3), planes.shape[-1]) if planes.shape[-1] > 1 else ((1,), 1))


def test_channels_without_pages_are_no_bands(tmp_path):
    values = np.zeros((2, HEIGHT, WIDTH), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, description="ImageJ=1.54\nchannels=5\n", metadata=None)
    image = read_image(tmp_path / "a.tif")
    assert image.page == (1, 2) and image.bands == ((1,), 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, orientation):
    """tifffile's arrays are as stored; Pillow's files are the reference for what is upright."""
    values = array_of("uint8", HEIGHT, WIDTH, 3)
    extra = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "pillow.tif", values, photometric="rgb", extratags=extra)
    tifffile.imwrite(tmp_path / "ours.tif", values.astype(np.int16), photometric="rgb", extratags=extra)
    with Image.open(tmp_path / "pillow.tif") as image:
        upright = np.asarray(image)
    assert np.array_equal(read_image(tmp_path / "ours.tif").values, upright)
    assert read_image_size(tmp_path / "ours.tif") == upright.shape[1::-1]
    assert read_image_size(tmp_path / "pillow.tif") == upright.shape[1::-1]


REFUSED = {
    "uint16 RGB separate <": "3 bands of uint16 in separate planes",
    "int8 grey": "1 band of int8",
    "int16 grey lzw >": "1 band of int16",
    "uint16, 7 bands contig": "7 bands of uint16",
    "float32 RGB contig <": "3 bands of float32",
    "uint8, 3 bands of grey contig": "3 bands of uint8",
    "JPEG 2000": r"1 band of uint16 \(compression 34712\)",
    # Newer versions of Pillow than 10.3 read these.
    "zstd RGB": r"3 bands of uint8 \(compression 50000\)",
    "uint8, 2 bands of grey contig": "2 bands of uint8",
    "uint16, 4 bands contig": "4 bands of uint16",
}


@pytest.mark.parametrize("name", REFUSED)
def test_without_tifffile(tmp_path, monkeypatch, name):
    array, options = FILES[name]
    tifffile.imwrite(tmp_path / "a.tif", array, metadata=None, **options)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ImageError, match=f"a.tif cannot be read as an image: it has {REFUSED[name]}") as caught:
        to_pixels(tmp_path / "a.tif")
    assert str(caught.value).endswith(": pip install 'sam2fast[images]' to read it")


def test_without_tifffile_pillow_reads_the_others(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    for name in ("uint8 RGB contig <", "uint16 grey lzw >", "uint16 RGB contig lzw", "int16 grey lzw <", "JPEG"):
        array, options = FILES[name]
        tifffile.imwrite(tmp_path / "a.tif", array, metadata=None, **options)
        assert_same_values(read_image(tmp_path / "a.tif"), expected_values(tmp_path / "a.tif"), 3)


def test_what_is_no_image(tmp_path):
    """Raw values of a sensor, and complex numbers."""
    values = array_of("uint16", HEIGHT, WIDTH)
    tifffile.imwrite(tmp_path / "raw.tif", values, photometric="cfa")
    tifffile.imwrite(tmp_path / "complex.tif", values.astype(np.complex64))
    with pytest.raises(ImageError, match="raw values of a camera's sensor, which is not an image"):
        to_pixels(tmp_path / "raw.tif")
    with pytest.raises(ImageError, match="1 band of complex64, which is not an image"):
        to_pixels(tmp_path / "complex.tif")


def test_a_note_of_the_choices(tmp_path, caplog):
    values = np.linspace(0, 10_000, HEIGHT * WIDTH * 7).reshape(HEIGHT, WIDTH, 7).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", np.stack([values, values]), photometric="minisblack", planarconfig="contig",
                     metadata=None)  # fmt: skip
    with caplog.at_level(logging.WARNING):
        to_pixels(tmp_path / "a.tif")
    most = values[..., :3].max()
    assert caplog.messages == [
        f"{tmp_path}/a.tif is page 1 of 2; it is band 1, 2, 3 of 7 as red, green and blue; it has 16 bits, and values "
        f"up to {most} only: values are scaled so that the maximum is white"
    ]
    image = read_image(tmp_path / "a.tif")
    assert image.choices(image.own_scale()) == {
        "page": {"number": 1, "of": 2},
        "bands": {"numbers": [1, 2, 3], "of": 7},
        "scale": {"black": 0, "white": most},
    }


def test_values_that_are_not_finite(tmp_path, caplog):
    values = np.linspace(200, 1000, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.float32)
    values[3, 4:7] = np.nan, np.inf, -np.inf
    tifffile.imwrite(tmp_path / "a.tif", values)
    found = to_pixels(tmp_path / "a.tif").numpy()[..., 0]
    finite = np.isfinite(values)
    assert np.abs(found - values / 1000 * 255)[finite].max() <= 0.5 + 1e-3
    assert found[3, 4] == 0 and found[3, 5] == 255 and found[3, 6] == 0
    assert "has values from 200 to 1000, and 3 that are not finite: values are scaled" in caplog.text
    assert "nan" not in caplog.text


def test_an_image_without_a_finite_value_is_black(tmp_path, caplog):
    tifffile.imwrite(tmp_path / "a.tif", np.full((HEIGHT, WIDTH), np.nan, np.float32))
    assert not to_pixels(tmp_path / "a.tif").any()
    assert "has no finite value, and is black" in caplog.text and "nan" not in caplog.text


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_nodata_of_gdal(tmp_path, dtype, bands, caplog):
    """Pixels without data do not count."""
    nodata = {"uint16": 65535, "int16": -9999, "float32": -3.4e38}[dtype]
    values = np.linspace(0, 3000, HEIGHT * WIDTH).astype(dtype).reshape(HEIGHT, WIDTH)
    values = np.stack([values] * 3, axis=2) if bands == 3 else values
    values[:10] = nodata
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb" if bands == 3 else "minisblack",
                     planarconfig="contig", extratags=[(42113, "s", 0, str(nodata), True)])  # fmt: skip
    found = to_pixels(tmp_path / "a.tif").numpy()
    found = found if bands == 3 else found[..., 0]
    assert np.abs(found - values.astype(np.float64) / 3000 * 255)[10:].max() <= 1
    (note,) = [record.message for record in caplog.records if record.name.startswith("sam2fast")]
    assert "3000" in note and str(nodata) not in note


@contextlib.contextmanager
def heif_in_pillow():
    """Pillow reads and saves HEIC in the block, and does not know it afterwards."""
    pillow_heif.register_heif_opener()
    try:
        yield
    finally:
        Image.ID.remove("HEIF")
        del Image.OPEN["HEIF"]


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_phone_photographs(tmp_path, kind):
    path, pixels, exif = tmp_path / f"photo.{kind.lower()}", array_of("uint8", HEIGHT, WIDTH, 3), Image.Exif()
    exif[0x0112] = 6
    with heif_in_pillow():
        Image.fromarray(pixels).save(path, kind, quality=100, exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    for file in (path, path.read_bytes()):
        assert np.array_equal(to_pixels(file).numpy(), expected)
    assert read_image_size(path) == Image.open(path).size


def test_heic_without_pillow_heif(tmp_path, monkeypatch):
    with heif_in_pillow():
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "photo.heic", "HEIF")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"HEIC needs pillow-heif: pip install 'sam2fast\[images\]'"):
        to_pixels(tmp_path / "photo.heic")


def test_avif_without_pillows_decoder(tmp_path, monkeypatch):
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "photo.avif")
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "AVIF"])
    with pytest.raises(ImageError, match=r"AVIF needs Pillow 11\.3 or newer"):
        to_pixels(tmp_path / "photo.avif")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_the_limit_of_pixels(tmp_path, monkeypatch, recwarn, suffix):
    """Our own limit instead of Pillow's, unless a program changed Pillow's."""
    path = tmp_path / f"large.{suffix}"
    Image.new("L", (1000, 1000)).save(path, compression="tiff_lzw")
    monkeypatch.setattr(images, "PILLOW_PIXELS", 400_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400_000)
    assert to_pixels(path).shape == (1000, 1000, 3) and not recwarn
    with images.open_image(path) as image:
        assert image.size == (1000, 1000)
    monkeypatch.setattr(images, "MOST_PIXELS", 900_000)
    message = "1000x1000 pixels, more than 0.9 million; raise the limit by --max-megapixels 1"
    with pytest.raises(ImageError, match=message) as caught:
        to_pixels(path)
    assert "DOS" not in str(caught.value)
    assert Image.MAX_IMAGE_PIXELS == 400_000
    monkeypatch.setenv("SAM2FAST_MAX_MEGAPIXELS", "1")
    assert to_pixels(path).shape == (1000, 1000, 3)
    monkeypatch.delenv("SAM2FAST_MAX_MEGAPIXELS")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert to_pixels(path).shape == (1000, 1000, 3)


def test_damaged_headers_are_read_errors(tmp_path):
    """Each byte of a header changed: a value or one clear error."""
    tifffile.imwrite(tmp_path / "a.tif", array_of("int16", HEIGHT, WIDTH), byteorder=">", compression="lzw")
    content = (tmp_path / "a.tif").read_bytes()
    for at in range(0, 260):
        for value in (0, 255):
            damaged = content[:at] + bytes([value]) + content[at + 1 :]
            with contextlib.suppress(ImageError):
                to_pixels(damaged)
    for length in range(0, len(content), 37):
        with contextlib.suppress(ImageError):
            to_pixels(content[:length] or b"II")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("uint8 RGBA contig", ((1, 2, 3), 3)),
        ("float32 RGBA contig", ((1, 2, 3), 3)),
        ("uint8, 5 bands contig", ((1, 2, 3), 5)),
        ("uint16, 4 bands contig", ((1, 2, 3), 4)),
        ("uint16, 7 bands contig", ((1, 2, 3), 7)),
        ("uint8, 2 bands of grey contig", ((1,), 2)),
        ("float32, 2 bands of grey contig", ((1,), 2)),
        ("uint16 grey", ((1,), 1)),
        ("JPEG", ((1, 2, 3), 3)),
    ],
)
def test_bands_that_are_taken(tmp_path, name, expected):
    """Bands that are left out are counted, whoever reads the file; alpha is none."""
    array, options = FILES[name]
    tifffile.imwrite(tmp_path / "a.tif", array, metadata=None, **options)
    assert read_image(tmp_path / "a.tif").bands == expected
