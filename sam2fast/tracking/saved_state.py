"""Saves sessions to safetensors files, with all data except tensors as JSON in the header."""

import hashlib
import json
import operator
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sam2fast.io.atomic import atomic_path
from sam2fast.modeling.model_identity import model_facts
from sam2fast.tracking.approximations import Approximations
from sam2fast.tracking.features import FEATURES_KEPT
from sam2fast.tracking.memory_bank import MemoryBank
from sam2fast.tracking.outputs import FrameResult
from sam2fast.tracking.page_pool import PagePool
from sam2fast.tracking.session import TrackedObject, VideoSession, check_kind
from sam2fast.tracking.shared_prompts import restored_pairs, saved_pairs
from sam2fast.tracking.strategies import Strategy, restored_strategy, saved_strategy
from sam2fast.tracking.tracker import Tracker
from sam2fast.utils.errors import FixableError
from sam2fast.video_io import Frames

FACTS, DIGEST = "sam2fast_state", "sha256"  # keys of the file's header
VERSION = 1
STREAM_FRAME = "stream_frame"  # key of a stream's current frame; absent in saved sessions
MEMORY_DTYPES = ("float64", "float32", "bfloat16", "float16")
# Attributes of a TrackedObject that store results. Results in KEPT have memories.
KINDS = ("conditioning", "tracked", "new_conditioning", "new_tracked")
KEPT = KINDS[:2]


class StateError(FixableError, ValueError):
    """Raised if a state cannot be saved, or a file does not contain the expected state."""


class PackedState(NamedTuple):
    """Stores a state without its video and its model."""

    facts: dict[str, Any]  # JSON-serializable values
    tensors: dict[str, Tensor]  # on the CPU


def save(state: PackedState, file: str | Path) -> None:
    """Writes a state atomically.

    Raises:
        OSError: If the file cannot be written. No partial file is left.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    facts, target = json.dumps(state.facts), Path(file)
    if target.is_dir():
        raise IsADirectoryError(f"the state cannot be written to {str(target)!r}, which is a folder")
    try:
        # Writes in a temporary folder, since safetensors creates a temporary file beside the given path.
        with atomic_path(target, in_folder=True) as partial:
            partial.touch()
            mode = partial.stat().st_mode
            save_file(state.tensors, partial, metadata={FACTS: facts, DIGEST: _digest(facts, state.tensors)})
            partial.chmod(mode)  # safetensors makes the file readable only by its owner
            with open(partial, "rb+") as written:
                os.fsync(written.fileno())
    except SafetensorError as error:
        raise _system_error(error, target) from error
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror or os.strerror(error.errno), str(target)) from error


def _system_error(error: Exception, file: Path) -> OSError:
    """Converts an error of safetensors to an ``OSError``, with the error number from its message."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    if number is None:
        return OSError(f"{file} cannot be written: {error}")
    return OSError(int(number[1]), os.strerror(int(number[1])), str(file))


