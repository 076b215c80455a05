"""Writes masks in the formats of other programs. Commands and Python programs use this package."""

from sam2fast.mask_formats.polygons import Polygon, largest_ring, polygons_of
from sam2fast.mask_formats.writers import FORMATS, AnnotatedImage, write_masks

__all__ = ["FORMATS", "AnnotatedImage", "Polygon", "largest_ring", "polygons_of", "write_masks"]
