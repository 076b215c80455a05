"""Checks that the contents of a file are those of a saved state."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sam2fast.kernels.memory_attention import MEANS
from sam2fast.tracking.memory_bank import MemoryBank

MEMORY_DTYPES = ("float64", "float32", "bfloat16", "float16")
# Of an object's results; attributes of a TrackedObject.
KINDS = ("conditioning", "tracked", "new_conditioning", "new_tracked")
KEPT = KINDS[:2]  # those with memories


class Shapes(NamedTuple):
    """Shapes of the tensors of a model's states."""

    image_size: int
    mask: tuple[int, int]  # (h, w), low-resolution
    pointer: int  # C
    memory: tuple[int, int]  # (positions, channels) of a page
    pages: tuple[int, ...]  # how many a memory may have

    @classmethod
    def of(cls, bank: MemoryBank) -> "Shapes":
        pages = (1, 1 + MEANS) if bank.is_pooled else (1,)
        return cls(bank.layout.image_size, bank.layout.mask, bank.layout.pointer, bank.page_shape, pages)


def check_state(facts: Mapping[str, Any], tensors: Mapping[str, Tensor], bank: MemoryBank) -> None:
    """Checks that everything that is used is as :func:`~sam2fast.tracking.saved_state.packed` returns it.

    Raises:
        ValueError: the first difference.
    """
    shapes = Shapes.of(bank)
    frames = _get(facts, "video", dict).get("frames")
    _expect(isinstance(frames, int), "the video has no number of frames")
    for name in ("max_history", "max_cond_frames"):
        _expect(facts.get(name) is None or _is_count(facts[name]), f"{name} is {facts.get(name)!r}")
    offload = _get(facts, "offload", list)
    _expect(len(offload) == 2 and all(isinstance(value, bool) for value in offload), f"offload is {offload!r}")
    dtype = facts.get("memory_dtype")
    _expect(dtype is None or dtype in MEMORY_DTYPES, f"memory_dtype is {dtype!r}")
    ids = set()
    for number, entry in enumerate(_get(facts, "objects", list)):
        _expect(isinstance(entry, dict), f"object {number} is no mapping")
        name = entry.get("id")
        _expect(isinstance(name, int | str) and name not in ids, f"object {number} has the id {name!r}")
        ids.add(name)
        try:
            _check_object(entry, number, tensors, shapes, range(frames), has_memories=dtype is not None)
        except ValueError as error:
            raise ValueError(f"object {name!r}: {error}") from error


def check_stream(facts: Mapping[str, Any], tensors: Mapping[str, Tensor], frame: Any, image_size: int) -> None:
    """The same for what the state of a stream has besides: its current frame.

    Raises:
        ValueError: see :func:`check_state`.
    """
    video = _get(facts, "video", dict)
    sizes = all(isinstance(video.get(name), int) and video[name] > 0 for name in ("frames", "height", "width"))
    _expect(sizes, f"the video is {str(video)[:60]}")
    most = facts.get("max_cond_frames")
    _expect(most is None or (_is_count(most) and most >= 2), f"max_cond_frames is {most!r}")
    _expect(_is_count(frame) and frame < video["frames"], f"the current frame is {str(frame)[:60]}")
    square = _tensor(tensors, "square")
    right = tuple(square.shape) == (image_size, image_size, 3) and square.dtype == torch.uint8
    _expect(right, f"the current frame is {_kind(square)}")


def _check_object(
    entry: Mapping[str, Any],
    number: int,
    tensors: Mapping[str, Tensor],
    shapes: Shapes,
    frames: range,
    has_memories: bool,
) -> None:
    visited = _get(entry, "reverse", list)
    pairs = all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], bool) for pair in visited)
    _expect(pairs, "reverse has something else than frames and directions")
    _check_frames("reverse", [pair[0] for pair in visited], frames)
    for frame in _check_frames("points", _get(entry, "points", list), frames):
        labels = _tensor(tensors, f"{number}.points.{frame}.point_labels")
        _expect(labels.ndim == 2 and not labels.is_floating_point(), f"labels are {_kind(labels)}")
        _check(tensors, f"{number}.points.{frame}.point_coords", (1, labels.shape[1], 2))
    side = shapes.image_size
    for frame in _check_frames("masks", _get(entry, "masks", list), frames):
        _check(tensors, f"{number}.masks.{frame}", (1, 1, side, side), is_mask=True)
    results, pages = _get(entry, "results", dict), entry.get("pages", {})
    _expect(isinstance(pages, dict), f"pages are {pages!r}")
    kept: set[int] = set()
    for kind in KINDS:
        ranks = _check_frames(kind, _get(results, kind, list), frames)
        _expect(kind not in KEPT or not kept.intersection(ranks), f"a frame of {kind} is there twice")
        kept.update(ranks if kind in KEPT else ())
        if ranks:
            counts = pages.get(kind, [1] * len(ranks))
            _check_results(f"{number}.{kind}", len(ranks), counts, tensors, shapes, kind in KEPT and has_memories)


def _check_results(
    prefix: str, count: int, pages: Any, tensors: Mapping[str, Tensor], shapes: Shapes, has_memories: bool
) -> None:
    _check(tensors, f"{prefix}.mask", (count, 1, *shapes.mask))
    for name in ("iou", "score"):
        _check(tensors, f"{prefix}.{name}", (count, 1))
    _check(tensors, f"{prefix}.pointer", (count, shapes.pointer))
    is_kept = prefix.endswith(tuple(f".{kind}" for kind in KEPT))
    if not is_kept and f"{prefix}.memory" not in tensors:
        return
    _expect(has_memories or not is_kept, "there are results with memories, and no memory_dtype")
    right = isinstance(pages, list) and len(pages) == count and all(page in shapes.pages for page in pages)
    _expect(right, f"pages of {prefix} are {str(pages)[:60]}")
    _check(tensors, f"{prefix}.memory", (sum(pages), *shapes.memory))


def _check_frames(what: str, values: Iterable[Any], frames: range) -> list[int]:
    values = list(values)
    right = all(isinstance(frame, int) and not isinstance(frame, bool) and frame in frames for frame in values)
    _expect(right and len(set(values)) == len(values), f"{what} has other frames than the video, or one twice")
    return values


def _check(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...], is_mask: bool = False) -> None:
    tensor = _tensor(tensors, name)
    right = tuple(tensor.shape) == shape and (is_mask or tensor.is_floating_point())
    _expect(right, f"{name} is {_kind(tensor)}, expected {shape}")


def _tensor(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    _expect(name in tensors, f"{name} is missing")
    return tensors[name]


def _get(content: Mapping[str, Any], name: str, kind: type) -> Any:
    value = content.get(name)
    _expect(isinstance(value, kind), f"{name} is {str(value)[:60]}")
    return value


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _expect(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)