def read(file: str | Path) -> PackedState:
    """Reads a file that :func:`save` wrote.

    Raises:
        FileNotFoundError: If the file does not exist.
        StateError: If the file is not a saved state, or is damaged.
        MemoryError: If there is not enough memory for the state.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"no saved state {str(path)!r}")
    try:
        with safe_open(path, framework="pt") as content:
            header = content.metadata() or {}
            # Clones the tensors, since memory-mapped tensors would change with the file.
            tensors = {name: content.get_tensor(name).clone() for name in content.keys()}  # noqa: SIM118  (no dict)
        if header[DIGEST] != _digest(header[FACTS], tensors):
            raise StateError(f"{path} is damaged: its checksum does not match")
        facts = dict(json.loads(header[FACTS]))
        version = facts["version"]
    except StateError:
        raise
    # ValueError: invalid JSON, or dtypes that torch does not have. RuntimeError: JSON that is nested too deeply, or
    # insufficient memory, for which torch has no exception type.
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        if "allocate memory" in str(error):
            raise MemoryError(f"there is not enough memory for {path}") from error
        raise StateError(f"{path} is not a state that sam2fast saved, or it is damaged: {error}") from error
    if version != VERSION:
        raise StateError(f"{path} has version {version} of the format; this program reads {VERSION}")
    return PackedState(facts, tensors)


def _digest(facts: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def packed(state: VideoSession) -> PackedState:
    """Copies the objects of a session to the CPU.

    Raises:
        StateError: If an id is neither a string nor an integer, or the session is the official dict.
        TypeError: If ``state`` is not a session.
    """
    check_kind(state)
    state.check_saveable()
    tensors: dict[str, Tensor] = {}
    objects = [_packed_object(state, i, obj_id, tensors) for i, obj_id in enumerate(state.objects)]
    memories = state.bank.memories
    facts = {
        "version": VERSION,
        "model": state.opened_with.facts(),
        "video": _size(state.frames),
        "max_history": state.max_history,
        "max_cond_frames": state.max_cond_frames,
        "approximations": state.bank.approximations.named(),
        "strategy": saved_strategy(state.strategy),
        "offload": [state.offload_video_to_cpu, state.offload_state_to_cpu],
        # The pool's dtype may be wider than the dtype of the stored memories.
        "memory_dtype": None if memories is None else str(memories.data.dtype).removeprefix("torch."),
        "objects": objects,
        "exempt": saved_pairs(state),
    }
    return PackedState(facts, tensors)


def _packed_object(state: VideoSession, number: int, obj_id: Any, tensors: dict[str, Tensor]) -> dict[str, Any]:
    tracked = state.objects[obj_id]
    for frame, clicks in tracked.points.items():
        tensors.update({f"{number}.points.{frame}.{name}": value.cpu().contiguous() for name, value in clicks.items()})
    for frame, mask in tracked.masks.items():
        tensors[f"{number}.masks.{frame}"] = mask.cpu().contiguous()
    of_best = set(map(id, tracked.tracked.values()))
    others = {id(r): r for history in tracked.others.values() for r in history.values() if id(r) not in of_best}
    frames: dict[str, dict[int, FrameResult]] = {attribute: getattr(tracked, attribute) for attribute in KINDS}
    for attribute, results in {**frames, "others": others}.items():
        if results:
            stacked = _stacked(state.bank, list(results.values()))
            tensors.update({f"{number}.{attribute}.{name}": value for name, value in stacked.items()})
    index = {key: i for i, key in enumerate(others)}
    # Per hypothesis, pairs of a frame and an index in ``others``. The index is None for results of the best hypothesis.
    hypotheses = [[[t, index.get(id(r))] for t, r in history.items()] for history in tracked.others.values()]
    return {
        "id": _json_id(obj_id),
        **({"hypotheses": hypotheses} if hypotheses else {}),
        "reverse": [list(entry) for entry in tracked.reverse.items()],  # lists, since JSON has no tuples
        "points": list(tracked.points),
        "masks": list(tracked.masks),
        "results": {
            attribute: list(results) for attribute, results in frames.items()
        },  # the order of frames affects sums over results
    }


def _stacked(bank: MemoryBank, results: list[FrameResult]) -> dict[str, Tensor]:
    """Stacks each field of ``n`` results in one tensor ``(n, ...)``."""
    parts = {name: torch.cat([getattr(r, name) for r in results]) for name in ("mask", "iou", "score")}
    parts["pointer"] = torch.stack([bank.pointers.read(r.pointer).cpu() for r in results])
    if results[0].record.numel():
        parts["record"] = torch.cat([r.record for r in results])
    if bank.states is not None:
        parts["state"] = torch.stack([bank.states.read(r.state).cpu() for r in results if r.state is not None])
    if all(r.memory is not None for r in results):
        assert bank.memories is not None
        pages = [bank.memories.read(r.memory).cpu() for r in results if r.memory is not None]
        dtype = max({page.dtype for page in pages}, key=lambda d: d.itemsize)  # conversion to the widest dtype is exact
        parts["memory"] = torch.stack([page.to(dtype) for page in pages])
    return parts


def _json_id(obj_id: Any) -> str | int:
    if isinstance(obj_id, str):
        return obj_id
    try:
        number = operator.index(obj_id)
        if number == obj_id and hash(number) == hash(obj_id):  # so the caller's id finds the restored object
            return number
    except TypeError:
        pass
    raise StateError(f"object {obj_id!r} has an id of type {type(obj_id).__name__}; expected text or an integer")


def _size(frames: Frames) -> dict[str, int]:
    return {"frames": len(frames), "height": frames.height, "width": frames.width}


def unpacked(
    saved: PackedState,
    tracker: Tracker,
    frames: Frames,
    features_kept: int = FEATURES_KEPT,
    strategy: Strategy | None = None,
) -> VideoSession:
    """Restores the session of a saved state. Memories stay on the CPU until a step uses them.

    Args:
        tracker: Tracker of the model that the state was saved with.
        frames: Frames of the same video.
        features_kept: See :meth:`Tracker.new_state`.
        strategy: Strategy of the session. If None, :func:`restored_strategy` restores the strategy.

    Raises:
        StateError: If the state was saved with another model or another video, or is invalid.
    """
    facts, tensors = saved
    for name, expected, actual in (
        ("model", facts.get("model"), model_facts(tracker.model)),
        ("video", facts.get("video"), _size(frames)),
    ):
        if expected != actual:
            saved_facts = expected if isinstance(expected, Mapping) else {}
            differing = ", ".join(
                f"{key} {saved_facts.get(key)}, not {actual[key]}"
                for key in actual
                if saved_facts.get(key) != actual[key]
            )
            raise StateError(f"the state was saved with another {name}: {differing or expected}")
    try:
        approximations = Approximations.of(facts.get("approximations"))
        present = tracker.model.strategy.for_model(tracker.model)
        strategy = strategy or restored_strategy(facts.get("strategy"), present)
        state = tracker.new_state(frames, features_kept=features_kept, approximations=approximations, strategy=strategy)
        _unpack_into(state, facts, tensors)
        check_restored(state, has_memories=tracker.model.num_maskmem > 0)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise StateError(f"the state cannot be restored: {error}") from error
    return state


def _unpack_into(state: VideoSession, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    dtype, objects = facts["memory_dtype"], facts["objects"]
    if dtype is not None:
        if dtype not in MEMORY_DTYPES:
            raise ValueError(f"memory_dtype is {dtype!r}")
        state.bank.begin_memories(getattr(torch, dtype))
    state.offload_video_to_cpu, state.offload_state_to_cpu = map(bool, facts["offload"])
    state.max_history, state.max_cond_frames = facts["max_history"], facts["max_cond_frames"]
    for number, entry in enumerate(objects):
        state.add(entry["id"], _unpacked_object(entry, number, tensors, state.device))
    if len(state.objects) != len(objects):
        raise ValueError("two objects have the same id")
    state.exempt = restored_pairs(state, facts.get("exempt", ()))


def _unpacked_object(
    entry: Mapping[str, Any], number: int, tensors: Mapping[str, Tensor], device: torch.device
) -> TrackedObject:
    results = {}
    for attribute in KINDS:
        frames = entry["results"][attribute]
        results[attribute] = dict(zip(frames, _results(f"{number}.{attribute}", tensors), strict=True))
    points = {
        frame: {
            name: tensors[f"{number}.points.{frame}.{name}"].to(device) for name in ("point_coords", "point_labels")
        }
        for frame in entry["points"]
    }
    masks = {frame: tensors[f"{number}.masks.{frame}"] for frame in entry["masks"]}
    stored = list(_results(f"{number}.others", tensors))
    others = {
        i: {t: results["tracked"][t] if index is None else stored[index] for t, index in hypothesis}
        for i, hypothesis in enumerate(entry.get("hypotheses", ()), 1)
    }
    return TrackedObject(points=points, masks=masks, reverse=dict(entry["reverse"]), others=others, **results)


def _results(prefix: str, tensors: Mapping[str, Tensor]) -> Iterator[FrameResult]:
    names = ("mask", "iou", "score", "pointer", "memory", "record", "state")
    parts = {name: tensors[f"{prefix}.{name}"] for name in names if f"{prefix}.{name}" in tensors}
    for i in range(len(parts.get("mask", ()))):
        # Clones tensors, since a view of one frame would keep the tensors of all frames in memory.
        mask, iou, score = (parts[name][i : i + 1].clone() for name in ("mask", "iou", "score"))
        pointer = PagePool.archived_page(parts["pointer"][i])
        memory = PagePool.archived_page(parts["memory"][i]) if "memory" in parts else None
        record = parts["record"][i : i + 1].clone() if "record" in parts else None
        state = PagePool.archived_page(parts["state"][i]) if "state" in parts else None
        yield FrameResult(mask, iou, score, pointer, memory, state, record)


def check_restored(state: VideoSession, has_memories: bool) -> None:
    """Checks the limits and objects of a session that was read from a file.

    Args:
        has_memories: True if the model keeps memories.

    Raises:
        ValueError: If the model could not have produced these limits or objects.
    """
    for limit in (state.max_history, state.max_cond_frames):
        _expect(limit is None or _is_count(limit), f"a number of frames is {limit!r}")
    for obj_id, tracked in state.objects.items():
        _expect(isinstance(obj_id, int | str), f"an object has the id {obj_id!r}")
        try:
            _check_object(tracked, state.num_frames, state.bank, has_memories)
        except ValueError as error:
            raise ValueError(f"object {obj_id!r}: {error}") from error


def check_stream(facts: Mapping[str, Any], tensors: Mapping[str, Tensor], frame: Any, image_size: int) -> None:
    """Checks the additional data of a saved stream, such as its current frame. See :func:`check_restored`."""
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


def _check_object(tracked: TrackedObject, num_frames: int, bank: MemoryBank, has_memories: bool) -> None:
    hypotheses = list(tracked.others.values())
    frames = [t for entries in (*vars(replace(tracked, others={})).values(), *hypotheses) for t in entries]
    _expect(all(_is_count(t) and t < num_frames for t in frames), "it has frames that the video does not have")
    _expect(not tracked.conditioning.keys() & tracked.tracked.keys(), "a frame has two results")
    _expect(all(isinstance(reverse, bool) for reverse in tracked.reverse.values()), "a direction is not a bool")
    for points in tracked.points.values():
        coords, labels = points["point_coords"], points["point_labels"]
        _check("point_coords", coords, (1, labels.shape[-1], 2))
        _expect(labels.shape == coords.shape[:2] and not labels.is_floating_point(), f"labels are {labels.dtype}")
    side = bank.layout.image_size
    for mask in tracked.masks.values():
        _expect(mask.shape == (1, 1, side, side), f"a mask is {tuple(mask.shape)}, expected {side} x {side}")
    for attribute in KINDS:
        for result in getattr(tracked, attribute).values():
            _check_result(result, bank, has_memories and attribute in KEPT)
    for results in hypotheses:
        _expect(not tracked.conditioning.keys() & results.keys(), "a frame has two results")
        for result in results.values():
            _check_result(result, bank, has_memories)


def _check_result(result: FrameResult, bank: MemoryBank, has_memory: bool) -> None:
    _check("mask", result.mask, (1, 1, *bank.layout.mask))
    _check("iou", result.iou, (1, 1))
    _check("score", result.score, (1, 1))
    _check("record", result.record, (1, bank.strategy.record_size))
    _expect((result.state is None) == (bank.states is None), "a state of its strategy is missing or superfluous")
    states = [] if result.state is None else [("state", result.state, (bank.strategy.state_size,))]
    memories = [] if result.memory is None else [("memory", result.memory, bank.page_shape)]
    for name, page, shape in [("pointer", result.pointer, (bank.layout.pointer,))] + memories + states:
        assert page.archived is not None
        _check(name, page.archived.tensor, shape)
    right = not has_memory if result.memory is None else bank.memories is not None
    _expect(right, "a memory is missing, or its dtype is missing")


def _check(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    right = tuple(tensor.shape) == shape and tensor.is_floating_point()
    _expect(right, f"{name} is {tensor.dtype} {tuple(tensor.shape)}, expected {shape}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _expect(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)
