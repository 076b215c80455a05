"""Images of masks as prompts: what is the object, and what is refused because it is ambiguous."""

import re
from pathlib import Path

import moving_shapes
import numpy as np
import pytest
import tifffile
from commands import NANO, ok
from file_contents import names
from PIL import Image, ImageFilter
from track_runs import lines_of

from sam2fast.cli.mask_files import masks_of_labels, read_foreground
from sam2fast.datasets.dataset_files import read_labels
from sam2fast.io.label_maps import label_png
from sam2fast.io.rle import decode_rle
from sam2fast.utils.errors import FixableError

HEIGHT, WIDTH = 60, 80
LABELS = np.zeros((HEIGHT, WIDTH), np.uint8)
LABELS[10:40, 10:30], LABELS[20:55, 45:70] = 1, 2
ONE, BOTH = LABELS == 1, LABELS > 0
PHOTO = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
WHITE = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)


def rgba(colours, alpha) -> Image.Image:
    return Image.fromarray(np.dstack([colours, np.where(alpha, 255, 0)]).astype(np.uint8))


def with_palette(indices, *colours: int) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(colours)
    return image


GREY = Image.fromarray(ONE * np.uint8(255))
GOOD = {
    "0 and 255": GREY,
    "0 and 1": Image.fromarray(ONE.astype(np.uint8)),
    "bits": GREY.convert("1"),
    "16 bits": Image.fromarray(ONE.astype(np.uint16)),
    "floats": Image.fromarray(ONE.astype(np.float32)),
    "palette": with_palette(ONE, 0, 0, 0, 128, 0, 0),
    "red": Image.fromarray(np.dstack([ONE * 255, ONE * 0, ONE * 0]).astype(np.uint8)),
    "cut-out": rgba(PHOTO, ONE),
    "cut-out on black": rgba(PHOTO * ONE[..., None], ONE),
    "white": rgba(WHITE, ONE),
    "black on transparent white": rgba(WHITE * ~ONE[..., None], ONE),
    "the same in alpha": rgba(WHITE * ONE[..., None], ONE),
    "opaque": rgba(WHITE * ONE[..., None], ONE | True),
    "grey and alpha": rgba(WHITE, ONE).convert("LA"),
    "transparent palette": with_palette(ONE, 255, 0, 0, 0, 255, 0),
}


@pytest.mark.parametrize("name", GOOD)
def test_the_object_is_bright_or_opaque(tmp_path, name):
    options = {"transparency": 0} if name == "transparent palette" else {}
    file = tmp_path / ("mask.tif" if name == "floats" else "mask.png")
    GOOD[name].save(file, **options)
    np.testing.assert_array_equal(read_foreground(file), ONE)


TIFFS = {
    "uint16": ("uint16", {}),
    "big-endian": ("uint16", {"byteorder": ">"}),
    "big-endian, compressed": ("uint16", {"byteorder": ">", "compression": "lzw"}),
    "big-endian, predictor": ("uint16", {"byteorder": ">", "compression": "deflate", "predictor": 2}),
    "tiles": ("uint16", {"tile": (16, 16), "compression": "zstd"}),
    "BigTIFF": ("uint16", {"byteorder": ">", "bigtiff": True}),
    "16-bit white is zero": ("uint16", {"photometric": "miniswhite"}),
    "int8": ("int8", {}),
    "int16": ("int16", {}),
    "int16, big-endian, compressed": ("int16", {"byteorder": ">", "compression": "lzw"}),
    "int32, big-endian": ("int32", {"byteorder": ">"}),
    "uint32, compressed": ("uint32", {"byteorder": ">", "compression": "deflate"}),
    "int64": ("int64", {}),
}


@pytest.mark.parametrize("name", TIFFS)
def test_labels_of_tiff_files(tmp_path, name):
    """Values are exact in each layout."""
    dtype, options = TIFFS[name]
    labels = LABELS.astype(dtype) * (50 if dtype == "int8" else 300)
    tifffile.imwrite(tmp_path / "labels.tif", labels, **options)
    found = read_labels(tmp_path / "labels.tif")
    np.testing.assert_array_equal(found, labels)
    assert [*masks_of_labels(tmp_path / "labels.tif")] == np.unique(labels)[1:].tolist()
    if "white" not in name:
        tifffile.imwrite(tmp_path / "mask.tif", (labels == labels.max()).astype(dtype), **options)
        np.testing.assert_array_equal(read_foreground(tmp_path / "mask.tif"), LABELS == 2)


