"""``sam2fast segment``: invalid inputs and outputs; no partial results stay."""

import io
import os

import numpy as np
import pytest
from commands import assert_one_line
from PIL import Image


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--point, --box or --mask"),
        (["--point", "5"], "'5' is not X,Y[,LABEL]"),
        (["--point", "5,six"], "not X,Y[,LABEL]"),
        (["--point", "1,2,1,4"], "not X,Y[,LABEL]"),
        (["--point", "nan,2"], "not X,Y[,LABEL]"),
        (["--point", "1,2,7"], "label 7; expected 1"),
        (["--point", "1,2,-1"], "label -1; expected 1"),
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


def test_no_image(run):
    assert run("segment", "--point", "1,1").exit_code == 2


def test_missing_image(run, tmp_path, model):
    assert "nowhere.png" in assert_one_line(run("segment", "nowhere.png", "--point", "1,1", *model.small))
    assert not (tmp_path / "out").exists()


def test_missing_mask(run, make_image, model):
    assert "rough.png" in assert_one_line(run("segment", make_image(), "--mask", "rough.png", *model.small))


def test_black_mask(run, make_image, tmp_path, model):
    Image.new("L", (9, 9)).save(tmp_path / "black.png")
    error = assert_one_line(run("segment", make_image(), "--mask", tmp_path / "black.png", *model.small))
    assert "black.png is empty" in error


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


def test_output_folder_is_a_file(run, make_image, tmp_path, model):
    (tmp_path / "taken").write_text("here")
    error = assert_one_line(run("segment", make_image(), "--point", "1,1", "--out", "taken", *model.small))
    assert "'taken' is a file" in error


def test_no_partial_file_stays(run, make_image, tmp_path, model):
    """A folder with the name of one result makes writing it fail at the last step."""
    (tmp_path / "out/image_overlay.png").mkdir(parents=True)
    assert_one_line(run("segment", make_image(), "--point", "1,1", *model.small))
    assert sorted(os.listdir(tmp_path / "out")) == ["image_mask.png", "image_overlay.png"]


def test_results_have_the_permissions_of_other_files(run, make_image, tmp_path, model):
    assert run("segment", make_image(), "--point", "1,1", *model.small).exit_code == 0
    (tmp_path / "other").touch()
    assert (tmp_path / "out/image.json").stat().st_mode == (tmp_path / "other").stat().st_mode
