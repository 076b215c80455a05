"""What SA-V's files say of their masklets, computed from the masks."""

from collections.abc import Sequence
from typing import Any

from sam2fast.datasets.annotations import area_of_rle
from sam2fast.rle import RLE

# A masklet's mean area in pixels, below which it belongs to a bucket.
BUCKETS = (("small", 32**2), ("medium", 96**2))
LARGEST = "large"


class MaskletStatistics:
    """Gathers one frame after the other.

    Follows SA-V: the size is the mean area over the frames that show the object; its visibility changes whenever it
    goes or comes back.
    """

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        self._pixels = size[0] * size[1]
        self._area, self._shown, self._changes = [0] * count, [0] * count, [0] * count
        self._first: list[int | None] = [None] * count
        self._visible = [False] * count
        self._frames = 0

    def add(self, rles: Sequence[RLE | None]) -> None:
        """A frame's masks, all objects'."""
        for number, rle in enumerate(rles):
            area = 0 if rle is None else area_of_rle(rle)
            if area and self._first[number] is None:
                self._first[number] = self._frames
            elif bool(area) != self._visible[number]:
                self._changes[number] += 1
            self._visible[number] = bool(area)
            self._area[number] += area
            self._shown[number] += bool(area)
        self._frames += 1

    def facts(self, kind: str) -> dict[str, Any]:
        """The keys of SA-V's files that masks tell; null where an object is never seen.

        Args:
            kind: ``manual`` or ``auto``.
        """
        count = len(self._area)
        sizes = [area / shown if shown else 0.0 for area, shown in zip(self._area, self._shown, strict=True)]
        return {
            "masklet_size_rel": [round(size / self._pixels, 10) for size in sizes],
            "masklet_size_abs": [round(size, 10) for size in sizes],
            "masklet_size_bucket": [next((name for name, end in BUCKETS if size < end), LARGEST) for size in sizes],
            "masklet_visibility_changes": list(self._changes),
            "masklet_first_appeared_frame": [None if first is None else float(first) for first in self._first],
            "masklet_frame_count": [self._frames] * count,
            "masklet_type": [kind] * count,
            "masklet_num": count,
        }
