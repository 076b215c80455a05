"""End to end: a small model overfits eight clips."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from small_training import reports

from sam2fast.cli import main


@pytest.mark.slow
def test_eight_clips_are_overfitted(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["train", "-c", "nano/sam2fast_nano_overfit", f"scratch.folder={tmp_path}", "--threads", "2"]
    )
    assert result.exit_code == 0, result.output
    losses = [line["loss"] for line in reports(tmp_path, "train")]
    assert sum(losses[-5:]) / 5 < losses[0] / 10
    assert reports(tmp_path, "val")[0]["J&F"] > 95
