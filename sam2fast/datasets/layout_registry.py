"""Registry of layouts by name, detection of a folder's layout, and summaries of videos."""

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
    layout.name: layout for layout in (SavJson, ObjectFolders, Davis, YouTubeVOS, JsonLines)
}


def open_layout(root: str | Path, layout: str | None = None, settings: Settings | None = None) -> Layout:
    """Opens a data set's folder in a layout.

    Args:
        layout: ``sav``, ``sav-png``, ``davis``, ``ytvos`` or ``coco-jsonl``; detected by default.

    Raises:
        DatasetError: If the layout is unknown, or none was detected.
    """
    name = detect(Path(root)) if layout is None else layout
    if name not in BY_NAME:
        raise DatasetError(f"no layout {name!r}; expected one of {', '.join(BY_NAME)}")
    return BY_NAME[name](Path(root), settings or Settings())


def detect(root: Path) -> str:
    """Returns the name of a folder's layout. Raises :class:`DatasetError` if the folder has no known layout."""
    if not root.is_dir():
        raise DatasetError(f"{root} is not a folder")
    if (root / OBJECT_MASKS).is_dir():
        return ObjectFolders.name
    if (root / MASKS).is_dir():
        return YouTubeVOS.name if (root / META).is_file() else Davis.name
    if any(any(root.glob(f"{below}*_{kind}.json")) for below in ("", "*/") for kind in MASKLETS):
        return SavJson.name
    if any(root.glob(f"*{SUFFIX}")) or any(root.glob(f"*/{TRACKED}")):
        return JsonLines.name
    raise DatasetError(
        f"{root} has none of the layouts {', '.join(BY_NAME)}: expected {OBJECT_MASKS}/, {MASKS}/, "
        f"<video>_manual.json or <video>{SUFFIX} in it"
    )


@dataclass(frozen=True)
class VideoSummary:
    """Summary of one video. The fields are the keys of ``sam2fast dataset info --json``.

    Attributes:
        masklets: ``manual`` or ``auto`` for SA-V's layout; empty for other layouts.
        frames: number of annotated frames.
        first, last: names of the first and the last annotated frame.
        height, width: size of the masks.
        images: number of image files; None for a video file.
        masks, visible: numbers of annotated masks and of non-empty masks; None if not counted.
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
        """Returns a dictionary for JSON."""
        return asdict(self)


def summarise(layout: Layout, name: str, count: bool = False) -> VideoSummary:
    """Summarizes one video. With ``count``, reads and counts every mask."""
    video, files = layout.open(name), layout.frame_files(name)
    masks = visible = 0
    if count:
        for _, rles in video:
            masks += len(rles)
            visible += sum(area_of(rle) > 0 for rle in rles.values())
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
