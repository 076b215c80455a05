"""JSON in the documents has the keys that the commands write and read."""

import json
import re
from pathlib import Path
from typing import Any

from document_blocks import Command, blocks_of
from document_commands import run_sam2fast

from sam2fast.cli.prompt_texts import read_prompt_file

# Where a mask overlaps another one, which docs/video.md says below its example.
NOT_ALWAYS = {"visible"}


def example(page: str, key: str) -> str:
    (found,) = [x for x in blocks_of("json") if x.file == f"docs/{page}.md" and x.text.startswith(f'{{"{key}"')]
    return found.text


def test_all_are_compared() -> None:
    """A new example needs a test."""
    assert len(blocks_of("json")) == 6


def check(shown: str, written: Any, all_keys: bool = True) -> None:
    """Checks that both have the same types and keys, or the shown keys if the text says that there are more."""
    compare(json.loads(re.sub(r"(, )?\.\.\.(?=[\]}])", "", shown)), written, all_keys)


def compare(shown: Any, written: Any, all_keys: bool) -> None:
    assert type(shown) is type(written), f"{shown!r} is shown, and {written!r} is written"
    if isinstance(shown, dict):
        # Parts that an example leaves out by `...` are ignored.
        assert set(shown) == (set(written) - NOT_ALWAYS if all_keys and shown else set(shown) & set(written))
        for key, value in shown.items():
            compare(value, written[key], all_keys)
    if isinstance(shown, list) and shown:
        compare(shown[0], written[0], all_keys)


def run(text: str, result: str) -> str:
    """The text of a file that the command writes."""
    run_sam2fast(Command(__name__, text.split()))
    return Path(result).read_text()


def test_segment(stage: Path) -> None:
    written = run("sam2fast segment photo.jpg --point 60,40 --out out", "out/photo.json")
    check(example("formats", "image"), json.loads(written), all_keys=False)


def test_objects_of_segment(tmp_path: Path) -> None:
    """The document's own file of prompts is read, and has every key."""
    (tmp_path / "objects.json").write_text(example("commands", "prompts"))
    (read,) = read_prompt_file(tmp_path / "objects.json", "image")
    assert (read.object, read.image.text) == ("cup", "a.jpg")
    assert read.clicks and read.box is not None and read.mask is not None


def test_track(stage: Path) -> None:
    """With the document's own file of prompts."""
    Path("shown.json").write_text(example("video", "prompts"))
    last = json.loads(run("sam2fast track clip.mp4 --prompts shown.json --out out", "out/masks.jsonl").splitlines()[-1])
    assert [found["id"] for found in last["objects"]] == [1, "dog"]
    last["objects"].reverse()
    check(example("video", "frame"), last)


def test_lines_of_a_data_set(stage: Path) -> None:
    lines = run("sam2fast dataset convert DAVIS lines --to coco-jsonl", "lines/bear.jsonl").splitlines()
    check(example("datasets", "format"), json.loads(lines[0]))
    check(example("datasets", "frame"), json.loads(lines[1]))
