"""Converts tracked masks for other programs: to arrays, ``supervision.Detections``, COCO's video format, or drawings.

All functions take the results of :meth:`~sam2fast.sam2_video_predictor.SAM2VideoPredictor.propagate_in_video`, of a
stream's ``step``, and of the file ``masks.jsonl`` of ``sam2fast track``.
"""

from sam2fast.video_results.coco_video import to_coco_video
from sam2fast.video_results.drawing import colour_of, draw_masks
from sam2fast.video_results.frame_masks import FrameMasks, to_numpy, to_supervision
from sam2fast.video_results.record import RecordError, read_masks
from sam2fast.video_results.volumes import to_label_volume, write_dicom_seg, write_nifti

__all__ = [
    "FrameMasks",
    "RecordError",
    "colour_of",
    "draw_masks",
    "read_masks",
    "to_coco_video",
    "to_label_volume",
    "to_numpy",
    "to_supervision",
    "write_dicom_seg",
    "write_nifti",
]
