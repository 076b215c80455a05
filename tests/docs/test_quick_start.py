"""The quick start's prompts give the whole ball with mini, the model that the page names."""

from pathlib import Path

import numpy as np
import pytest
from document_blocks import Command, blocks_of, commands
from document_commands import run_sam2fast
from numpy.typing import NDArray
from PIL import Image

BALL = 3  # its label in the clip's annotations
STEPS = ("synthesize", "segment", "track")  # the first command of each kind


def read_mask(file: Path, label: int) -> NDArray[np.bool_]:
    return np.asarray(Image.open(file)) == label


def test_the_whole_ball(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = [
        command for block in blocks_of("shell") if block.file == "docs/quick_start.md" for command in commands(block)
    ]
    for step in STEPS:
        command = next(one for one in page if one.words[:2] == ["sam2fast", step])
        run_sam2fast(Command(command.where, [*command.words, *([] if step == "synthesize" else ["--model", "mini"])]))
    found = [read_mask(Path("out/picked/00000_mask.png"), 255)]
    found += [read_mask(file, 1) for file in sorted(Path("out/ball/masks").iterdir())]
    truth = [read_mask(file, BALL) for file in sorted(Path("clips/Annotations/00001").iterdir())]
    assert len(found) == 9
    for mask, expected in zip(found, [truth[0], *truth], strict=True):
        assert (mask & expected).sum() > 0.9 * (mask | expected).sum()
