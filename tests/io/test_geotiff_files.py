"""TIFF files that GDAL writes, compared with the arrays of rasterio."""

from itertools import product

import numpy as np
import pytest
import rasterio
from rasterio.shutil import copy

from sam2fast.io.image_files import read_header, read_image, read_image_size

HEIGHT, WIDTH = 40, 48
ORDERS = ("ENDIANNESS=LITTLE", "ENDIANNESS=BIG")
LAYOUTS = ("INTERLEAVE=PIXEL", "INTERLEAVE=BAND")
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
BANDS = ("1", "3 PHOTOMETRIC=MINISBLACK", "3 PHOTOMETRIC=RGB")
TILES = "TILED=YES BLOCKXSIZE=16 BLOCKYSIZE=16"
OPTIONS = (
    *(f"COMPRESS={name}" for name in ("LZW", "DEFLATE", "PACKBITS", "ZSTD", "LZMA", "LERC")),
    *("BLOCKYSIZE=7", TILES, f"{TILES} SPARSE_OK=TRUE", "BIGTIFF=YES"),
)


def sample(step, *choices):
    """Returns every ``step``-th combination. The step divides no number of choices, so that all choices vary."""
    return [*product(*choices)][::step]


FILES = [
    *sample(13, DTYPES, ("2", "4", "5", *BANDS), LAYOUTS, ORDERS),
    *sample(17, ["uint8", "uint16", "float32"], BANDS, LAYOUTS, OPTIONS, ORDERS),
    *sample(7, ["uint8", "uint16", "int16"], BANDS, LAYOUTS, ["COMPRESS=LZW PREDICTOR=2"], ORDERS),
    *sample(7, ["float32", "float64"], BANDS, LAYOUTS, ["COMPRESS=DEFLATE PREDICTOR=3"], ORDERS),
    *sample(7, ["uint8"], BANDS, LAYOUTS, [f"NBITS={bits}" for bits in (1, 2, 3, 4, 7)]),
    *sample(7, ["uint16"], BANDS, LAYOUTS, [f"NBITS={bits}" for bits in (9, 10, 12, 14)]),
    *sample(7, ["uint8", "uint16", "float32"], ["4 PHOTOMETRIC=RGB"], ["ALPHA=YES", "ALPHA=NO"], LAYOUTS, ORDERS),
    *sample(5, ["uint8", "uint16"], ["1"], ["PHOTOMETRIC=MINISWHITE", "PHOTOMETRIC=PALETTE"], LAYOUTS,
            ["COMPRESS=NONE", "COMPRESS=LZW"], ORDERS),
    *sample(3, ["uint8"], ["4 PHOTOMETRIC=CMYK"], LAYOUTS, ["COMPRESS=LZW", "BIGTIFF=YES"], ORDERS),
    *sample(3, ["uint8"], "13", LAYOUTS, ["COMPRESS=JPEG BLOCKYSIZE=16", f"COMPRESS=JPEG {TILES}"]),
    *product(["uint8"], ["3 COMPRESS=JPEG PHOTOMETRIC=YCBCR"], ["", TILES, f"{TILES} SPARSE_OK=TRUE"]),
    ("uint8", "3 PHOTOMETRIC=RGB", f"COMPRESS=DEFLATE {TILES} SPARSE_OK=TRUE"),
    *product(["uint8"], ["3 COMPRESS=WEBP WEBP_LOSSLESS=YES"], ["", TILES]),
]  # fmt: skip
COLOURS = np.stack([np.arange(1 << 16) % 256, np.arange(1 << 16) // 256, np.arange(1 << 16) * 7 % 256], axis=1)


def ramps(dtype, bands, bits):
    """Returns different ramps for all bands, ``(bands, H, W)``. ``bits`` is 0 for the whole range of a type."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    shares = np.stack([(band + 1) * y + (bands - band) * x for band in range(bands)]) / (bands + 1) / WIDTH
    if dtype.startswith("float"):
        return (2 * shares - 1).astype(dtype)
    least, most = np.iinfo(dtype).min, (1 << bits) - 1 if bits else np.iinfo(dtype).max
    if dtype == "uint16" and not bits:
        most = 10_000  # the reader takes 8 bits of colours that use the whole range
    return (least + shares * (most - least)).astype(dtype)


def write_geotiff(path, dtype, bands, **options):
    values = ramps(dtype, bands, int(options.get("NBITS", 0)))
    if "SPARSE_OK" in options:
        values[:, :16, :16] = 0  # GDAL does not store this tile
    shape = {"width": WIDTH, "height": HEIGHT, "count": bands, "dtype": dtype}
    with rasterio.open(path, "w", "GTiff", transform=rasterio.Affine.scale(2, -2), **shape, **options) as file:
        if options.get("PHOTOMETRIC") == "PALETTE":
            count = np.iinfo(dtype).max + 1
            file.write_colormap(1, dict(enumerate(map(tuple, COLOURS[:count].tolist()))))
        file.write(values)


def expected_values(path, photometric=None, bits=8):
    """Returns the first band or the first three of rasterio's array, ``(H, W, bands)``, with 0 as black."""
    with rasterio.open(path) as file:
        bands = np.moveaxis(file.read(), 0, -1)
    bands = bands[..., :3] if bands.shape[2] >= 3 else bands[..., :1]
    if photometric == "PALETTE":
        return COLOURS[bands[..., 0]]
    if photometric == "MINISWHITE":
        return np.iinfo(bands.dtype).max - bands
    return np.rint(bands * (255 / ((1 << bits) - 1))) if bits < 8 else bands


def assert_same_values(image, expected, tolerance=0):
    values = np.iinfo(image.values.dtype).max - image.values if image.is_negative else image.values
    assert np.abs(values.reshape(HEIGHT, WIDTH, -1).astype(np.float64) - expected).max() <= tolerance


@pytest.mark.parametrize("file", [" ".join(filter(None, words)) for words in FILES])
def test_values_are_those_of_rasterio(tmp_path, caplog, file):
    dtype, bands, *words = file.split()
    options = dict(word.split("=") for word in words)
    path = tmp_path / "image.tif"
    write_geotiff(path, dtype, int(bands), **options)
    assert not caplog.messages  # GDAL knows all options
    assert read_image_size(path) == (WIDTH, HEIGHT)
    expected = expected_values(path, options.get("PHOTOMETRIC"), int(options.get("NBITS", 8)))
    assert_same_values(read_image(path), expected, 3 if "JPEG" in file else 1 if "CMYK" in file else 0)


@pytest.mark.parametrize("driver", ["GTiff", "COG"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_overviews_and_masks_are_no_images(tmp_path, layout, driver):
    path, path_of_copy = tmp_path / "image.tif", tmp_path / "copy.tif"
    write_geotiff(path, "uint16", 3, **dict([layout.split("=")]))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        with rasterio.open(path, "r+") as file:
            file.write_mask(ramps("uint8", 1, 0)[0] > 99)
            file.build_overviews([2, 4])
        copy(path, path_of_copy, driver=driver, COPY_SRC_OVERVIEWS="YES")
    image = read_image(path_of_copy)
    assert len(read_header(path_of_copy).pages) == 6
    assert image.page == (1, 1)
    assert_same_values(image, expected_values(path_of_copy))
