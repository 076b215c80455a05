"""Files that are not images: an error names the kind of file, and what to do."""

import gzip
import io

import numpy as np
import pytest
from parity import random_image
from PIL import Image

from sam2fast.transforms import ImageError, to_pixels


def saved(image_format):
    file = io.BytesIO()
    Image.fromarray(random_image(20, 30)).save(file, image_format)
    return file.getvalue()


def numpy_file():
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
OTHERS = {
    "SVG": (SVG, "it is an SVG drawing: convert it to PNG"),
    "SVG with a header": (b'<?xml?>\n<!-- a -->\n<!DOCTYPE svg [ <!ENTITY a "b"> ]>\n' + SVG, "an SVG drawing"),
    "comments only": (b"<!---->" * 200, "a web page"),  # a pattern that backtracks would take years
    "PDF": (saved("PDF"), "a PDF or PostScript document: export its image or page as PNG"),
    "CR2": (b"II*\0\x10\0\0\0CR\x02\0" + bytes(99), "a camera's raw file: convert it to PNG, TIFF"),
    "CR3": (b"\0\0\0\x18ftypcrx \0\0\0\x01", "a camera's raw file"),
    "JPEG XL": (b"\xff\x0a" + bytes(99), "an image in a format that is not supported: convert it"),
    "Office": (b"PK\x03\x04" + bytes(99), "a ZIP archive or an Office document: unpack it"),
    "SVGZ": (gzip.compress(SVG), "a packed file: unpack it"),
    "NumPy": (numpy_file(), "a NumPy array: load it by numpy.load in Python"),
    "DICOM": (bytes(128) + b"DICM", "a DICOM file: `sam2fast track` reads it"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5 files are not supported; convert the image to PNG"),
    "video": (b"\x1aE\xdf\xa3" + bytes(99), "a video: `sam2fast track` reads it"),
    "web page": (b"\n<!DOCTYPE html><html>", "a web page: download the file that the page links to"),
    "empty": (b"", "an empty file: copy or download it again"),
    "text": (b'{"error": "denied"}', "a text file"),
    "damaged HEIC": (b"\0\0\0\x18ftypheic" + bytes(99), "cannot identify the image$"),
    "other": (bytes(99), "cannot identify the image$"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files(name, tmp_path):
    content, word = OTHERS[name]
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    for file, named in ((path, str(path)), (content, "the data"), (io.BytesIO(content), "the data")):
        with pytest.raises(ImageError, match=f"{named} cannot be read as an image: .*{word}"):
            to_pixels(file)
