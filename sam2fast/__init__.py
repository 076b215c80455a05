"""SAM 2, promptable segmentation of images and video, rebuilt around Triton kernels."""

import os
from typing import TYPE_CHECKING, Any

from sam2fast._official_imports import find_official_modules

if TYPE_CHECKING:
    from sam2fast.automatic_mask_generator import SAM2AutomaticMaskGenerator
    from sam2fast.build_sam import (
        build_sam2,
        build_sam2_hf,
        build_sam2_video_predictor,
        build_sam2_video_predictor_hf,
    )
    from sam2fast.sam2_image_predictor import SAM2ImagePredictor
    from sam2fast.sam2_video_predictor import SAM2VideoPredictor

# On systems without symbolic links (Windows), the links kernels and configs are text files in a checkout. In this case,
# the packages kernels and configs are imported from the parent folder.
if os.path.isfile(os.path.join(__path__[0], "kernels")):
    __path__.append(os.path.dirname(__path__[0]))

find_official_modules()

__version__ = "0.3.0"
__all__ = [
    "SAM2AutomaticMaskGenerator",
    "SAM2ImagePredictor",
    "SAM2VideoPredictor",
    "build_sam2",
    "build_sam2_hf",
    "build_sam2_video_predictor",
    "build_sam2_video_predictor_hf",
]

_HOMES = {
    "SAM2AutomaticMaskGenerator": "sam2fast.automatic_mask_generator",
    "SAM2ImagePredictor": "sam2fast.sam2_image_predictor",
    "SAM2VideoPredictor": "sam2fast.sam2_video_predictor",
    "build_sam2": "sam2fast.build_sam",
    "build_sam2_hf": "sam2fast.build_sam",
    "build_sam2_video_predictor": "sam2fast.build_sam",
    "build_sam2_video_predictor_hf": "sam2fast.build_sam",
}


if not TYPE_CHECKING:  # hidden from type checkers, so that unknown names stay errors

    def __getattr__(name: str) -> Any:
        """Imports a public name at the first use, to keep ``import sam2fast`` fast."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
