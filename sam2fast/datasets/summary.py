"""What a data set holds, video by video."""

from dataclasses import asdict, dataclass
from typing import Any

from sam2fast.datasets.layout import Layout
from sam2fast.datasets.segmentations import area_of


@dataclass(frozen=True)
class VideoSummary:
    """A video in numbers.

    Attributes:
        masklets: ``manual`` or ``auto`` in SA-V's layout, which has both; else empty.
        frames, first, last: number of annotated frames, and their names.
        height, width: of the masks.
        pictures: how many there are as files; None for a film.
        masks, visible: how many masks are annotated, and how many of them have a pixel; None if that was not counted.
    """

    video: str
    masklets: str
    objects: int
    frames: int
    first: str
    last: str
    height: int
    width: int
    pictures: int | None
    masks: int | None = None
    visible: int | None = None

    def content(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def summarise(layout: Layout, name: str, count: bool = False) -> VideoSummary:
    """A video in numbers.

    Args:
        count: read every mask.

    Raises:
        DatasetError: files are missing or damaged.
    """
    video, files = layout.open(name), layout.frame_files(name)
    masks = visible = 0
    if count:
        for _, found in video:
            masks += len(found)
            visible += sum(area_of(rle) > 0 for rle in found.values())
    height, width = video.size
    return VideoSummary(
        name,
        layout.settings.masklets if layout.name == "sav" else "",
        len(video.objects),
        len(video.frames),
        video.frames[0] if video.frames else "",
        video.frames[-1] if video.frames else "",
        height,
        width,
        None if files.film is not None else len(files.pictures),
        masks if count else None,
        visible if count else None,
    )
