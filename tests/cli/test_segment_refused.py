"""``sam2fast segment``: invalid inputs and outputs; no partial results stay."""

import io
import os

import numpy as np
import pytest
from commands import assert_one_line
from PIL import Image

POINT = ["--point", "1,1"]


def damaged_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()[:1500]


@pytest.mark.parametrize("content", [b"not an image", b"", damaged_jpeg()], ids=["text", "empty", "cut short"])
def test_not_an_image(run, tmp_path, model, content):
    (tmp_path / "x.jpg").write_bytes(content)
    assert "x.jpg" in assert_one_line(run("segment", tmp_path / "x.jpg", "--point", "1,1", *model.small))
    assert os.listdir(tmp_path / "out") == []


def test_results_before_a_failing_image_stay(run, make_image, tmp_path, model):
    (tmp_path / "b.png").write_bytes(b"no image")
    result = run(
        "segment", make_image("a.png"), tmp_path / "b.png", make_image("c.png"), "--point", "1,1", *model.small
    )
    assert_one_line(result)
    assert sorted(os.listdir(tmp_path / "out")) == ["a.json", "a_mask.png", "a_overlay.png"]


def test_no_partial_file_stays(run, make_image, tmp_path, model):
    """A folder with the name of one result makes writing it fail at the last step."""
    (tmp_path / "out/image_overlay.png").mkdir(parents=True)
    assert_one_line(run("segment", make_image(), "--point", "1,1", *model.small))
    assert sorted(os.listdir(tmp_path / "out")) == ["image_mask.png", "image_overlay.png"]
