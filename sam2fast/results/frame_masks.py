"""Converts the masks of one frame from any source to arrays or to ``supervision.Detections``."""

import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sam2fast.utils.errors import requires

if TYPE_CHECKING:
    from supervision import Detections


class FrameMasks(NamedTuple):
    """N objects in one frame."""

    frame: int
    ids: list[Any]
    masks: NDArray[np.bool_]  # masks (N, H, W)
    scores: NDArray[np.float32] | None  # predicted IoU (N,), or None


def to_numpy(result: Any) -> FrameMasks:
    """Converts a frame's results to arrays.

    Args:
        result: Item of ``propagate_in_video``, with or without ``return_scores``, as logits or bool; a
            ``StreamResult``; or an item of :func:`read_masks`.

    Raises:
        TypeError: If ``result`` has another type.
        ValueError: If the numbers of ids, masks and scores differ.
    """
    if not isinstance(result, tuple) or len(result) not in (3, 4):
        raise TypeError(
            "expected a result of propagate_in_video, a stream or read_masks: (frame, ids, masks[, scores]); got "
            f"{type(result).__name__}"
        )
    frame, ids, masks = result[:3]
    pixels = mask_array(masks, len(ids))
    scores = score_array(result[3] if len(result) == 4 else None, len(ids))
    plain = [obj_id.item() if isinstance(obj_id, np.generic) else obj_id for obj_id in ids]
    return FrameMasks(int(frame), plain, pixels, scores)


def mask_array(masks: Any, count: int) -> NDArray[np.bool_]:
    """Converts bool masks or logits ``(N, H, W)`` or ``(N, 1, H, W)`` to bool ``(N, H, W)``.

    Raises ValueError for other shapes, for packed bits, or if the number of masks is not ``count``.
    """
    pixels = _array(masks)
    if pixels.dtype == np.uint8:
        raise ValueError("the masks are uint8, as of output='bits'; sam2fast.kernels.mask_ops.unpack_masks makes bool")
    if pixels.ndim == 4 and pixels.shape[1] == 1:
        pixels = pixels[:, 0]
    if pixels.ndim != 3 or len(pixels) != count:
        raise ValueError(f"expected masks ({count}, H, W) or ({count}, 1, H, W) for {count} ids, got {pixels.shape}")
    return pixels if pixels.dtype == np.bool_ else pixels > 0


def score_array(scores: Any, count: int) -> NDArray[np.float32] | None:
    """Returns the predicted IoU ``(N,)``, or None without scores. Raises ValueError if N is not ``count``."""
    if scores is None:
        return None
    values = _array(getattr(scores, "iou", scores)).astype(np.float32)
    if values.shape != (count,):
        raise ValueError(f"expected {count} scores, one for each id, got shape {values.shape}")
    return values


def object_number(obj_id: Any) -> int:
    """Returns an integer id unchanged. For other ids, returns a hash of the text, the same in every frame and run."""
    if isinstance(obj_id, int | np.integer) and not isinstance(obj_id, bool):
        return int(obj_id)
    return zlib.crc32(str(obj_id).encode(errors="surrogatepass"))


def _array(values: Any) -> NDArray[Any]:
    if isinstance(values, np.ndarray | Sequence):
        return np.asarray(values)
    return np.asarray(values.detach().float().cpu() if values.is_floating_point() else values.cpu())


def to_supervision(
    obj_ids: Sequence[Any], masks: Any, scores: Any = None, labels: Mapping[Any, str | int | None] | None = None
) -> "Detections":
    """Converts the objects of a frame to ``supervision.Detections``. Leaves out empty masks.

    ``tracker_id`` has integer ids. Other ids, such as names, become a hash of their text, the same in every frame.
    ``data["object_id"]`` has the original ids. Boxes include the last pixel, as in ``supervision.mask_to_xyxy``.
    If supervision has ``CompactMask``, ``mask`` has this type: supervision's annotators and filters read a
    ``CompactMask`` several times as fast, and ``np.asarray(detections.mask)`` is the array ``(N, H, W)``.

    Args:
        obj_ids: The N object ids that ``propagate_in_video`` yields.
        masks: Masks ``(N, 1, H, W)`` or ``(N, H, W)``, logits or bool, tensor or array.
        scores: ``TrackScores``, predicted IoU ``(N,)``, or None. The predicted IoU becomes ``confidence``.
        labels: Classes by id, such as ``labels`` of a stream. An integer becomes the ``class_id``. A text becomes
            ``data["class_name"]``, and its hash the ``class_id``. An object without a label has the class 0 and the
            name "".

    Raises:
        ImportError: If supervision is not installed.
        ValueError: If the numbers of ids, masks and scores differ.
    """
    with requires("detections need the package supervision: pip install supervision"):
        import supervision
    pixels, confidence = mask_array(masks, len(obj_ids)), score_array(scores, len(obj_ids))
    shown = np.flatnonzero(pixels.any(axis=(1, 2))).tolist()
    if not shown:
        return supervision.Detections.empty()
    names = np.empty(len(shown), dtype=object)
    names[:] = [obj_ids[i] for i in shown]
    classes = [(labels or {}).get(name) for name in names]
    named = any(isinstance(label, str) for label in (labels or {}).values())
    visible = pixels[shown]
    boxes = supervision.mask_to_xyxy(visible).astype(np.float32)
    compact = getattr(supervision, "CompactMask", None)
    return supervision.Detections(
        xyxy=boxes,
        mask=visible if compact is None else compact.from_dense(visible, boxes, visible.shape[1:]),
        confidence=None if confidence is None else confidence[shown],
        class_id=np.array([0 if label is None else object_number(label) for label in classes]),
        tracker_id=np.array([object_number(name) for name in names]),
        data={"object_id": names, **({"class_name": np.array([str(x or "") for x in classes])} if named else {})},
    )
