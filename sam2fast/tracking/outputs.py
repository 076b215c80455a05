"""The forms in which masks are returned."""

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from torch import Tensor

from sam2fast.kernels.mask_ops import pack_masks, upsample_and_pack, upsample_and_threshold
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
