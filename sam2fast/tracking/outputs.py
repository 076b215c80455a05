"""Stores results of one object on one frame, and formats the masks and scores that callers get."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor

from sam2fast.kernels.mask_ops import (
    pack_masks,
    suppress_overlaps,
    upsample_and_pack,
    upsample_and_threshold,
    upsample_masks,
)
from sam2fast.modeling.sam2_base import NO_OBJ_SCORE
from sam2fast.tracking.memory_bank import ALIGNMENT
from sam2fast.tracking.page_pool import Page
from sam2fast.utils.async_copies import AsyncHostCopy

Output: TypeAlias = Literal["logits", "bool", "bits", "low_res"]


class PackedResults(NamedTuple):
    """Stores results of N objects on one frame in one tensor, so that one copy brings them to the CPU.

    IoUs, scores and a strategy's records have C >= N rows. N masks follow: the first objects are a leading part.
    """

    numbers: Tensor  # fp32
    rows: int  # C
    record_size: int
    start: int  # of the masks, aligned to an address that Triton specializes kernels on
    shape: tuple[int, ...]  # (N, 1, h, w) of the masks

    @classmethod
    def of(cls, ious: Tensor, scores: Tensor, masks: Tensor, records: Tensor | None = None) -> "PackedResults":
        """Copies the results of N objects."""
        packed = cls.empty(len(masks), 0 if records is None else records.shape[1], masks.shape[-2:], masks.device)
        packed.write(ious, scores, masks, records)
        return packed

    @classmethod
    def empty(cls, rows: int, record_size: int, size: Sequence[int], device: torch.device) -> "PackedResults":
        """Returns uninitialised results of C objects with masks of this size."""
        start, shape = -(-rows * (2 + record_size) // ALIGNMENT) * ALIGNMENT, (rows, 1, *size)
        return cls(torch.empty(start + math.prod(shape), device=device), rows, record_size, start, shape)

    def write(self, ious: Tensor, scores: Tensor, masks: Tensor, records: Tensor | None) -> None:
        """Writes the results of C objects. ``records`` is None if the strategy has none."""
        results = [ious, scores, masks] if records is None else [ious, scores, masks, records]
        torch._foreach_copy_(self.parts()[: len(results)], results)

    def first(self, objects: int) -> "PackedResults":
        """Copies the results of the first ``objects`` objects."""
        shape = objects, *self.shape[1:]
        return self._replace(numbers=self.numbers[: self.start + math.prod(shape)].clone(), shape=shape)

    def parts(self) -> list[Tensor]:
        """Views: IoUs ``(C, 1)``, scores ``(C, 1)``, masks ``(N, 1, h, w)`` and records ``(C, record_size)``."""
        rows, width = self.rows, self.record_size
        ious, scores, records = self.numbers[: rows * (2 + width)].split((rows, rows, rows * width))
        masks = self.numbers[self.start :].view(self.shape)
        return [ious.view(rows, 1), scores.view(rows, 1), masks, records.view(rows, width)]


class FrameCopies:
    """Copies results of N objects on one frame to the CPU. If they are there, nothing may write to them any more."""

    def __init__(self, packed: PackedResults) -> None:
        self._copy, self._layout = AsyncHostCopy(packed.numbers, is_own=True), packed[1:]
        self._arrived: tuple[Tensor, Tensor] | None = None

    def row(self, index: int) -> tuple[Tensor, Tensor]:
        """Returns one object's mask and its numbers ``(2 + record_size,)``. Waits until the copy has arrived."""
        if self._arrived is None:
            ious, scores, masks, records = PackedResults(self._copy.arrived(), *self._layout).parts()
            self._arrived = masks, torch.cat([ious, scores, records], dim=1)
        masks, numbers = self._arrived
        # In its own memory: a view would keep the masks of all objects alive.
        return masks[index : index + 1].clone(), numbers[index]


