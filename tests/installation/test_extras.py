"""Features that need an extra name it if its package is missing; matrix.py checks all of them without any extra."""

import sys

import pytest

from sam2fast.demo.clip import encode_mp4
from sam2fast.io.rle import rasterise_polygons
from sam2fast.profiling.report import draw


@pytest.mark.parametrize(
    ("package", "extra", "call"),
    [
        ("av", "video", lambda: encode_mp4([])),
        ("matplotlib.figure", "profile", lambda: draw(None)),
        ("pycocotools", "eval", lambda: rasterise_polygons([[0, 0, 9, 0, 9, 9]], (9, 9))),
    ],
)
def test_the_extra_is_named(package, extra, call, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"pip install 'sam2fast\[{extra}\]'"):
        call()
