"""The forms in which masks are returned."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

from torch import Tensor

from sam2fast.kernels.mask_ops import pack_masks, upsample_and_pack, upsample_and_threshold
from sam2fast.tracking.arrivals import HostCopy
from sam2fast.tracking.scores import TrackScores
from sam2fast.tracking.state import VideoState

if TYPE_CHECKING:
    from sam2fast.sam2_video_predictor import SAM2VideoPredictor

Output: TypeAlias = Literal["logits", "bool", "bits", "low_res"]


def check_output(output: str) -> None:
    """
    Raises:
        ValueError: there is no such form.
    """
    if output not in get_args(Output):
        raise ValueError(f"output is {output!r}; expected one of {', '.join(map(repr, get_args(Output)))}")


def returned_masks(predictor: "SAM2VideoPredictor", state: VideoState, low_res: Tensor, output: Output) -> Tensor:
    """Masks of the decoder's ``low_res (N, 1, h, w)`` in the form that was asked for.

    Returns:
        ``logits``: ``(N, 1, H, W)`` fp32; ``bool``: where these are above 0; ``bits``: the same with eight pixels a
        byte, ``(N, 1, H, ceil(W / 8))`` uint8, the leftmost in the lowest bit; ``low_res``: as they are. Only the first
        form makes logits at the video's size, unless masks must not overlap.
    """
    if output == "low_res":
        return low_res
    if output == "logits" or predictor.non_overlap_masks:
        logits = predictor._get_orig_video_res_output(state, low_res)[1]
        if output == "logits":
            return logits
        return logits > 0 if output == "bool" else pack_masks(logits > 0)
    return (upsample_and_threshold if output == "bool" else upsample_and_pack)(low_res, state.video_size)


def behind(answers: Iterable[tuple[Any, ...]], lag: int) -> Iterator[tuple[Any, ...]]:
    """The same answers ``(frame, ids, masks, ...)``, each when ``lag`` later ones have been begun, on the CPU.

    What an error cut off is given before the error.
    """
    waiting: deque[_Coming] = deque()
    failure: Exception | None = None
    coming = iter(answers)
    while True:
        try:
            frame, ids, masks, *scores = next(coming)
            copies = [[HostCopy(x) for x in each] for each in scores]
            waiting.append(_Coming(frame, list(ids), HostCopy(masks), copies))
        except StopIteration:
            break
        except Exception as error:
            failure = error
            break
        if len(waiting) > lag:
            yield waiting.popleft().arrived()
    while waiting:
        yield waiting.popleft().arrived()
    if failure is not None:
        raise failure


class _Coming(NamedTuple):
    """An answer on its way to the CPU."""

    frame: int
    ids: list[Any]
    masks: HostCopy
    scores: list[list[HostCopy]]

    def arrived(self) -> tuple[Any, ...]:
        scores = (TrackScores(*(copy.tensor for copy in each)) for each in self.scores)
        return self.frame, self.ids, self.masks.tensor, *scores
