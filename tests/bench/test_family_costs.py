"""SAM 2's relatives are timed beside their published code, here beside the official package, and rows are kept."""

import json
from functools import cache

import family_costs
import pytest
from family_models import MEDSAM2, hiera, package
from parity import NothingDrawn


def test_rows(monkeypatch, tmp_path):
    assert package() == "official"
    monkeypatch.setattr(family_costs, "FULL", 3)
    built = cache(lambda size: hiera(MEDSAM2, size))
    monkeypatch.setitem(family_costs.MODELS, "official", {"medsam2": (128, built), "tiny": (128, built)})
    with NothingDrawn():
        for model in ("tiny", "medsam2", "tiny"):
            family_costs.main(["--model", model, "--runs", "2", "--out", f"{tmp_path}"])
    (file,) = tmp_path.iterdir()
    report = json.loads(file.read_text())
    assert file.name.startswith("family-cpu-") and report["machine"]["torch"]
    assert [row["model"] for row in report["rows"]] == ["medsam2", "tiny"]
    for row in report["rows"]:
        assert row["image_size"] == 128 and 0 < row["difference"] < 1e-4
        for part in ("encode", "frame"):
            samples, median = row[f"{part}_samples_s"], row[f"{part}_s"]
            assert all(len(samples[who]) == 2 and min(samples[who]) <= median[who] for who in ("theirs", "ours"))
            assert row[f"{part}_ratio"] == pytest.approx(median["theirs"] / median["ours"])
