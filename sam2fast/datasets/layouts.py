"""All layouts by name, and which one a folder is in."""

from collections.abc import Callable
from pathlib import Path

from sam2fast.datasets.davis import MASKS, Davis
from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.json_lines import SUFFIX, TRACKED, JsonLines
from sam2fast.datasets.layout import MASKLETS, Layout, Settings
from sam2fast.datasets.object_folders import MASKS as OBJECT_MASKS
from sam2fast.datasets.object_folders import ObjectFolders
from sam2fast.datasets.sav_layout import SavJson
from sam2fast.datasets.ytvos import META, YouTubeVOS

BY_NAME: dict[str, Callable[[Path, Settings], Layout]] = {
    kind.name: kind for kind in (SavJson, ObjectFolders, Davis, YouTubeVOS, JsonLines)
}


def open_layout(root: str | Path, layout: str | None = None, settings: Settings | None = None) -> Layout:
    """A data set's folder in a layout.

    Args:
        layout: ``sav``, ``sav-png``, ``davis``, ``ytvos`` or ``coco-jsonl``; by default what the folder looks like.

    Raises:
        DatasetError: no such layout, or the folder looks like none.
    """
    name = detect(Path(root)) if layout is None else layout
    if name not in BY_NAME:
        raise DatasetError(f"no layout {name!r}; expected one of {', '.join(BY_NAME)}")
    return BY_NAME[name](Path(root), settings or Settings())


def detect(root: Path) -> str:
    """The layout that a folder is in.

    Raises:
        DatasetError: none of them, or no folder.
    """
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
