"""Image files with more than 8 bits or three bands, as inputs of commands."""

import json

import numpy as np
import pytest
import tifffile
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
        result = run("segment", bands, *CLICK, "--out", tmp_path / "out", "--json", *more)
        assert result.exit_code == 0, result.stderr
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


def test_masks(run, bands, tmp_path):
    result = run("masks", bands, "--points-per-side", 2, "--model", "nano", "--out", tmp_path / "out", "--format",
                 "json,labelme", "--tolerance", 0)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    (image,) = json.loads((tmp_path / "out/masks.json").read_text())["images"]
    assert image["bands"]["of"] == 7 and image["scale"]["white"] > 5900
    assert json.loads((tmp_path / "out/labelme/bands.json").read_text())["imagePath"] == "bands.png"


def test_a_folder_of_frames(run, tmp_path):
    (tmp_path / "frames").mkdir()
    for index, most in enumerate((2000, 8000)):
        values = np.full(SIZE, most // 4, np.uint16)
        values[15:45, 20:60] = most
        Image.fromarray(values).save(tmp_path / f"frames/{index}.png")
    result = run("track", tmp_path / "frames", "--point", "0,1,40,30", "--model", "nano", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stderr.split())
    assert said.count("values are scaled so that 0 is black and 8000 is white; all frames have this scale") == 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_max_megapixels_raises_the_limit(run, tmp_path, monkeypatch, suffix):
    Image.new("L", (1500, 1000)).save(tmp_path / f"large.{suffix}")
    monkeypatch.setattr("sam2fast.io.images.MOST_PIXELS", 1_000_000)
    refused = run("segment", tmp_path / f"large.{suffix}", *CLICK, "--out", tmp_path / "out")
    assert refused.exit_code == 1
    assert "1500x1000 pixels, more than 1 million; --max-megapixels 2" in " ".join(refused.stderr.split())
    read = run("segment", tmp_path / f"large.{suffix}", *CLICK, "--out", tmp_path / "out", "--max-megapixels", 2)
    assert read.exit_code == 0, read.stderr
    again = run("segment", tmp_path / f"large.{suffix}", *CLICK, "--out", tmp_path / "out")
    assert again.exit_code == 1  # the option is of one command
