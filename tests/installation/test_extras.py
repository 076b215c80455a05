"""What needs an extra says which, where its package is missing; matrix.py asks all of them where none is installed."""

import sys

import pytest

from sam2fast.demo.film import encode_film
from sam2fast.io.polygons import rasterise_polygons
from sam2fast.profiling.report import draw


@pytest.mark.parametrize(
    ("package", "extra", "call"),
    [
        ("av", "video", lambda: encode_film([])),
        ("matplotlib.figure", "profile", lambda: draw(None)),
        ("pycocotools", "eval", lambda: rasterise_polygons([[0, 0, 9, 0, 9, 9]], (9, 9))),
    ],
)
def test_the_extra_is_named(package, extra, call, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"pip install 'sam2fast\[{extra}\]'"):
        call()
