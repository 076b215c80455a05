"""Tracked masks for the package ``supervision``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sam2fast.video_results.frames import mask_array, object_number, score_array

if TYPE_CHECKING:
    from supervision import Detections


def to_supervision(obj_ids: Sequence[Any], masks: Any, scores: Any = None) -> "Detections":
    """A frame's objects as ``supervision.Detections``; those without a pixel are left out.

    ``tracker_id`` are the ids where they are integers. Others, such as names, get a number made from their text, the
    same in every frame; ``data["object_id"]`` has the ids as they are. Boxes end at the last pixel, as those of
    ``supervision.mask_to_xyxy``.

    Args:
        obj_ids: N ids, as ``propagate_in_video`` yields them.
        masks: ``(N, 1, H, W)`` or ``(N, H, W)``, logits or bool, tensor or array.
        scores: ``TrackScores``, ``(N,)`` predicted IoU, or none; becomes ``confidence``.

    Raises:
        ImportError: supervision is not installed.
        ValueError: the numbers of ids, masks and scores differ.
    """
    try:
        from supervision import Detections, mask_to_xyxy
    except ImportError as error:
        raise ImportError("detections need the package supervision: pip install supervision") from error
    pixels, confidence = mask_array(masks, len(obj_ids)), score_array(scores, len(obj_ids))
    shown = np.flatnonzero(pixels.any(axis=(1, 2))).tolist()
    if not shown:
        return Detections.empty()
    names = np.empty(len(shown), dtype=object)
    names[:] = [obj_ids[i] for i in shown]
    return Detections(
        xyxy=mask_to_xyxy(pixels[shown]).astype(np.float32),
        mask=pixels[shown],
        confidence=None if confidence is None else confidence[shown],
        class_id=np.zeros(len(shown), dtype=int),
        tracker_id=np.array([object_number(name) for name in names]),
        data={"object_id": names},
    )
