"""Defines the names of published models, and finds their checkpoints on this machine. Creates no files."""

import difflib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sam2fast._official_names import RELEASES, Release
from sam2fast.io.atomic import expanded
from sam2fast.utils.embedded import EMBEDDED, find_embedded

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*[\w-]", re.ASCII)
FOLDER_VARIABLE = "SAM2FAST_CHECKPOINTS"  # folder of checkpoints with official names
CACHE_VARIABLE = "SAM2FAST_CACHE"  # folder for downloads from a mirror or from Meta
MIRROR_VARIABLE = "SAM2FAST_MIRROR"  # URL of a folder of checkpoints with official names
OFFLINE_VARIABLES = ("SAM2FAST_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
LOCAL_FOLDER = Path("checkpoints")
_YES = ("1", "ON", "YES", "TRUE")


class Published(NamedTuple):
    """Stores the id of a published model on the Hugging Face hub, and the model's release."""

    hub_id: str
    release: Release


def short_name(name: str) -> str:
    """Removes ``configs/`` and ``.yaml`` from a configuration's name. Returns all other names unchanged."""
    return name.removeprefix("configs/").removesuffix(".yaml")


def published_models() -> dict[str, Published]:
    """Returns the official models by every accepted name, shortened by :func:`short_name`.

    Accepted names are the id on the hub, the configuration with or without folder, the checkpoint with or without
    suffix, the size alone for SAM 2.1, and ``medsam2``.
    """
    names: dict[str, Published] = {}
    for hub_id, release in RELEASES.items():
        model = Published(hub_id, release)
        config = short_name(release.config)  # sam2.1/sam2.1_hiera_t
        stem = release.checkpoint.removesuffix(".pt")  # sam2.1_hiera_tiny
        for name in (hub_id, config, config.rpartition("/")[2], stem, release.checkpoint):
            names.setdefault(name, model)  # for several models with one configuration, the first model
        if "2.1" in stem:
            names[stem.partition("_hiera_")[2]] = model  # tiny
    names["base+"] = names["base_plus"]
    names["medsam2"] = names["wanglab/MedSAM2"]
    return names


def published(name: str) -> Published | None:
    """Returns the official model with this name, or None."""
    return published_models().get(short_name(name))


def simplest_name(model: Published) -> str:
    """Returns the shortest name, for messages: ``tiny``, or ``sam2_hiera_t`` for SAM 2.0."""
    names = [name for name, named in published_models().items() if named == model and "+" not in name]
    return min(names, key=len)


def model_id(name: str) -> str | None:
    """Returns the id of the published or embedded model with this name, or None."""
    if embedded := find_embedded(short_name(name)):
        return embedded.model_id
    model = published(name)
    return None if model is None else model.hub_id


def suggestion(name: str) -> str:
    """Returns a sentence that suggests the model with the most similar name, or an empty string."""
    names = [*(one.rpartition("/")[2] for one in EMBEDDED), *EMBEDDED, *published_models()]
    near = difflib.get_close_matches(name, names, 1) or difflib.get_close_matches(name.lower(), names, 1)
    return f" Did you mean {near[0]}?" if near else ""


def is_repository(name: str) -> bool:
    """Returns True if ``name`` can be the id of a model on the Hugging Face hub, ``owner/name``.

    Returns False for embedded models, ``sam2fast/...``.
    """
    is_id = _REPOSITORY.fullmatch(name) is not None and "--" not in name and ".." not in name
    return is_id and not name.startswith("sam2fast/")


def find_local(model: Published) -> Path | None:
    """Returns the local checkpoint of an official model, or None.

    Searches the official file name in this order: ``$SAM2FAST_CHECKPOINTS``, ``./checkpoints``, the cache of
    huggingface_hub (if huggingface_hub is installed), and the cache of sam2fast.
    """
    return next((path for path in local_paths(model) if path.is_file()), None)


def local_paths(model: Published) -> Iterator[Path]:
    """Yields the possible paths of a checkpoint, in the order of :func:`find_local`."""
    file = model.release.checkpoint
    if named := os.environ.get(FOLDER_VARIABLE):
        yield expanded(named) / file
    yield LOCAL_FOLDER / file
    if (cached := cached_by_hub(model)) is not None:
        yield cached
    yield own_cache() / file


def own_cache() -> Path:
    """Returns the folder for downloads from a mirror or from Meta."""
    if named := os.environ.get(CACHE_VARIABLE):
        return expanded(named)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(base) / "sam2fast"


def offline_variable() -> str | None:
    """Returns the environment variable that disables downloads, or None."""
    return next((name for name in OFFLINE_VARIABLES if os.environ.get(name, "").upper() in _YES), None)


def cached_by_hub(model: Published) -> Path | None:
    """Returns the checkpoint in the cache of huggingface_hub, or None if the file or the package is missing."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    cached = try_to_load_from_cache("/".join(model.hub_id.split("/")[:2]), model.release.checkpoint)
    return Path(cached) if isinstance(cached, str) else None