def test_labels_in_a_plane_of_its_own(tmp_path):
    """As GDAL writes a single band with ``INTERLEAVE=BAND``, which Pillow reads as bytes."""
    tifffile.imwrite(tmp_path / "a.tif", LABELS.astype(np.uint16) * 300, metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        unit = file.pages[0].tags[296]  # of the resolution; its place is that of the planar configuration
        unit.overwrite(2)
        at = unit.offset
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[at : at + 2] = (284).to_bytes(2, "little")
    (tmp_path / "a.tif").write_bytes(content)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.tif"), LABELS.astype(np.uint16) * 300)


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (LABELS.astype(np.int16) - 1, {}, "values of a mask must be 0 or greater, got -1"),
        (LABELS.astype(np.int8) - 1, {}, "values of a mask must be 0 or greater, got -1"),
        (LABELS.astype(np.float16), {}, "a mask must have one band of integers"),
        (np.stack([LABELS.astype(np.uint16)] * 3), {"photometric": "rgb"}, "a mask must have one band of integers"),
        (np.stack([LABELS.astype(np.uint16)] * 2), {"planarconfig": "separate", "photometric": "minisblack"},
         "a mask must have one band of integers"),
    ],
)  # fmt: skip
def test_tiff_files_that_have_no_labels(tmp_path, array, options, message):
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    with pytest.raises(FixableError, match=message):
        masks_of_labels(tmp_path / "a.tif")


