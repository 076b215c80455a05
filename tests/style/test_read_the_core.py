"""Compares docs/read_the_core.md with the files that it lists: their order and their numbers of lines."""

import re
from pathlib import Path

import numpy as np
import torch
from document_blocks import ROOT
from suite.calls import CONFIGS, Calls

from sam2fast.build_sam import build_sam2_video_predictor

PAGE = (ROOT / "docs" / "read_the_core.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "sam2fast"
LISTED = re.findall(r"^\| \d+ \| `([\w/.]+)` \| (\d+) \|", PAGE, re.MULTILINE)
LINES = {name: len((PACKAGE / name).read_text(encoding="utf-8").splitlines()) for name, _ in LISTED}


def test_lines_are_those_of_the_files_to_the_nearest_ten() -> None:
    wrong = {name: LINES[name] for name, stated in LISTED if abs(int(stated) - LINES[name]) > 10}
    assert wrong == {}


def test_the_core_is_read_in_an_afternoon() -> None:
    stated = re.search(r"^(\d+) files with fewer than ([\d,]+) lines in all", PAGE, re.MULTILINE)
    assert stated and int(stated[1]) == len(LISTED) == len(LINES)
    assert sum(LINES.values()) < int(stated[2].replace(",", "")) == 5000


def test_each_file_has_its_step_in_this_order() -> None:
    steps = re.findall(r"^### (\d+)\. .+?: (.+)$", PAGE, re.MULTILINE)
    assert [int(number) for number, _ in steps] == list(range(1, len(steps) + 1))
    rows = re.findall(r"^\| (\d+) \| `([\w/.]+)` \|", PAGE, re.MULTILINE)
    assert [(number, name) for number, names in steps for name in re.findall(r"`([\w/.]+)`", names)] == rows


def test_the_files_of_a_frame_are_listed_in_the_order_of_their_first_calls() -> None:
    """A frame that attends to all memories. nano at 64 pixels passes the same files as tiny at 256."""
    _, _, section = PAGE.partition("\n## A frame, file by file\n")
    section, _, _ = section.partition("\n## ")
    torch.manual_seed(0)
    overrides = ["++model.image_size=64"]
    model = build_sam2_video_predictor(CONFIGS["nano"], None, device="cpu", hydra_overrides_extra=overrides)
    state = model.init_state(list(np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)))
    model.add_new_points_or_box(state, 0, 1, [[32, 32]], [1])
    frames = model.propagate_in_video(state, progress=False)
    while next(frames)[0] < 7:
        pass
    with Calls() as calls:
        next(frames)
    found = [Path(file).relative_to(PACKAGE).as_posix() for file in calls.files]
    assert re.findall(r"^- `([\w/.]+)` ", section, re.MULTILINE) == found
    assert f"calls functions of {len(found)} files for each frame" in section


def test_what_is_skipped_exists_and_is_not_read() -> None:
    names = re.findall(r"^- ((?:`[\w/.]+`(?:,\s+)?)+)", PAGE.partition(" to skip\n")[2], re.MULTILINE)
    skipped = re.findall(r"`([\w/.]+)`", " ".join(names))
    assert len(skipped) > 20
    assert [name for name in skipped if not (PACKAGE / name).exists() or name in LINES] == []
