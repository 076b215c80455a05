"""Tracked masks for other programs: as arrays, as ``supervision.Detections``, in COCO's video format, as pictures.

What :meth:`~sam2fast.sam2_video_predictor.SAM2VideoPredictor.propagate_in_video`, a stream's ``step`` and the file
``masks.jsonl`` of ``sam2fast track`` give goes into all of them.
"""

from sam2fast.video_results.coco import to_coco_video
from sam2fast.video_results.detections import to_supervision
from sam2fast.video_results.drawing import colour_of, draw_masks
from sam2fast.video_results.frames import FrameMasks, to_numpy
from sam2fast.video_results.record import RecordError, read_masks

__all__ = [
    "FrameMasks",
    "RecordError",
    "colour_of",
    "draw_masks",
    "read_masks",
    "to_coco_video",
    "to_numpy",
    "to_supervision",
]
