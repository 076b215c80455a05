"""Masks for other programs: files of many formats, polygons, arrays, ``supervision.Detections`` and drawings.

Functions of tracked masks take the results of
:meth:`~sam2fast.sam2_video_predictor.SAM2VideoPredictor.propagate_in_video`, of a stream's ``step``, and of the file
``masks.jsonl`` of ``sam2fast track``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam2fast.results.coco import to_coco_video
    from sam2fast.results.drawing import colour_of, draw_masks
    from sam2fast.results.frame_masks import FrameMasks, to_numpy, to_supervision
    from sam2fast.results.image_writers import FORMATS, AnnotatedImage, write_masks
    from sam2fast.results.outlines import Polygon
    from sam2fast.results.polygons import largest_ring, polygons_of
    from sam2fast.results.record import RecordError, read_masks
    from sam2fast.results.volumes import to_label_volume, write_dicom_seg, write_nifti

__all__ = [
    "FORMATS",
    "AnnotatedImage",
    "FrameMasks",
    "Polygon",
    "RecordError",
    "colour_of",
    "draw_masks",
    "largest_ring",
    "polygons_of",
    "read_masks",
    "to_coco_video",
    "to_label_volume",
    "to_numpy",
    "to_supervision",
    "write_dicom_seg",
    "write_masks",
    "write_nifti",
]

_MODULES = {
    "FORMATS": "image_writers",
    "AnnotatedImage": "image_writers",
    "FrameMasks": "frame_masks",
    "Polygon": "outlines",
    "RecordError": "record",
    "colour_of": "drawing",
    "draw_masks": "drawing",
    "largest_ring": "polygons",
    "polygons_of": "polygons",
    "read_masks": "record",
    "to_coco_video": "coco",
    "to_label_volume": "volumes",
    "to_numpy": "frame_masks",
    "to_supervision": "frame_masks",
    "write_dicom_seg": "volumes",
    "write_masks": "image_writers",
    "write_nifti": "volumes",
}


if not TYPE_CHECKING:  # otherwise type checkers would accept any name

    def __getattr__(name: str) -> Any:
        """Imports a public name at its first use, because commands list formats without importing NumPy."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)

    def __dir__() -> list[str]:
        """Returns the public names, for completion."""
        return __all__
