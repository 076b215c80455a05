"""``examples/make_models/mini_agreement.py`` with nano in the place of every model."""

import json
import sys

import mini_agreement
import pytest
from parity import random_image
from PIL import Image

from sam2fast import SAM2ImagePredictor, nano


@pytest.fixture
def one_model(monkeypatch):
    """nano's confident masks are its own ground truth."""
    predictor = SAM2ImagePredictor.from_pretrained("sam2fast/nano", device="cpu")
    monkeypatch.setattr(mini_agreement, "candidates", lambda tiny, image: {"nano": predictor})
    monkeypatch.setattr(mini_agreement, "build_sam2", lambda *args, **kwargs: predictor.model)
    monkeypatch.setattr(mini_agreement, "LEAST_SCORE", 0.0)
    monkeypatch.setattr(mini_agreement, "LEAST_STABILITY", 0.0)


def test_a_stopped_run_goes_on(tmp_path, monkeypatch, capsys, one_model):
    for name in ("a.png", "b.png"):
        Image.fromarray(random_image(64, 96)).save(tmp_path / name)
    monkeypatch.setattr(mini_agreement, "NAMES", tmp_path / "names.txt")
    (tmp_path / "names.txt").write_text("a.png\nb.png\n")
    out = tmp_path / "rows.jsonl"
    command = ["", "--photographs", str(tmp_path), "--tiny", str(nano.WEIGHTS), "--image", "", "--out", str(out)]
    for options in (["--count", "1"], [], []):
        monkeypatch.setattr(sys, "argv", [*command, *options])
        mini_agreement.main()
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["photograph"] for row in rows] == ["a.png", "b.png"]
    assert all(row["clicks"] and row["nano"] == [[1.0, 1.0]] * len(row["clicks"]) for row in rows)
    assert capsys.readouterr().out.splitlines()[-1].split() == ["nano", "100.0", "/", "100.0"]
