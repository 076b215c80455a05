"""JSON in the documents has the keys that the commands write and read."""

import json
from pathlib import Path
from typing import Any

import pytest
from document_blocks import Block, as_json, blocks_of
from document_commands import Line
from document_pages import run_sam2fast

from sam2fast.cli.object_prompts import read_object_file

BLOCKS = blocks_of("json")


def block_of(file: str, beginning: str) -> Block:
    (found,) = [block for block in BLOCKS if block.file == file and block.text.startswith(beginning)]
    return found


# In the order of the tests below; a new example needs an entry.
SEGMENTED = block_of("docs/formats.md", '{"image"')
OBJECTS = block_of("docs/commands.md", '{"prompts"')
PROMPTS = block_of("docs/video.md", '{"prompts"')
TRACKED = block_of("docs/video.md", '{"frame"')
VIDEO_LINE = block_of("docs/datasets.md", '{"format"')
FRAME_LINE = block_of("docs/datasets.md", '{"frame"')
# Where a mask overlaps another one, which docs/video.md says below its example.
NOT_ALWAYS = {"visible"}


def test_all_are_compared() -> None:
    assert set(BLOCKS) == {SEGMENTED, OBJECTS, PROMPTS, TRACKED, VIDEO_LINE, FRAME_LINE}


def check(shown: Any, written: Any, where: str, all_keys: bool) -> None:
    """Checks that both have the same types and keys, or the shown keys if the text says that there are more."""
    assert type(shown) is type(written), f"{where}: {shown!r} is shown, and {written!r} is written"
    if isinstance(shown, dict):
        # Parts that an example leaves out by `...` are ignored.
        named = set(written) - NOT_ALWAYS if all_keys and shown else set(shown)
        assert set(shown) == named <= set(written), f"{where}: {sorted(shown)} are shown, {sorted(written)} written"
        for key, value in shown.items():
            check(value, written[key], f"{where}, {key}", all_keys)
    if isinstance(shown, list) and shown:
        check(shown[0], written[0], f"{where}[0]", all_keys)


def lines_in(file: str) -> list[Any]:
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def run(text: str) -> None:
    run_sam2fast(Line("tests/docs/test_outputs.py", text, tuple(text.split()), {}))


@pytest.mark.long
def test_segment(stage: Path) -> None:
    run("sam2fast segment photo.jpg --point 60,40 --out out")
    check(as_json(SEGMENTED.text), json.loads(Path("out/photo.json").read_text()), SEGMENTED.where, all_keys=False)


def test_objects_of_segment(tmp_path: Path) -> None:
    """The document's own file of prompts is read, and has every key."""
    (tmp_path / "objects.json").write_text(OBJECTS.text)
    (read,) = read_object_file(tmp_path / "objects.json")
    assert (read.name, read.image) == ("cup", "a.jpg")
    assert read.prompts.clicks and read.prompts.box is not None and read.prompts.mask is not None


@pytest.mark.long
def test_track(stage: Path) -> None:
    """With the document's own file of prompts."""
    Path("shown.json").write_text(PROMPTS.text)
    run("sam2fast track clip.mp4 --prompts shown.json --out out")
    last = lines_in("out/masks.jsonl")[-1]
    assert [found["id"] for found in last["objects"]] == [1, "dog"]
    last["objects"].reverse()
    check(as_json(TRACKED.text), last, TRACKED.where, all_keys=True)


@pytest.mark.long
def test_lines_of_a_data_set(stage: Path) -> None:
    run("sam2fast dataset convert DAVIS lines --to coco-jsonl")
    first, second, *_ = lines_in("lines/bear.jsonl")
    for block, line in ((VIDEO_LINE, first), (FRAME_LINE, second)):
        check(as_json(block.text), line, block.where, all_keys=True)
