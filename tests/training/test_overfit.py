"""End to end: a small model overfits eight clips."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from small_training import AUXILIARY, RECIPE, reports

from sam2fast.cli import main


@pytest.mark.slow
def test_eight_clips_are_overfitted(tmp_path: Path) -> None:
    command = ["train", "-c", RECIPE, "--threads", "2", "--allow-target", "dense_auxiliary"]
    result = CliRunner().invoke(main, [*command, AUXILIARY, f"scratch.folder={tmp_path}"])
    assert result.exit_code == 0, result.output
    losses = [line["loss"] for line in reports(tmp_path, "train")]
    assert sum(losses[-5:]) / 5 < losses[0] / 10
    assert reports(tmp_path, "val")[0]["J&F"] > 95
