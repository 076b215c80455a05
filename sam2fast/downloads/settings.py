"""What the environment says about downloads; read when it is needed, never stored."""

import contextlib
import os
import sys
from pathlib import Path

from sam2fast.home import expanded

FOLDER_VARIABLE = "SAM2FAST_CHECKPOINTS"  # a folder of checkpoints under their official names
CACHE_VARIABLE = "SAM2FAST_CACHE"  # what does not come from the hub is stored there
MIRROR_VARIABLE = "SAM2FAST_MIRROR"  # an HTTP folder of checkpoints under their official names
OFFLINE_VARIABLES = ("SAM2FAST_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
LOCAL_FOLDER = Path("checkpoints")
HUB = "https://huggingface.co"
_YES = ("1", "ON", "YES", "TRUE")


def offline_variable() -> str | None:
    """The variable that forbids the network, if any does."""
    return next((name for name in OFFLINE_VARIABLES if os.environ.get(name, "").upper() in _YES), None)


def mirror() -> str | None:
    """Address of the mirror, if one is set."""
    return os.environ.get(MIRROR_VARIABLE) or None


def hub_endpoint() -> str:
    """Address of the Hugging Face hub or of what stands in for it, without a slash at the end."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def checkpoint_folders() -> list[Path]:
    """Folders of the user's where checkpoints may lie, first the one that is named explicitly."""
    named = os.environ.get(FOLDER_VARIABLE)
    return [*([expanded(named)] if named else []), LOCAL_FOLDER]


def own_cache() -> Path:
    """Where files from a mirror or from Meta are stored."""
    if named := os.environ.get(CACHE_VARIABLE):
        return expanded(named)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(base) / "sam2fast"


def hub_home() -> Path:
    """Folder of everything of huggingface_hub's, found as that package finds it."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _path(os.environ.get("HF_HOME") or os.path.join(base, "huggingface"))


def hub_cache() -> Path:
    """Cache of huggingface_hub, which is shared with it."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return _path(named) if named else hub_home() / "hub"


def hub_token() -> str | None:
    """The token for the hub: what huggingface_hub gives where it is installed, else from its variable or file.

    None also where that file cannot be read, since most models need no token.
    """
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return _hub_token()
    return None


def _hub_token() -> str | None:
    try:
        from huggingface_hub import get_token
    except ImportError:
        named = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
        file = _path(os.environ.get("HF_TOKEN_PATH") or str(hub_home() / "token"))
        token = named or (file.read_text(encoding="utf-8") if file.is_file() else "")
        return token.strip() or None
    return get_token()


def _path(text: str) -> Path:
    return expanded(os.path.expandvars(text))