SOFT = {
    "blurred": (GREY.filter(ImageFilter.GaussianBlur(3)), "png"),
    "resized": (GREY.resize((WIDTH // 4, HEIGHT // 4), Image.Resampling.BOX).resize((WIDTH, HEIGHT)), "png"),
    "probabilities": (Image.fromarray(GREY.filter(ImageFilter.GaussianBlur(9)) * np.float32(1 / 255)), "tif"),
    "JPEG": (GREY.convert("RGB"), "jpg"),
    "JPEG of grey and dark grey": (GREY.point(lambda value: 16 if value == 0 else 235), "jpg"),
    "WebP": (GREY.convert("RGB"), "webp"),
    "soft alpha": (Image.merge("LA", (Image.new("L", GREY.size, 90), GREY.filter(ImageFilter.GaussianBlur(2)))), "png"),
}


@pytest.mark.parametrize("name", SOFT)
def test_edges_of_soft_masks_are_no_objects(tmp_path, name):
    image, suffix = SOFT[name]
    image.save(tmp_path / f"mask.{suffix}")
    found = read_foreground(tmp_path / f"mask.{suffix}")
    assert (found & ONE).sum() / (found | ONE).sum() > (0.6 if name == "probabilities" else 0.9)


def test_labels(tmp_path):
    for name, image in (
        ("grey", Image.fromarray(LABELS)),
        ("palette", with_palette(LABELS, 9, 9, 9, 9, 9, 9, 0, 0, 0)),
    ):
        image.save(tmp_path / f"{name}.png")
        masks = masks_of_labels(tmp_path / f"{name}.png")
        assert list(masks) == [1, 2]
        for label, mask in masks.items():
            np.testing.assert_array_equal(read_foreground(mask), label == LABELS)


EMPTY, SPREAD = Image.new("L", (8, 8)), Image.fromarray(LABELS * 120)
COLOURS = Image.fromarray(WHITE * BOTH[..., None] - np.uint8([0, 0, 90]) * ONE[..., None])
# An image, the name of its file, and a part of the message.
REFUSED = {
    "grey labels": (LABELS, "x.png", "x.png:1 (1, 2), take all by --masks, or save one in white on black"),
    "labels without 0": (LABELS // 2 + 1, "x.png", "x.png:1 (1, 2)"),
    "an object and void": (np.where(LABELS == 2, 255, LABELS).astype(np.uint8), "x.png", "1, 255"),
    "spread labels": (SPREAD, "x.png", "120, 240"),
    "16 bits": (LABELS.astype(np.uint16) * 1000, "x.png", "1000, 2000"),
    "palette": (with_palette(LABELS, 0, 0, 0, 128, 0, 0, 0, 128, 0), "x.png", "x.png:1 (1, 2)"),
    "palette without black": (with_palette(ONE, 31, 119, 180, 255, 127, 14), "x.png", "x.png:1 (1)"),
    "colours": (COLOURS, "x.png", "a palette or grey"),
    "two masks": (rgba(WHITE * ONE[..., None], BOTH), "x.png", "another one in alpha"),
    "black": (EMPTY, "x.png", "is empty"),
    "transparent black": (Image.new("RGBA", (8, 8)), "x.png", "is empty"),
    "no such label": (LABELS, "x.png:3", "no label 3; it has 1, 2"),
    "a name with a label's form": (LABELS, "x:7", "several objects"),
}
NO_LABELS = {
    "colours": (PHOTO, "x.png", "got mode RGB"),
    "JPEG": (SPREAD, "x.jpg", "save labels as PNG"),
    "empty": (EMPTY, "x.png", "is empty"),
    "missing": (EMPTY, "y.png", "No such file"),
}
CASES = [(read_foreground, *row) for row in REFUSED.values()] + [(masks_of_labels, *row) for row in NO_LABELS.values()]


@pytest.mark.parametrize(("read", "image", "name", "message"), CASES, ids=[*REFUSED, *NO_LABELS])
def test_refused(tmp_path, read, image, name, message):
    file = tmp_path / name.replace("y", "x").removesuffix(":3")
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, None if file.suffix else "PNG")
    with pytest.raises(FixableError, match=re.escape(message)):
        read(tmp_path / name)


def test_a_jpeg_has_no_labels_whatever_its_name(tmp_path):
    SPREAD.save(tmp_path / "labels.png", "JPEG")
    with pytest.raises(FixableError, match="save labels as PNG"):
        masks_of_labels(tmp_path / "labels.png")
    Image.fromarray(LABELS).save(tmp_path / "labels.jpg", "PNG")
    assert [*masks_of_labels(tmp_path / "labels.jpg")] == [1, 2]


def test_track_an_object_for_each_label(track, video_file, tmp_path):
    """Their numbers are the labels; a single one may have any name."""
    labels = np.zeros((48, 64), np.uint8)
    x0, y0, x1, y1 = moving_shapes.square_at(0)
    x, y, radius = moving_shapes.disc_at(0)
    labels[y0:y1, x0:x1], labels[y - radius : y + radius, x - radius : x + radius] = 7, 3
    file = tmp_path / "labels.png"
    file.write_bytes(label_png(labels))
    options = ["--end", 2, "--format", "json", "--out"]
    assert track(video_file, "--masks", f"0,{file}", *options, tmp_path / "a").exit_code == 0
    found = lines_of(tmp_path / "a")[0]["objects"]
    assert [entry["id"] for entry in found] == [3, 7]
    for entry in found:
        mask = decode_rle(entry["rle"])
        assert (mask & (labels == entry["id"])).sum() / (mask | (labels == entry["id"])).sum() > 0.9
    assert track(video_file, "--mask", f"0,disc,{file}:3", *options, tmp_path / "b").exit_code == 0
    (one,) = lines_of(tmp_path / "b")[0]["objects"]
    assert (one["id"], one["rle"]) == ("disc", found[0]["rle"])


def test_segment_an_object_for_each_label(run, make_image, tmp_path):
    labels = Image.fromarray(LABELS).resize(Image.open(make_image()).size, Image.Resampling.NEAREST)
    labels.save(tmp_path / "labels.png")
    arguments = ["segment", "image.png", *NANO]
    ok(run(*arguments, "--masks", "labels.png", "--mask", "cup,labels.png:2", "--out", "out"))
    assert [name for name in names(tmp_path / "out") if "mask" in name] == [
        *("image_1_mask.png", "image_2_mask.png", "image_cup_mask.png")
    ]
    second, cup = (Path(tmp_path, f"out/image_{name}_mask.png").read_bytes() for name in ("2", "cup"))
    assert second == cup != Path(tmp_path, "out/image_1_mask.png").read_bytes()


def test_a_mask_has_the_ratio_of_the_image_as_displayed_or_as_stored(run, tmp_path):
    """A mask of stored pixels is rotated with the photograph, and a mask of another ratio is refused."""
    shown = np.zeros((96, 64), np.uint8)
    shown[12:40, 6:30] = 255
    photo = Image.fromarray(np.dstack([shown, 255 - shown, shown // 2])).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise for display
    photo.save(tmp_path / "photo.png", exif=exif)
    upright = Image.fromarray(shown)
    masks = {
        "shown": upright,
        "small": upright.resize((32, 48)),
        "a pixel less": upright.resize((21, 31)),
        "stored": upright.transpose(Image.Transpose.ROTATE_90),
        "half stored": upright.transpose(Image.Transpose.ROTATE_90).resize((48, 32)),
    }
    found = {}
    for name, mask in masks.items():
        mask.save(tmp_path / f"{name}.png")
        ok(run("segment", "photo.png", "--mask", f"{name}.png", *NANO, "--out", f"out {name}"))
        found[name] = np.asarray(Image.open(tmp_path / f"out {name}/photo_mask.png")) > 0
    for name, mask in found.items():
        assert (mask & found["shown"]).sum() > 0.9 * (mask | found["shown"]).sum() > 100, name
    assert np.array_equal(found["stored"], found["shown"])
    upright.resize((60, 60)).save(tmp_path / "square.png")
    result = run("segment", "photo.png", "--mask", "square.png", *NANO, "--out", "no")
    assert result.exit_code == 1
    assert "photo.png is displayed with 64x96 pixels, but the mask square.png is for 60x60" in result.stderr
    assert not any((tmp_path / "no").iterdir())


@pytest.mark.parametrize(("labels", "has_note"), [(LABELS, False), (ONE * np.uint8(255), False), (LABELS, True)])
def test_a_note_on_void_beside_objects(tmp_path, capsys, labels, has_note):
    labels = labels.copy()
    if has_note:
        labels[:5] = 255
    file = tmp_path / "labels.png"
    file.write_bytes(label_png(labels))
    assert len(masks_of_labels(file)) == len(np.unique(labels)) - 1
    note = f"sam2fast: note: {file}: 255 becomes an object; if it marks void pixels, choose labels, as {file}:1\n"
    assert capsys.readouterr().err == note * has_note
