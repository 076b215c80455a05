"""Results of tracking: of one object on one frame, and what callers get: masks in the requested form, and scores."""

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
    """Results of N objects on one frame in one tensor, which takes one copy to the CPU: IoUs, scores and a strategy's
    records of C >= N rows, and after them N masks. So a part from the beginning is the results of the first objects."""

    numbers: Tensor  # fp32
    rows: int  # C
    record_size: int
    shape: tuple[int, ...]  # (N, 1, h, w) of the masks

    @classmethod
    def of(cls, ious: Tensor, scores: Tensor, masks: Tensor, records: Tensor | None = None) -> "PackedResults":
        """A copy of the results of N objects."""
        packed = cls.empty(len(masks), 0 if records is None else records.shape[1], masks.shape[-2:], masks.device)
        packed.write(ious, scores, masks, records)
        return packed

    @classmethod
    def empty(cls, rows: int, record_size: int, size: Sequence[int], device: torch.device) -> "PackedResults":
        """Returns uninitialised results of C objects with masks of this size."""
        made = cls(torch.empty(0, device=device), rows, record_size, (rows, 1, *size))
        return made._replace(numbers=made.numbers.new_empty(made.end(rows)))

    @property
    def start(self) -> int:
        """Where the masks begin: at an address that Triton specializes kernels on."""
        return -(-self.rows * (2 + self.record_size) // ALIGNMENT) * ALIGNMENT

    def write(self, ious: Tensor, scores: Tensor, masks: Tensor, records: Tensor | None) -> None:
        """Writes the results of C objects; ``records`` is None where there are none."""
        of_ious, of_scores, of_records, of_masks = self.parts()
        targets, results = [of_ious, of_scores, of_masks], [ious, scores, masks]
        if records is not None:
            targets, results = [*targets, of_records], [*results, records]
        torch._foreach_copy_(targets, results)

    def end(self, objects: int) -> int:
        """Where the masks of so many objects end."""
        return self.start + objects * math.prod(self.shape[1:])

    def first(self, objects: int) -> "PackedResults":
        """A copy of the results of so many objects."""
        return self._replace(numbers=self.numbers[: self.end(objects)].clone(), shape=(objects, *self.shape[1:]))

    def parts(self) -> list[Tensor]:
        """Views: IoUs ``(C, 1)``, scores ``(C, 1)``, records ``(C, record_size)`` and masks ``(N, 1, h, w)``."""
        rows, width = self.rows, self.record_size
        ious, scores, records = self.numbers[: rows * (2 + width)].split((rows, rows, rows * width))
        return [ious.view(rows, 1), scores.view(rows, 1), records.view(rows, width), self.masks]

    @property
    def masks(self) -> Tensor:
        """A view of the masks."""
        return self.numbers[self.start :].view(self.shape)

    def apart(self) -> tuple[Tensor, Tensor]:
        """IoUs, scores and records in their own memory, which is small; and a view of the masks."""
        return self.numbers[: self.rows * (2 + self.record_size)].clone(), self.masks


class FrameCopies:
    """Results of N objects on one frame, which are being copied to the CPU.

    Args:
        packed: those results; on the CPU nobody writes to them before they are read.
    """

    def __init__(self, packed: PackedResults) -> None:
        self._copy, self._layout = AsyncHostCopy(packed.numbers, is_own=True), packed[1:]
        self._apart: tuple[Tensor, Tensor] | None = None

    def row(self, index: int) -> tuple[Tensor, "_Numbers"]:
        """One object's mask, and its numbers; waits until the copy has arrived."""
        rows, width, _ = self._layout
        if self._apart is None:
            self._apart = PackedResults(self._copy.arrived(), *self._layout).apart()
        small, masks = self._apart
        # In its own memory: a view would keep the masks of all objects alive.
        return masks[index : index + 1].clone(), _Numbers(small, rows, width, index)


class _Numbers(NamedTuple):
    """One object's numbers among those of C."""

    small: Tensor  # see PackedResults.apart
    rows: int  # C
    width: int  # of a record
    row: int  # the object's


class FrameResult:
    """One object's result on one frame; the small tensors are on the CPU, or are being copied there.

    Attributes:
        pointer: the object pointer.
        memory: None until the prompt is committed.
        state: what the session's strategy knew of the object after the frame, if it keeps anything.
        others: the results of the object's other hypotheses, until they are stored.
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
        self._arrived: tuple[Tensor, _Numbers] | None = (mask, _Numbers(numbers, 1, len(numbers) - 2, 0))
        self._copies: tuple[FrameCopies, int] | None = None
        self.pointer, self.memory, self.state = pointer, memory, state
        self.others: tuple[FrameResult, ...] = ()

    @classmethod
    def arriving(
        cls, copies: FrameCopies, row: int, pointer: Page, memory: Page | None, state: Page | None = None
    ) -> "FrameResult":
        """The result in row ``row`` of copies that may still be in flight."""
        result = cls.__new__(cls)
        result._arrived, result._copies = None, (copies, row)
        result.pointer, result.memory, result.state, result.others = pointer, memory, state, ()
        return result

    @property
    def mask(self) -> Tensor:
        """``(1, 1, h, w)`` fp32 low-resolution logits, holes filled."""
        return self._read()[0]

    @property
    def iou(self) -> Tensor:
        """``(1, 1)`` predicted."""
        small, _, _, index = self._read()[1]
        return small[index].view(1, 1)

    @property
    def score(self) -> Tensor:
        """``(1, 1)`` logit of the object's presence."""
        small, rows, _, index = self._read()[1]
        return small[rows + index].view(1, 1)

    @property
    def record(self) -> Tensor:
        """``(1, record_size)``: what the session's strategy recorded of the frame."""
        small, rows, width, index = self._read()[1]
        return small[2 * rows + width * index :][:width].view(1, width)

    @property
    def parent(self) -> int:
        """The hypothesis that a strategy with several continued; 0 where there is one."""
        return int(self.record[0, 0]) if self.record.numel() else 0

    def with_memory(self, memory: Page) -> "FrameResult":
        """The same result with its memory."""
        return FrameResult(self.mask, self.iou, self.score, self.pointer, memory, self.state, self.record)

    def arrived(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mask, IoU and score."""
        return self.mask, self.iou, self.score

    def _read(self) -> tuple[Tensor, _Numbers]:
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
    """Scores of N objects on a frame; for an object without a result there, IoU 0 and logits -1024."""

    iou: Tensor  # (N,) predicted IoU of each mask
    object_score: Tensor  # (N,) logit of each object's presence
    low_res_logits: Tensor  # (N, 1, S/4, S/4) fp32

    @classmethod
    def joined(cls, parts: Sequence["TrackScores"], order: Sequence[int]) -> "TrackScores":
        """Concatenates parts and reorders the objects: row i is row ``order[i]`` of the concatenation."""
        if len(parts) == 1:
            return parts[0]
        rows = torch.tensor(order, device="cpu").to(parts[0].iou.device, non_blocking=True)
        return cls(*(torch.cat(tensors)[rows] for tensors in zip(*parts, strict=True)))

    @classmethod
    def of(cls, results: Sequence[FrameResult | None], low_res: Tensor) -> "TrackScores":
        """Scores of results whose masks ``(N, 1, h, w)`` are on the device."""
        none = torch.zeros(1, device="cpu")
        iou = torch.cat([none[:0], *(none if r is None else r.iou[0] for r in results)])
        absent = torch.tensor([NO_OBJ_SCORE], device="cpu")
        score = torch.cat([absent[:0], *(absent if r is None else r.score[0] for r in results)])
        return cls(iou.to(low_res.device), score.to(low_res.device), low_res)

    def to_keep(self) -> "TrackScores":
        """The same for a caller, who may keep the scores: they are no views, which keep the masks alive."""
        return self._replace(iou=self.iou.clone(), object_score=self.object_score.clone())


def check_output(output: str) -> None:
    """
    Raises:
        ValueError: ``output`` is not a form of masks.
    """
    if output not in get_args(Output):
        raise ValueError(f"output is {output!r}; expected one of {', '.join(map(repr, get_args(Output)))}")


def format_masks(
    low_res: Tensor,
    size: tuple[int, int],
    output: Output,
    non_overlap: bool,
    resize: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The decoder's masks ``(N, 1, h, w)`` in the requested form.

    Args:
        low_res: logits on the device.
        size: (height, width) of the video.
        output: the form.
        non_overlap: at each pixel only the object with the largest logit keeps it.
        resize: replaces :func:`video_logits`.

    Returns:
        ``logits``: ``(N, 1, H, W)`` fp32; ``bool``: where these are above 0; ``bits``: the same with eight pixels a
        byte, ``(N, 1, H, ceil(W / 8))`` uint8, the leftmost in the lowest bit; ``low_res``: as they are. Only
        ``logits`` computes logits at the size of the video, unless masks must not overlap.
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
    """Logits ``(N, 1, h, w)`` at the size of the video ``(N, 1, H, W)``, without overlaps if so requested."""
    if masks.shape[-2:] != size:
        masks = upsample_masks(masks, size)
    return suppress_overlaps(masks) if non_overlap and len(masks) else masks


def delayed(answers: Iterable[tuple[Any, ...]], lag: int) -> Iterator[tuple[Any, ...]]:
    """The same answers ``(frame, ids, masks, ...)`` on the CPU, each one ``lag`` answers later.

    After an error the answers that were ready are returned before it is raised.
    """
    waiting: deque[_PendingAnswer] = deque()
    failure: Exception | None = None
    coming = iter(answers)
    while True:
        try:
            frame, ids, masks, *scores = next(coming)
            copies = [[AsyncHostCopy(x) for x in each] for each in scores]
            waiting.append(_PendingAnswer(frame, list(ids), AsyncHostCopy(masks), copies))
        except StopIteration:
            break
        except Exception as error:
            failure = error
            break
        if len(waiting) > lag:
            yield waiting.popleft().read()
    while waiting:
        yield waiting.popleft().read()
    if failure is not None:
        raise failure


class _PendingAnswer(NamedTuple):
    """An answer that is being copied to the CPU."""

    frame: int
    ids: list[Any]
    masks: AsyncHostCopy
    scores: list[list[AsyncHostCopy]]

    def read(self) -> tuple[Any, ...]:
        scores = (TrackScores(*(copy.tensor for copy in each)) for each in self.scores)
        return self.frame, self.ids, self.masks.tensor, *scores
