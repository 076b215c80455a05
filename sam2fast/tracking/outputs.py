"""What tracking returns: masks in the requested form, and the model's scores."""

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
from sam2fast.tracking.frame_result import FrameResult
from sam2fast.utils.async_copies import AsyncHostCopy

Output: TypeAlias = Literal["logits", "bool", "bits", "low_res"]


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
