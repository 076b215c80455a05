"""Checks that what was read from a file is the state of a session of this model."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sam2fast.tracking.frame_result import FrameResult
from sam2fast.tracking.memory_bank import MemoryBank
from sam2fast.tracking.session import TrackedObject, VideoSession

MEMORY_DTYPES = ("float64", "float32", "bfloat16", "float16")
# Of an object's results; attributes of a TrackedObject.
KINDS = ("conditioning", "tracked", "new_conditioning", "new_tracked")
KEPT = KINDS[:2]  # those with memories


def check_restored(state: VideoSession, has_memories: bool) -> None:
    """Checks the objects of a session that was read from a file.

    Args:
        has_memories: the model keeps memories.

    Raises:
        ValueError: the first difference from what sessions of the model have.
    """
    for limit in (state.max_history, state.max_cond_frames):
        _expect(limit is None or _is_count(limit), f"a number of frames is {limit!r}")
    for obj_id, tracked in state.objects.items():
        _expect(isinstance(obj_id, int | str), f"an object has the id {obj_id!r}")
        try:
            _check_object(tracked, state.num_frames, state.bank, has_memories, state.strategy.record_size)
        except ValueError as error:
            raise ValueError(f"object {obj_id!r}: {error}") from error


def check_stream(facts: Mapping[str, Any], tensors: Mapping[str, Tensor], frame: Any, image_size: int) -> None:
    """The same for what the state of a stream has besides: its current frame.

    Raises:
        ValueError: see :func:`check_restored`.
    """
    video: Any = facts.get("video")
    _expect(isinstance(video, dict), f"the video is {str(video)[:60]}")
    sizes: list[Any] = [video.get(name) for name in ("frames", "height", "width")]
    _expect(all(_is_count(size) and 0 < size <= sys.maxsize for size in sizes), f"the video is {str(video)[:60]}")
    most: Any = facts.get("max_cond_frames")
    _expect(most is None or isinstance(most, int) and most >= 2, f"max_cond_frames is {most!r}")
    _expect(_is_count(frame) and frame < video["frames"], f"the current frame is {str(frame)[:60]}")
    _expect("square" in tensors, "the current frame is missing")
    square = tensors["square"]
    right = tuple(square.shape) == (image_size, image_size, 3) and square.dtype == torch.uint8
    _expect(right, f"the current frame is {square.dtype} {tuple(square.shape)}")


def _check_object(
    tracked: TrackedObject, num_frames: int, bank: MemoryBank, has_memories: bool, record_size: int
) -> None:
    hypotheses = list(tracked.others.values())
    frames = [t for entries in (*vars(replace(tracked, others={})).values(), *hypotheses) for t in entries]
    _expect(all(_is_count(t) and t < num_frames for t in frames), "it has other frames than the video")
    _expect(not tracked.conditioning.keys() & tracked.tracked.keys(), "a frame has two results")
    _expect(all(isinstance(reverse, bool) for reverse in tracked.reverse.values()), "a direction is no bool")
    for points in tracked.points.values():
        coords, labels = points["point_coords"], points["point_labels"]
        _check("point_coords", coords, (1, labels.shape[-1], 2))
        _expect(labels.shape == coords.shape[:2] and not labels.is_floating_point(), f"labels are {labels.dtype}")
    side = bank.layout.image_size
    for mask in tracked.masks.values():
        _expect(mask.shape == (1, 1, side, side), f"a mask is {tuple(mask.shape)}, expected {side} x {side}")
    for kind in KINDS:
        for result in getattr(tracked, kind).values():
            _check_result(result, bank, has_memories and kind in KEPT, record_size)
    for results in hypotheses:
        _expect(not tracked.conditioning.keys() & results.keys(), "a frame has two results")
        for result in results.values():
            _check_result(result, bank, has_memories, record_size)


def _check_result(result: FrameResult, bank: MemoryBank, has_memory: bool, record_size: int) -> None:
    _check("mask", result.mask, (1, 1, *bank.layout.mask))
    _check("iou", result.iou, (1, 1))
    _check("score", result.score, (1, 1))
    _check("record", result.record, (1, record_size))
    _expect((result.state is None) == (bank.states is None), "a state of its strategy is missing, or too many")
    states = [] if result.state is None else [("state", result.state, (bank.state_size,))]
    memories = [] if result.memory is None else [("memory", result.memory, bank.page_shape)]
    for name, page, shape in [("pointer", result.pointer, (bank.layout.pointer,))] + memories + states:
        assert page.archived is not None
        _check(name, page.archived.tensor, shape)
    right = not has_memory if result.memory is None else bank.memories is not None
    _expect(right, "a memory is missing, or has no dtype")


def _check(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    right = tuple(tensor.shape) == shape and tensor.is_floating_point()
    _expect(right, f"{name} is {tensor.dtype} {tuple(tensor.shape)}, expected {shape}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _expect(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)
