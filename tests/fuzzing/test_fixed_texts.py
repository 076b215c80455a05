"""JSON files that the fuzzer found: all are refused as documented."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sam2fast.checkpoints import CheckpointError, read_checkpoint
from sam2fast.cli.track_folder import RunFolder
from sam2fast.cli.track_request import read_prompt_file
from sam2fast.cli.user_errors import UserError
from sam2fast.datasets.annotations import Metadata
from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.datasets.json_lines import open_lines
from sam2fast.io.rle import read_run_lengths
from sam2fast.training.data.clip import DataError
from sam2fast.training.data.json_datasets import CocoRawDataset
from sam2fast.video_results import read_masks
from sam2fast.video_results.record import RecordError

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "read", "error"),
    [
        ("prompts.json", read_prompt_file, UserError),
        ("masks.jsonl", lambda file: list(read_masks(file)), RecordError),
        ("clip.jsonl", lambda file: open_lines(file, "clip"), DatasetError),
        ("track.json", lambda file: RunFolder(file.parent, {}, False), UserError),
        ("model.safetensors.index.json", read_checkpoint, CheckpointError),
    ],
)
def test_deep_json(tmp_path: Path, name: str, read: Callable[[Path], Any], error: type[Exception]) -> None:
    (tmp_path / name).write_text(DEEP + "\n")
    with pytest.raises(error):
        read(tmp_path / name)


@pytest.mark.parametrize(
    "changes",
    [
        *({"state": True}, {"state": "../x"}, {"done": -1}, {"done": 1e400}, {"done": "2"}),
        *({"asked": []}, {"files": []}, {"files": [["masks", "x"]]}),
    ],
)
def test_runs_continued_elsewhere(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / "x").write_bytes(b"")
    folder = tmp_path / "run"
    folder.mkdir()
    facts = {"asked": {}, "done": 2, "complete": False, "state": None, "files": {}}
    (folder / "track.json").write_text(json.dumps(facts))
    assert RunFolder(folder, {}, False).state is None
    (folder / "track.json").write_text(json.dumps(facts | changes))
    with pytest.raises(UserError, match="track.json cannot be read"):
        RunFolder(folder, {}, False)


@pytest.mark.parametrize("key", ["size", "objects"])
def test_facts_that_are_infinite(key: str) -> None:
    content = {"size": [4, 6], "frames": ["0"], "objects": [1], "facts": {}}
    assert Metadata.parse(content, "a.json").size == (4, 6)
    with pytest.raises(DatasetError, match="a.json: expected size"):
        Metadata.parse(content | {key: [float("inf"), 6]}, "a.json")


@pytest.mark.parametrize("number", ["Infinity", "NaN", '"x"', "[]"])
def test_ids_of_coco(tmp_path: Path, number: str) -> None:
    entry = f'{{"id": {number}, "image_id": 1, "segmentation": [[1, 1, 2, 2, 3, 1]], "area": 1}}'
    file = tmp_path / "instances.json"
    file.write_text(f'{{"images": [{{"id": 1, "file_name": "a.png"}}], "annotations": [{entry}]}}')
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="instances.json"):
        CocoRawDataset(tmp_path, file)


@pytest.mark.parametrize("counts", [[[1, 2], [3]], [1, "a"], [1.5, 2.5], {"a": 1}, [4, [1]]])
def test_run_lengths_that_are_not_a_list_of_integers(counts: Any) -> None:
    with pytest.raises(ValueError, match="run lengths must be a (string or a )?list of integers"):
        read_run_lengths([{"size": [2, 2], "counts": counts}])