class FrameResult:
    """Stores one object's result on one frame. Mask and numbers are on the CPU, or are being copied there.

    Attributes:
        pointer: The object pointer.
        memory: The memory. None until the prompt is committed.
        state: The strategy's state of the object after the frame, if it keeps any.
        others: Results of the object's other hypotheses, until they are stored.
    """

    __slots__ = ("_arrived", "_copies", "memory", "others", "pointer", "state")

    def __init__(
        self,
        mask: Tensor,
        iou: Tensor,
        score: Tensor,
        pointer: Page,
        memory: Page | None,
        state: Page | None = None,
        record: Tensor | None = None,
    ) -> None:
        parts = [iou, score] if record is None else [iou, score, record]
        numbers = torch.cat([x.flatten().float() for x in parts])
        self._arrived: tuple[Tensor, Tensor] | None = (mask, numbers)
        self._copies: tuple[FrameCopies, int] | None = None
        self.pointer, self.memory, self.state = pointer, memory, state
        self.others: tuple[FrameResult, ...] = ()

    @classmethod
    def arriving(
        cls, copies: FrameCopies, row: int, pointer: Page, memory: Page | None, state: Page | None = None
    ) -> "FrameResult":
        """Returns the result in row ``row`` of copies that may still be in flight."""
        result = cls.__new__(cls)
        result._arrived, result._copies = None, (copies, row)
        result.pointer, result.memory, result.state, result.others = pointer, memory, state, ()
        return result

    @property
    def mask(self) -> Tensor:
        """Low-resolution logits ``(1, 1, h, w)`` fp32, holes filled."""
        return self._read()[0]

    @property
    def iou(self) -> Tensor:
        """Predicted IoU ``(1, 1)``."""
        return self._read()[1][None, :1]

    @property
    def score(self) -> Tensor:
        """Logit ``(1, 1)`` of the object's presence."""
        return self._read()[1][None, 1:2]

    @property
    def record(self) -> Tensor:
        """The strategy's record of the frame ``(1, record_size)``."""
        return self._read()[1][None, 2:]

    @property
    def parent(self) -> int:
        """Index of the parent hypothesis. 0 if the strategy has only one."""
        return int(self.record[0, 0]) if self.record.numel() else 0

    def with_memory(self, memory: Page) -> "FrameResult":
        """Returns the same result with a memory."""
        return FrameResult(self.mask, self.iou, self.score, self.pointer, memory, self.state, self.record)

    def arrived(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns mask, IoU and score."""
        return self.mask, self.iou, self.score

    def _read(self) -> tuple[Tensor, Tensor]:
        if self._arrived is None:
            assert self._copies is not None
            copies, row = self._copies
            self._arrived, self._copies = copies.row(row), None
        return self._arrived


def best_with_others(results: Sequence[FrameResult], hypotheses: int) -> list[FrameResult]:
    """Returns the first of each object's ``hypotheses`` results, and stores the other results in it."""
    best = list(results[::hypotheses])
    for i, result in enumerate(best):
        result.others = tuple(results[i * hypotheses + 1 : (i + 1) * hypotheses])
    return best


def wait_for(results: Sequence[FrameResult]) -> None:
    """Waits until the copies of all results have arrived, so that their pinned memory is free."""
    for result in results:
        result._read()


class TrackScores(NamedTuple):
    """Stores scores of N objects on a frame. An object without a result there has IoU 0 and logits -1024."""

    iou: Tensor  # (N,) predicted IoU of each mask
    object_score: Tensor  # (N,) logit of each object's presence
    low_res_logits: Tensor  # (N, 1, 4h, 4h) fp32

    @classmethod
    def joined(cls, parts: Sequence["TrackScores"], order: Sequence[int]) -> "TrackScores":
        """Concatenates parts and reorders the objects: row i is row ``order[i]`` of the concatenation."""
        if len(parts) == 1:
            return parts[0]
        rows = torch.tensor(order, device="cpu").to(parts[0].iou.device, non_blocking=True)
        return cls(*(torch.cat(tensors)[rows] for tensors in zip(*parts, strict=True)))

    @classmethod
    def of(cls, results: Sequence[FrameResult | None], low_res: Tensor) -> "TrackScores":
        """Returns the scores of results whose masks ``(N, 1, h, w)`` are on the device."""
        none = torch.zeros(1, device="cpu")
        iou = torch.cat([none[:0], *(none if r is None else r.iou[0] for r in results)])
        absent = torch.tensor([NO_OBJ_SCORE], device="cpu")
        score = torch.cat([absent[:0], *(absent if r is None else r.score[0] for r in results)])
        return cls(iou.to(low_res.device), score.to(low_res.device), low_res)

    def to_keep(self) -> "TrackScores":
        """Returns copies for a caller, who may keep the scores: views would keep the masks alive."""
        return self._replace(iou=self.iou.clone(), object_score=self.object_score.clone())


def check_output(output: str) -> None:
    """Raises ``ValueError`` if ``output`` is not a format of masks."""
    if output not in get_args(Output):
        raise ValueError(f"output is {output!r}; expected one of {', '.join(map(repr, get_args(Output)))}")


def format_masks(
    low_res: Tensor,
    size: tuple[int, int],
    output: Output,
    non_overlap: bool,
    resize: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Converts the decoder's masks ``(N, 1, h, w)`` to the requested format.

    Args:
        low_res: Logits on the device.
        size: Size (height, width) of the video.
        output: The format.
        non_overlap: If True, only the object with the largest logit keeps a pixel.
        resize: Replaces :func:`video_logits`.

    Returns:
        ``logits``: ``(N, 1, H, W)`` fp32. ``bool``: True for logits above 0. ``bits``: the same with eight pixels per
        byte, ``(N, 1, H, ceil(W / 8))`` uint8, the leftmost in the lowest bit. ``low_res``: unchanged. Only ``logits``
        computes logits at the size of the video, unless masks must not overlap.
    """
    if output == "low_res":
        return low_res
    if output == "logits" or non_overlap:
        logits = video_logits(low_res, size, non_overlap) if resize is None else resize(low_res)
        if output == "logits":
            return logits
        return logits > 0 if output == "bool" else pack_masks(logits > 0)
    return (upsample_and_threshold if output == "bool" else upsample_and_pack)(low_res, size)


def video_logits(masks: Tensor, size: tuple[int, int], non_overlap: bool) -> Tensor:
    """Upsamples logits ``(N, 1, h, w)`` to the video's ``(N, 1, H, W)``, and removes overlaps if ``non_overlap``."""
    if masks.shape[-2:] != size:
        masks = upsample_masks(masks, size)
    return suppress_overlaps(masks) if non_overlap and len(masks) else masks


def delayed(answers: Iterable[tuple[Any, ...]], lag: int) -> Iterator[tuple[Any, ...]]:
    """Yields the same answers ``(frame, ids, masks, ...)`` on the CPU, each one ``lag`` answers later.

    After an error, the answers that were ready are yielded before it is raised.
    """
    waiting: deque[Callable[[], tuple[Any, ...]]] = deque()
    failure: Exception | None = None
    try:
        for answer in answers:
            waiting.append(_copied(*answer))
            if len(waiting) > lag:
                yield waiting.popleft()()
    except Exception as error:
        failure = error
    while waiting:
        yield waiting.popleft()()
    if failure is not None:
        raise failure


def _copied(frame: int, ids: list[Any], masks: Tensor, *scores: TrackScores) -> Callable[[], tuple[Any, ...]]:
    """Starts copying an answer to the CPU. Returns a function that waits for the copy and returns it."""
    ids, masks_copy = list(ids), AsyncHostCopy(masks)
    copies = [[AsyncHostCopy(x) for x in one] for one in scores]
    return lambda: (frame, ids, masks_copy.tensor, *(TrackScores(*(x.tensor for x in one)) for one in copies))
