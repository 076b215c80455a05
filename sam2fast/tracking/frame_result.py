"""One object's result on one frame."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sam2fast.tracking.memory_bank import Memory
from sam2fast.tracking.page_pool import Page
from sam2fast.utils.async_copies import AsyncHostCopy


class FrameCopies(NamedTuple):
    """Results of N objects on one frame, which are being copied to the CPU."""

    masks: AsyncHostCopy  # (N, 1, h, w)
    ious: AsyncHostCopy  # (N, 1)
    scores: AsyncHostCopy  # (N, 1)
    records: AsyncHostCopy | None  # (N, record_size); None if the strategy records nothing


class FrameResult:
    """One object's result on one frame; the small tensors are on the CPU, or are being copied there.

    Attributes:
        pointer: the object pointer.
        memory: None until the prompt is committed.
        state: what the session's strategy knew of the object after the frame, if it keeps anything.
        others: the results of the object's other hypotheses, until they are stored.
    """

    __slots__ = ("_copies", "_record", "_tensors", "memory", "others", "pointer", "state")

    def __init__(
        self,
        mask: Tensor,
        iou: Tensor,
        score: Tensor,
        pointer: Page,
        memory: Memory | None,
        state: Page | None = None,
        record: Tensor | None = None,
    ) -> None:
        self._tensors: tuple[Tensor, Tensor, Tensor] | None = (mask, iou, score)
        self._copies: tuple[FrameCopies, int] | None = None
        self._record = record
        self.pointer, self.memory, self.state = pointer, memory, state
        self.others: tuple[FrameResult, ...] = ()

    @classmethod
    def arriving(
        cls, copies: FrameCopies, row: int, pointer: Page, memory: Memory | None, state: Page | None = None
    ) -> "FrameResult":
        """The result in row ``row`` of copies that may still be in flight."""
        result = cls.__new__(cls)
        result._tensors, result._copies, result._record = None, (copies, row), None
        result.pointer, result.memory, result.state, result.others = pointer, memory, state, ()
        return result

    @property
    def mask(self) -> Tensor:
        """``(1, 1, h, w)`` fp32 low-resolution logits, holes filled."""
        return self.arrived()[0]

    @property
    def iou(self) -> Tensor:
        """``(1, 1)`` predicted."""
        return self.arrived()[1]

    @property
    def score(self) -> Tensor:
        """``(1, 1)`` logit of the object's presence."""
        return self.arrived()[2]

    @property
    def record(self) -> Tensor:
        """``(1, record_size)``: what the session's strategy recorded of the frame."""
        self.arrived()
        return torch.zeros(1, 0, device="cpu") if self._record is None else self._record

    @property
    def parent(self) -> int:
        """The hypothesis that a strategy with several continued; 0 where there is one."""
        return int(self.record[0, 0]) if self.record.numel() else 0

    def with_memory(self, memory: Memory) -> "FrameResult":
        """The same result with its memory."""
        return FrameResult(*self.arrived(), self.pointer, memory, self.state, self._record)

    def arrived(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mask, IoU and score; waits for them once."""
        if self._tensors is None:
            assert self._copies is not None
            copies, row = self._copies
            # Clones: views would keep the results of all objects alive as long as one of them.
            mask, iou, score = (copy.row(row).float() for copy in copies[:3])
            if copies.records is not None:
                self._record = copies.records.row(row)
            self._tensors, self._copies = (mask, iou, score), None
        return self._tensors


def best_with_others(results: Sequence[FrameResult], hypotheses: int) -> list[FrameResult]:
    """The first of each object's ``hypotheses`` results, with the others."""
    best = list(results[::hypotheses])
    if hypotheses > 1:
        for i, result in enumerate(best):
            result.others = tuple(results[i * hypotheses + 1 : (i + 1) * hypotheses])
    return best
