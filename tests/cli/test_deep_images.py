"""Image files with more than 8 bits or three bands, as inputs of commands."""

import json

import numpy as np
import pytest
import tifffile
from commands import ok
from PIL import Image

SIZE = 60, 80
CLICK = ("--point", "40,30", "--model", "nano")


@pytest.fixture
def bands(tmp_path):
    """Seven bands of reflectances to 6,000 in separate planes, and a pixel of a cloud."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 3000, (7, *SIZE)).astype(np.uint16)
    values[:, 15:45, 20:60] += 3000
    values[0, 0, 0] = 12_000
    tifffile.imwrite(tmp_path / "bands.tif", values, photometric="minisblack", planarconfig="separate", metadata=None)
    return tmp_path / "bands.tif"


def test_segment_reports_bands_and_scale(run, bands, tmp_path):
    for more in ((), ("--resume",)):
        result = ok(run("segment", bands, *CLICK, "--out", tmp_path / "out", "--json", *more))
        (record,) = json.loads(result.stdout)["results"]
        assert record["bands"] == {"numbers": [1, 2, 3], "of": 7}
        assert record["scale"]["black"] == 0 and 5900 < record["scale"]["white"] < 9000
        assert "page" not in record
        if not more:
            assert "bands.tif is band 1, 2, 3 of 7 as red, green and blue; it has values from 0 to 12000" in (
                " ".join(result.stderr.split())
            )
    overlay = np.asarray(Image.open(tmp_path / "out/bands_overlay.png"))
    assert overlay.mean() > 60


def test_boxes_for_another_size(run, bands, tmp_path):
    """Annotations of an image of half the size."""
    document = {
        "images": [{"id": 1, "file_name": "bands.tif", "height": SIZE[0] // 2, "width": SIZE[1] // 2}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 8, 20, 15]}],
        "categories": [{"id": 1, "name": "field"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    result = ok(run("segment", bands, "--boxes-from", tmp_path / "boxes.json", "--model", "nano", "--out",
                 tmp_path / "out", "--json"))  # fmt: skip
    (record,) = json.loads(result.stdout)["results"]
    assert record["prompts"]["box"] == [20, 16, 60, 46]


def test_masks(run, bands, tmp_path):
    ok(run("masks", bands, "--points-per-side", 2, "--model", "nano", "--out", tmp_path / "out", "--format",
                 "json,labelme", "--tolerance", 0))  # fmt: skip
    (image,) = json.loads((tmp_path / "out/masks.json").read_text())["images"]
    assert image["bands"]["of"] == 7 and image["scale"]["white"] > 5900
    assert json.loads((tmp_path / "out/labelme/bands.json").read_text())["imagePath"] == "bands.png"


FRAMES = np.full((2, *SIZE), 500, np.uint16)
FRAMES[0, 15:45, 20:60], FRAMES[1, 15:45, 20:60] = 2000, 8000


@pytest.mark.parametrize("more", [(), ("--stream",)])
def test_a_folder_of_frames(run, tmp_path, more):
    """The note and the results name the scale, also if the run is complete."""
    (tmp_path / "frames").mkdir()
    for index, values in enumerate(FRAMES):
        Image.fromarray(values).save(tmp_path / f"frames/{index}.png")
    for attempt in range(2):
        options = ["--point", "0,1,40,30", "--model", "nano", "--out", tmp_path / "out", "--jsonl", *more]
        result = ok(run("track", tmp_path / "frames", *options))
        said = " ".join(result.stderr.split())
        is_new = attempt == 0
        assert said.count("scaled so that 0 is black and 8000 is white; all frames have this scale") == is_new
        manifest = json.loads((tmp_path / "out/track.json").read_text())
        (line,) = [found for found in map(json.loads, result.stdout.splitlines()) if "out" in found]
        for record in (manifest, line):
            assert record["scale"] == {"black": 0, "white": 8000}
            assert not {"page", "bands"} & {*record}


def test_pages_and_bands_of_frames(run, tmp_path):
    """All pages of one file are frames; of the files of a folder, one page is."""
    frames = FRAMES[:, None].repeat(5, axis=1)
    options = {"photometric": "minisblack", "planarconfig": "separate", "metadata": None}
    (tmp_path / "frames").mkdir()
    for file in ("stack.tif", "frames/0.tif", "frames/1.tif"):
        tifffile.imwrite(tmp_path / file, frames, **options)
    for video, page in (("stack.tif", None), ("frames", {"number": 1, "of": 2})):
        out = tmp_path / f"out {video}"
        result = ok(run("track", tmp_path / video, "--point", "0,1,40,30", "--model", "nano", "--out", out))
        assert "sound" not in result.stderr
        record = json.loads((out / "track.json").read_text())
        assert record["bands"] == {"numbers": [1, 2, 3], "of": 5} and record.get("page") == page
        assert record["scale"]["white"] == (8000 if page is None else 2000)
        assert ("a frame is page 1 of 2; it is band 1, 2, 3 of 5" in " ".join(result.stderr.split())) == bool(page)


def test_one_image_is_no_video(run, tmp_path):
    """Also if only tifffile reads it, or its pages are the channels of one image."""
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((*SIZE, 3), np.float32), photometric="rgb")
    tifffile.imwrite(tmp_path / "channels.tif", FRAMES, imagej=True, metadata={"axes": "CYX"})
    for name in ("float.tif", "channels.tif"):
        result = run("track", tmp_path / name, "--point", "0,1,40,30", "--model", "nano", "--out", tmp_path / "out")
        assert result.exit_code == 1
        assert f"{name} is an image: use `sam2fast segment`" in " ".join(result.stderr.split())


def test_words_of_libraries(run, tmp_path):
    """Damaged metadata, on which Pillow warns and tifffile logs."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\x87\x69\0\x04\0\0\0\x01\0\0\xff\0"
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "a.jpg", exif=exif)
    values = np.full((*SIZE, 3), 0.7, np.float32)
    tifffile.imwrite(tmp_path / "b.tif", values, photometric="rgb", extratags=[(42113, "s", 0, "-3.4e+38", True)])
    result = run("segment", tmp_path / "a.jpg", tmp_path / "b.tif", *CLICK, "--out", tmp_path / "out")
    assert result.exit_code == 0 and result.stderr == ""


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_max_megapixels_raises_the_limit(run, tmp_path, monkeypatch, suffix):
    Image.new("L", (1500, 1000)).save(tmp_path / f"large.{suffix}")
    monkeypatch.setattr("sam2fast.io.images.MOST_PIXELS", 1_000_000)
    refused = run("segment", tmp_path / f"large.{suffix}", *CLICK, "--out", tmp_path / "out")
    assert refused.exit_code == 1
    message = " ".join(refused.stderr.split())
    assert "1500x1000 pixels, more than 1 million; raise the limit by --max-megapixels 2" in message
    ok(run("segment", tmp_path / f"large.{suffix}", *CLICK, "--out", tmp_path / "out", "--max-megapixels", 2))
    again = run("segment", tmp_path / f"large.{suffix}", *CLICK, "--out", tmp_path / "out")
    assert again.exit_code == 1  # the option is of one command
