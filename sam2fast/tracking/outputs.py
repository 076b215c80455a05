"""Stores the results of objects on a frame, and formats masks and scores for callers."""

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
    """Stores results of N objects on one frame in one tensor, so that one copy moves all results to the CPU.

    IoUs, scores and a strategy's records come first, each with C >= N rows. Masks come last, so that the results of
    the first objects are a leading slice.
    """

    numbers: Tensor  # all values, fp32
    rows: int  # number of rows C
    record_size: int
    start: int  # index of the first mask, aligned for Triton
    shape: tuple[int, ...]  # (N, 1, h, w) of the masks

    @classmethod
    def of(cls, ious: Tensor, scores: Tensor, masks: Tensor, records: Tensor | None = None) -> "PackedResults":
        """Returns a packed copy of the results of N objects."""
        packed = cls.empty(len(masks), 0 if records is None else records.shape[1], masks.shape[-2:], masks.device)
        packed.write(ious, scores, masks, records)
        return packed

    @classmethod
    def empty(cls, rows: int, record_size: int, size: Sequence[int], device: torch.device) -> "PackedResults":
        """Returns uninitialized results of ``rows`` objects with masks of ``size`` (height, width)."""
        start, shape = -(-rows * (2 + record_size) // ALIGNMENT) * ALIGNMENT, (rows, 1, *size)
        return cls(torch.empty(start + math.prod(shape), device=device), rows, record_size, start, shape)

    def write(self, ious: Tensor, scores: Tensor, masks: Tensor, records: Tensor | None) -> None:
        """Writes the results of C objects. ``records`` is None if the strategy records nothing."""
        results = [ious, scores, masks] if records is None else [ious, scores, masks, records]
        torch._foreach_copy_(self.parts()[: len(results)], results)

    def first(self, objects: int) -> "PackedResults":
        """Returns a copy of the results of the first ``objects`` objects."""
        shape = objects, *self.shape[1:]
        return self._replace(numbers=self.numbers[: self.start + math.prod(shape)].clone(), shape=shape)

    def parts(self) -> list[Tensor]:
        """Returns views: IoUs ``(C, 1)``, scores ``(C, 1)``, masks ``(N, 1, h, w)``, records ``(C, record_size)``."""
        rows, width = self.rows, self.record_size
        ious, scores, records = self.numbers[: rows * (2 + width)].split((rows, rows, rows * width))
        masks = self.numbers[self.start :].view(self.shape)
        return [ious.view(rows, 1), scores.view(rows, 1), masks, records.view(rows, width)]


class FrameCopies:
    """Copies results of N objects on one frame to the CPU.

    Results that are already on the CPU are not copied, and must not be modified.
    """

    def __init__(self, packed: PackedResults) -> None:
        self._copy, self._layout = AsyncHostCopy(packed.numbers, is_own=True), packed[1:]
        self._arrived: tuple[Tensor, Tensor] | None = None

    def row(self, index: int) -> tuple[Tensor, Tensor]:
        """Waits for the copy. Returns one object's mask, and its IoU, score and record ``(2 + record_size,)``."""
        if self._arrived is None:
            ious, scores, masks, records = PackedResults(self._copy.arrived(), *self._layout).parts()
            self._arrived = masks, torch.cat([ious, scores, records], dim=1)
        masks, numbers = self._arrived
        # Clones the mask, since a view would keep the masks of all objects in memory.
        return masks[index : index + 1].clone(), numbers[index]


class FrameResult:
    """Stores one object's result on one frame. Copies of mask, IoU and score to the CPU may be in progress.

    Attributes:
        pointer: Page of the object pointer.
        memory: Page of the memory, or None for a prompt's result before the result is committed.
        state: Page of the strategy's state of the object after the frame. None if the strategy keeps no states.
        others: Results of the object's other hypotheses, emptied when these results are stored.
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
        """Returns the result in row ``row`` of ``copies``, without waiting for the copies."""
        result = cls.__new__(cls)
        result._arrived, result._copies = None, (copies, row)
        result.pointer, result.memory, result.state, result.others = pointer, memory, state, ()
        return result

    @property
    def mask(self) -> Tensor:
        """Low-resolution logits ``(1, 1, h, w)`` fp32, after hole filling."""
        return self._read()[0]

    @property
    def iou(self) -> Tensor:
        """Predicted IoU ``(1, 1)``."""
        return self._read()[1][None, :1]

    @property
    def score(self) -> Tensor:
        """Object score logit ``(1, 1)``."""
        return self._read()[1][None, 1:2]

    @property
    def record(self) -> Tensor:
        """The strategy's record of the frame ``(1, record_size)``."""
        return self._read()[1][None, 2:]

    @property
    def parent(self) -> int:
        """Index of the hypothesis that this result extends, or 0 if the strategy has only one hypothesis."""
        return int(self.record[0, 0]) if self.record.numel() else 0

    def with_memory(self, memory: Page) -> "FrameResult":
        """Returns a copy of the result with a memory."""
        return FrameResult(self.mask, self.iou, self.score, self.pointer, memory, self.state, self.record)

    def _read(self) -> tuple[Tensor, Tensor]:
        if self._arrived is None:
            assert self._copies is not None
            copies, row = self._copies
            self._arrived, self._copies = copies.row(row), None
        return self._arrived


def best_with_others(results: Sequence[FrameResult], hypotheses: int) -> list[FrameResult]:
    """Returns each object's best result, with the object's other results in :attr:`FrameResult.others`.

    ``results`` contains ``hypotheses`` successive results of each object, the best result first.
    """
    best = list(results[::hypotheses])
    for i, result in enumerate(best):
        result.others = tuple(results[i * hypotheses + 1 : (i + 1) * hypotheses])
    return best


def wait_for(results: Sequence[FrameResult]) -> None:
    """Waits for the copies of all results, and frees the pinned memory of the copies."""
    for result in results:
        result._read()


class TrackScores(NamedTuple):
    """Stores scores of N objects on a frame. An object without a result on the frame has IoU 0 and logits -1024."""

    iou: Tensor  # (N,) predicted IoU of each mask
    object_score: Tensor  # (N,) object score logits
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
        """Returns the scores of ``results`` with masks ``low_res (N, 1, h, w)``, on the device of the masks."""
        none = torch.zeros(1, device="cpu")
        iou = torch.cat([none[:0], *(none if r is None else r.iou[0] for r in results)])
        absent = torch.tensor([NO_OBJ_SCORE], device="cpu")
        score = torch.cat([absent[:0], *(absent if r is None else r.score[0] for r in results)])
        return cls(iou.to(low_res.device), score.to(low_res.device), low_res)

    def to_keep(self) -> "TrackScores":
        """Returns copies of the scores. Stored views would keep all packed results in memory."""
        return self._replace(iou=self.iou.clone(), object_score=self.object_score.clone())


def check_output(output: str) -> None:
    """Raises ``ValueError`` if ``output`` is not a mask format."""
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
        output: Format of the returned masks.
        non_overlap: If True, only the object with the largest logit keeps a pixel.
        resize: Replacement for :func:`video_logits`.

    Returns:
        ``logits``: ``(N, 1, H, W)`` fp32. ``bool``: ``(N, 1, H, W)``, True for logits above 0. ``bits``: the same masks
        with eight pixels per byte, ``(N, 1, H, ceil(W / 8))`` uint8, the leftmost in the lowest bit. ``low_res``:
        unchanged. Without ``non_overlap``, only ``logits`` computes logits at the size of the video.
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
    """Copies results ``(frame, ids, masks, ...)`` of a pass to the CPU. Yields each result ``lag`` frames later.

    If ``answers`` raises an error, yields the pending results before raising the error.
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
    """Starts copying results of a frame to the CPU. Returns a function that waits for and returns the copies."""
    ids, masks_copy = list(ids), AsyncHostCopy(masks)
    copies = [[AsyncHostCopy(x) for x in one] for one in scores]
    return lambda: (frame, ids, masks_copy.tensor, *(TrackScores(*(x.tensor for x in one)) for one in copies))
