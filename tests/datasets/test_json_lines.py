"""Files of JSON lines: errors in them, and files of ``sam2fast track``."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from annotated_videos import HEIGHT, WIDTH, random_masks, random_video

from sam2fast.datasets.conversion import ConvertJob, convert_video
from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.datasets.json_lines import JsonLines
from sam2fast.datasets.layout import StagingFolder
from sam2fast.datasets.layout_registry import open_layout
from sam2fast.io.rle import decode_rle, encode_rle


@pytest.fixture
def lines(tmp_path) -> list[dict]:
    """The lines of a valid file."""
    with StagingFolder(tmp_path, "bear") as stage:
        stage.move(JsonLines(tmp_path).write(random_video("bear", gaps=False), stage).paths)
    return [json.loads(line) for line in (tmp_path / "bear.jsonl").open()]


def write(path: Path, lines: list) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_schema(lines):
    """The format that the documents describe."""
    header, first = lines[0], lines[1]
    assert header == {
        "format": "sam2fast masks", "version": 1, "video": "bear", "size": [HEIGHT, WIDTH],
        "frames": ["00000", "00004", "00008", "00012"], "objects": [1, 2, 4], "facts": {},
    }  # fmt: skip
    assert first.keys() == {"frame", "name", "objects"} and (first["frame"], lines[2]["frame"]) == (0, 4)
    assert [entry.keys() for entry in first["objects"]] == [{"id", "rle"}] * 3


def test_null_is_not_annotated(lines, tmp_path):
    lines[1]["objects"][1]["rle"] = None
    write(tmp_path / "bear.jsonl", lines)
    assert JsonLines(tmp_path).open("bear").masks("00000").keys() == {1, 4}


def objects(size: list) -> list[dict]:
    return [{"id": 1, "rle": {**encode_rle(np.ones((2, 3))), "size": size}}]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda lines: [{**lines[0], "version": 2}, *lines[1:]], 'line 1: .* "version": 1'),
        (lambda lines: lines[:-1], "4 frames, the others have 3; frame 00012 is missing"),
        (lambda lines: [*lines, lines[2]], "line 6: frame 00004 was in an earlier line"),
        (lambda lines: [*lines[:2], 5, *lines[3:]], "line 3, is not a JSON object"),
        (lambda lines: [{"frame": 0, "objects": objects([math.inf, 2])}], "infinity"),
        (lambda lines: [lines[0], {**lines[1], "objects": objects([2, 3])}, *lines[2:]], "3x2 pixels"),
        (None, "line 2, is not JSON"),
    ],
)
def test_refusals(change, message, lines, tmp_path):
    if change is None:
        (tmp_path / "bear.jsonl").write_text(json.dumps(lines[0]) + "\n{nothing\n")
    else:
        write(tmp_path / "bear.jsonl", change(lines))
    with pytest.raises(DatasetError, match=message):
        list(JsonLines(tmp_path).open("bear"))


def test_a_video_that_is_not_there(tmp_path):
    with pytest.raises(DatasetError, match="No such file"):
        JsonLines(tmp_path).open("wolf")


def test_names_of_frames_are_kept_in_the_order_of_frames(tmp_path):
    names = {2: "a-2", 0: "z-0", 1: "00007", 3: "a-10"}
    tracked(tmp_path / "clip", (1,), tuple(names), names)
    assert open_layout(tmp_path).open("clip").frames == ("z-0", "00007", "a-2", "a-10")


def tracked(root: Path, ids: tuple, frames: tuple[int, ...], names: dict[int, str] | None = None) -> dict:
    """Writes ``masks.jsonl`` as ``sam2fast track`` does; returns masks by frame and id."""
    rng = np.random.default_rng(3)
    masks = {frame: dict(zip(ids, random_masks(rng, len(ids)), strict=True)) for frame in frames}
    root.mkdir(parents=True)
    with (root / "masks.jsonl").open("w") as file:
        for frame in frames:
            entries = [
                {"id": name, "rle": encode_rle(mask), "area": int(mask.sum()), "box": None, "score": 0.5}
                for name, mask in masks[frame].items()
            ]
            named = {} if names is None else {"name": names[frame]}
            file.write(json.dumps({"frame": frame, **named, "time": frame / 25, "objects": entries}) + "\n")
        file.write('{"frame": 99, "ti')  # an interrupted run
    return masks


@pytest.mark.parametrize("ids, numbers", [(("dog", "cup"), (1, 2)), ((3, 7), (3, 7)), ((0, 4), (1, 2))])
def test_what_track_writes_is_read(ids, numbers, tmp_path):
    """Frames are sorted, also after tracking backwards; ids other than integers from 1 are numbered."""
    masks = tracked(tmp_path / "a/clip", ids, (2, 3, 1, 0))
    source = open_layout(tmp_path / "a")
    assert source.name == "coco-jsonl" and source.videos() == ["clip"]
    video = source.open("clip")
    assert video.frames == ("00000", "00001", "00002", "00003") and video.objects == numbers
    place = open_layout(tmp_path / "b", "davis")
    convert_video(None, ConvertJob(source, place, "clip"))
    result = place.open("clip")
    for frame, rles in result:
        for number, name in zip(numbers, ids, strict=True):
            np.testing.assert_array_equal(decode_rle(rles[number]), masks[int(frame)][name])
    renamed = (
        {} if ids == numbers else {"ids": {str(n): name for n, name in zip(numbers, ids, strict=True) if n != name}}
    )
    assert result.facts == renamed
