"""One frame's results, from whatever gave them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class FrameMasks(NamedTuple):
    """N objects on one frame."""

    frame: int
    ids: list[Any]
    masks: NDArray[np.bool_]  # (N, H, W)
    scores: NDArray[np.float32] | None  # (N,) predicted IoU, where it is known


def to_numpy(result: Any) -> FrameMasks:
    """A frame's results as arrays.

    Args:
        result: what ``propagate_in_video`` yields, with or without ``return_scores``; a ``StreamResult``; or an item of
            :func:`read_masks`.

    Raises:
        TypeError: it is none of these.
        ValueError: the numbers of ids, masks and scores differ.
    """
    if not isinstance(result, tuple) or len(result) not in (3, 4):
        raise TypeError(
            "expected what propagate_in_video, a stream or read_masks gives, (frame, ids, masks) and maybe scores; got "
            f"{type(result).__name__}"
        )
    frame, ids, masks = result[:3]
    pixels = mask_array(masks, len(ids))
    scores = score_array(result[3] if len(result) == 4 else None, len(ids))
    return FrameMasks(int(frame), list(ids), pixels, scores)


def mask_array(masks: Any, count: int) -> NDArray[np.bool_]:
    """Masks ``(N, H, W)`` or ``(N, 1, H, W)``, an array or tensor, as bool ``(N, H, W)``; numbers are logits.

    Raises:
        ValueError: another shape, or not ``count`` masks.
    """
    pixels = _array(masks)
    if pixels.ndim == 4 and pixels.shape[1] == 1:
        pixels = pixels[:, 0]
    if pixels.ndim != 3 or len(pixels) != count:
        raise ValueError(f"expected masks ({count}, H, W) or ({count}, 1, H, W) for {count} ids, got {pixels.shape}")
    return pixels if pixels.dtype == np.bool_ else pixels > 0


def score_array(scores: Any, count: int) -> NDArray[np.float32] | None:
    """Predicted IoU ``(N,)`` of ``TrackScores``, or of an array or sequence that it is already; None stays None.

    Raises:
        ValueError: not ``count`` scores.
    """
    if scores is None:
        return None
    values = _array(getattr(scores, "iou", scores)).astype(np.float32)
    if values.shape != (count,):
        raise ValueError(f"expected {count} scores, one for each id, got shape {values.shape}")
    return values


def object_number(obj_id: Any) -> int:
    """A number for an id: itself if it is an integer, else one made from its text, the same in every frame and run."""
    if isinstance(obj_id, int | np.integer) and not isinstance(obj_id, bool):
        return int(obj_id)
    import zlib

    return zlib.crc32(str(obj_id).encode(errors="surrogatepass"))


def _array(values: Any) -> NDArray[Any]:
    if isinstance(values, np.ndarray | Sequence):
        return np.asarray(values)
    return np.asarray(values.detach().float().cpu() if values.is_floating_point() else values.cpu())
