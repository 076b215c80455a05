"""End to end: a small model overfits eight clips."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sam2fast.cli import main


@pytest.mark.slow
def test_eight_clips_are_overfitted(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["train", "-c", "nano/sam2fast_nano_overfit", f"scratch.folder={tmp_path}", "--threads", "2"]
    )
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (tmp_path / "logs/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    measures = next(line for line in lines if line["kind"] == "val")
    assert sum(losses[-5:]) / 5 < losses[0] / 10
    assert measures["J&F"] > 95
