"""Masks in the formats of other programs: one registry of writers, for the commands and for Python."""

from sam2fast.mask_formats.polygons import Polygon, import_opencv, polygons_of
from sam2fast.mask_formats.writers import (
    FILES,
    FORMATS,
    TOLERANCE,
    WITH_IMAGES,
    WITH_POLYGONS,
    AnnotatedImage,
    write_masks,
)

__all__ = [
    "FILES",
    "FORMATS",
    "TOLERANCE",
    "WITH_IMAGES",
    "WITH_POLYGONS",
    "AnnotatedImage",
    "Polygon",
    "import_opencv",
    "polygons_of",
    "write_masks",
]
