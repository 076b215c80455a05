"""``sam2fast segment``: invalid inputs and outputs; no partial results stay."""

import io
import os

import numpy as np
import pytest
from commands import assert_one_line
from PIL import Image

POINT = ["--point", "1,1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--point, --box or --mask"),
        (["--point", "5"], "'5' is not X,Y[,LABEL]"),
        (["--point", "5,six"], "not X,Y[,LABEL]"),
        (["--point", "1,2,1,4"], "not X,Y[,LABEL]"),
        (["--point", "nan,2"], "not X,Y[,LABEL]"),
        (["--point", "1,2,7"], "the label is 7"),
        (["--point", "1,2,-1"], "the label is -1"),
        (["--box", "1,2,3"], "not X0,Y0,X1,Y1"),
        (["--box", "9,9,1,1"], "wrong way round"),
        (["--box", "1,1,9,9", "--box", "2,2,8,8"], "one --box"),
        (["--point", "1,1", "--dtype", "int8"], "--dtype"),
    ],
)
def test_usage_errors(run, make_image, arguments, message):
    result = run("segment", make_image(), *arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert message in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.png", *POINT], "no file 'nowhere.png'"),
        (["image.png", "--mask", "rough.png"], "no file 'rough.png'"),
        (["image.png", "--mask", "black.png"], "black.png is empty"),
        (["image.png", *POINT, "--out", "image.png"], "'image.png' is a file"),
    ],
)
def test_unusable_files(run, make_image, tmp_path, model, arguments, message):
    make_image()
    Image.new("L", (9, 9)).save(tmp_path / "black.png")
    assert message in assert_one_line(run("segment", *arguments, *model.small))
    assert not list(tmp_path.glob("out/*"))


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


@pytest.mark.parametrize("names", [("a/x.png", "b/x.png"), ("x.png", "x.jpg"), ("x.png", "x.png"), ("x.png", "X.jpg")])
def test_same_names(run, make_image, tmp_path, names):
    result = run("segment", *map(make_image, names), "--point", "1,1")
    assert result.exit_code == 2 and "overwrite one another" in result.stderr
    assert not (tmp_path / "out").exists()


def test_inputs_are_not_overwritten(run, make_image, tmp_path):
    image, mask = make_image(), make_image("image_mask.png")
    before = mask.read_bytes()
    for arguments in ([image, "--mask", mask], [image, mask, "--point", "1,1"]):
        result = run("segment", *arguments, "--out", tmp_path)
        assert result.exit_code == 2 and "would overwrite an input" in result.stderr
    assert mask.read_bytes() == before


def test_no_partial_file_stays(run, make_image, tmp_path, model):
    """A folder with the name of one result makes writing it fail at the last step."""
    (tmp_path / "out/image_overlay.png").mkdir(parents=True)
    assert_one_line(run("segment", make_image(), "--point", "1,1", *model.small))
    assert sorted(os.listdir(tmp_path / "out")) == ["image_mask.png", "image_overlay.png"]
