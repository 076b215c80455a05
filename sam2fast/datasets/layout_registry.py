"""All layouts by name, detection of a folder's layout, and summaries of videos."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.datasets.davis import MASKS, META, Davis, YouTubeVOS
from sam2fast.datasets.json_lines import SUFFIX, TRACKED, JsonLines
from sam2fast.datasets.layout import MASKLETS, Layout, Settings
from sam2fast.datasets.object_folders import MASKS as OBJECT_MASKS
from sam2fast.datasets.object_folders import ObjectFolders
from sam2fast.datasets.sav_json import SavJson
from sam2fast.datasets.segmentations import area_of

BY_NAME: dict[str, Callable[[Path, Settings], Layout]] = {
    kind.name: kind for kind in (SavJson, ObjectFolders, Davis, YouTubeVOS, JsonLines)
}


def open_layout(root: str | Path, layout: str | None = None, settings: Settings | None = None) -> Layout:
    """A data set's folder in a layout.

    Args:
        layout: ``sav``, ``sav-png``, ``davis``, ``ytvos`` or ``coco-jsonl``; by default it is detected.

    Raises:
        DatasetError: no such layout, or none was detected.
    """
    name = detect(Path(root)) if layout is None else layout
    if name not in BY_NAME:
        raise DatasetError(f"no layout {name!r}; expected one of {', '.join(BY_NAME)}")
    return BY_NAME[name](Path(root), settings or Settings())


def detect(root: Path) -> str:
    """The name of the layout that a folder is in; raises :class:`DatasetError` if there is none."""
    if not root.is_dir():
        raise DatasetError(f"{root} is no folder")
    if (root / OBJECT_MASKS).is_dir():
        return ObjectFolders.name
    if (root / MASKS).is_dir():
        return YouTubeVOS.name if (root / META).is_file() else Davis.name
    if any(any(root.glob(f"{below}*_{kind}.json")) for below in ("", "*/") for kind in MASKLETS):
        return SavJson.name
    if any(root.glob(f"*{SUFFIX}")) or any(root.glob(f"*/{TRACKED}")):
        return JsonLines.name
    raise DatasetError(
        f"{root} is in no layout of {', '.join(BY_NAME)}: expected {OBJECT_MASKS}/, {MASKS}/, "
        f"<video>_manual.json or <video>{SUFFIX} in it"
    )


@dataclass(frozen=True)
class VideoSummary:
    """The summary of one video. The fields are the keys of ``sam2fast dataset info --json``.

    Attributes:
        masklets: ``manual`` or ``auto`` in SA-V's layout, which has both; otherwise empty.
        frames, first, last: number of annotated frames, and the names of the first and the last one.
        height, width: of the masks.
        images: number of image files; None for a video file.
        masks, visible: number of annotated masks, and of those with a pixel; None if not counted.
    """

    video: str
    masklets: str
    objects: int
    frames: int
    first: str
    last: str
    height: int
    width: int
    images: int | None
    masks: int | None = None
    visible: int | None = None

    def content(self) -> dict[str, Any]:
        """As a dictionary for JSON."""
        return asdict(self)


def summarise(layout: Layout, name: str, count: bool = False) -> VideoSummary:
    """The summary of one video. With ``count``, every mask is read and counted."""
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
        None if files.video is not None else len(files.images),
        masks if count else None,
        visible if count else None,
    )
