"""Saved sessions that the fuzzer found: all are refused as documented."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from saved_states import put_together, taken_apart

DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A predictor, a video, and the content of a saved session and a saved stream."""
    from mini_model import mini_predictor

    predictor, folder = mini_predictor(), tmp_path_factory.mktemp("session")
    video = [np.full((128, 128, 3), 60 * i, dtype=np.uint8) for i in (1, 2)]
    state = predictor.init_state(video)
    predictor.add_new_points_or_box(state, 0, 1, [[30, 40]], [1])
    for _ in predictor.propagate_in_video(state, progress=False):
        pass
    predictor.save_state(state, folder / "state")
    with predictor.open_stream() as stream:
        stream.step(video[0])
        stream.add_new_points_or_box(1, [[30, 40]], [1])
        stream.save(folder / "stream")
    return predictor, video, folder


def rewritten(file: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None], target: Path) -> Path:
    """A saved state with changed metadata and a correct digest."""
    facts, tensors = taken_apart(file.read_bytes())
    change(facts, tensors)
    target.write_bytes(put_together(json.dumps(facts), tensors))
    return target


def put(*path: Any, value: Any) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], None]:
    def change(facts: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        node: Any = facts
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value

    return change


def cut(name: str) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], None]:
    def change(facts: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = tensors[name][..., :1].contiguous()

    return change


@pytest.mark.parametrize(
    "change",
    [
        put("model", value=[]),
        put("video", value={}),
        put("memory_dtype", value="load"),
        put("memory_dtype", value=[1]),
        put("offload", value=[]),
        put("max_history", value="x"),
        put("approximations", value={"nothing": 1}),
        put("objects", value={"id": 1}),
        put("objects", 0, "id", value=[1]),
        put("objects", 0, "points", value=[7]),
        put("objects", 0, "reverse", value=[[0]]),
        put("objects", 0, "results", value=[]),
        put("objects", 0, "results", "tracked", value=[5]),
        put("objects", 0, "pages", "tracked", value=[0.5]),
        cut("0.conditioning.mask"),
        cut("0.conditioning.memory"),
        cut("0.tracked.pointer"),
        cut("0.points.0.point_coords"),
        lambda facts, tensors: tensors.pop("0.tracked.iou"),
    ],
)
def test_sessions(session: Any, tmp_path: Path, change: Callable[..., Any]) -> None:
    from sam2fast.tracking.saved_state import StateError

    predictor, video, folder = session
    same = rewritten(folder / "state", lambda facts, tensors: None, tmp_path / "same")
    assert len(predictor.load_state(same, video).objects) == 1
    with pytest.raises(StateError):
        predictor.load_state(rewritten(folder / "state", change, tmp_path / "other"), video)


@pytest.mark.parametrize(
    "change",
    [
        put("video", value=1),
        put("video", "height", value="x"),
        put("stream_frame", value=None),
        put("max_cond_frames", value=1),
        cut("square"),
    ],
)
def test_streams(session: Any, tmp_path: Path, change: Callable[..., Any]) -> None:
    from sam2fast.tracking.saved_state import StateError

    predictor, _, folder = session
    predictor.restore_stream(folder / "stream").close()
    with pytest.raises(StateError):
        predictor.restore_stream(rewritten(folder / "stream", change, tmp_path / "other"))


def test_session_with_invalid_json(session: Any, tmp_path: Path) -> None:
    from sam2fast.tracking.saved_state import StateError

    predictor, video, _ = session
    for text in ("9" * 6000, DEEP, "[1]", "x"):
        (tmp_path / "state").write_bytes(put_together(text, {}))
        with pytest.raises(StateError):
            predictor.load_state(tmp_path / "state", video)
