"""Where checkpoints are found without a network, and what environment variables say. Looking creates nothing."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from sam2fast.downloads.names import Published
from sam2fast.io.atomic import expanded

FOLDER_VARIABLE = "SAM2FAST_CHECKPOINTS"  # a folder of checkpoints under their official names
CACHE_VARIABLE = "SAM2FAST_CACHE"  # what is downloaded from a mirror or from Meta is stored there
MIRROR_VARIABLE = "SAM2FAST_MIRROR"  # an HTTP folder of checkpoints under their official names
OFFLINE_VARIABLES = ("SAM2FAST_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
LOCAL_FOLDER = Path("checkpoints")
_YES = ("1", "ON", "YES", "TRUE")


def find(model: Published) -> Path | None:
    """The checkpoint of an official model, if this machine has it.

    Looked for under its official name in ``$SAM2FAST_CHECKPOINTS``, ``./checkpoints``, the cache of huggingface_hub if
    that package is installed, and the package's own cache, in this order.
    """
    return next((path for path in candidates(model) if path.is_file()), None)


def candidates(model: Published) -> Iterator[Path]:
    """Every path at which the checkpoint may lie, in the order of the search."""
    file = model.release.checkpoint
    if named := os.environ.get(FOLDER_VARIABLE):
        yield expanded(named) / file
    yield LOCAL_FOLDER / file
    if (cached := _cached_by_hub(model)) is not None:
        yield cached
    yield own_cache() / file


def own_cache() -> Path:
    """The folder for files from a mirror or from Meta."""
    if named := os.environ.get(CACHE_VARIABLE):
        return expanded(named)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(base) / "sam2fast"


def mirror() -> str | None:
    """Address of the mirror, if one is set."""
    return os.environ.get(MIRROR_VARIABLE) or None


def offline_variable() -> str | None:
    """The variable that forbids the network, if any does."""
    return next((name for name in OFFLINE_VARIABLES if os.environ.get(name, "").upper() in _YES), None)


def _cached_by_hub(model: Published) -> Path | None:
    """The file in the cache of huggingface_hub; None if it is not there, or the package is not installed."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(model.hub_id, model.release.checkpoint)
    return Path(found) if isinstance(found, str) else None
