"""The published models: their names, and where their checkpoints are on this machine. Searching creates nothing."""

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
FOLDER_VARIABLE = "SAM2FAST_CHECKPOINTS"  # a folder of checkpoints under their official names
CACHE_VARIABLE = "SAM2FAST_CACHE"  # the folder for downloads from a mirror or from Meta
MIRROR_VARIABLE = "SAM2FAST_MIRROR"  # an HTTP folder of checkpoints under their official names
OFFLINE_VARIABLES = ("SAM2FAST_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
LOCAL_FOLDER = Path("checkpoints")
_YES = ("1", "ON", "YES", "TRUE")


class Published(NamedTuple):
    """A published model: its id on the Hugging Face hub, and its files."""

    hub_id: str
    release: Release


def short_name(name: str) -> str:
    """A configuration's name without ``configs/`` and ``.yaml``; any other name as it is."""
    return name.removeprefix("configs/").removesuffix(".yaml")


def published_models() -> dict[str, Published]:
    """The official models by every accepted name, shortened by :func:`short_name`.

    Names are the hub's id, the configuration with and without its folder, the checkpoint with and without its suffix,
    for SAM 2.1 the size alone, and ``medsam2``.
    """
    names: dict[str, Published] = {}
    for hub_id, release in RELEASES.items():
        model = Published(hub_id, release)
        config = short_name(release.config)  # sam2.1/sam2.1_hiera_t
        stem = release.checkpoint.removesuffix(".pt")  # sam2.1_hiera_tiny
        for name in (hub_id, config, config.rpartition("/")[2], stem, release.checkpoint):
            names.setdefault(name, model)  # the first of several with one configuration
        if "2.1" in stem:
            names[stem.partition("_hiera_")[2]] = model  # tiny
    names["base+"] = names["base_plus"]
    names["medsam2"] = names["wanglab/MedSAM2"]
    return names


def published(name: str) -> Published | None:
    """The official model with this name, or None."""
    return published_models().get(short_name(name))


def simplest_name(model: Published) -> str:
    """The shortest name, for messages: ``tiny``, or ``sam2_hiera_t`` for SAM 2.0."""
    names = [name for name, named in published_models().items() if named == model and "+" not in name]
    return min(names, key=len)


def model_id(name: str) -> str | None:
    """Returns the id of the published model or of the model in the package with this name, or None."""
    if embedded := find_embedded(short_name(name)):
        return embedded.model_id
    model = published(name)
    return None if model is None else model.hub_id


def suggestion(name: str) -> str:
    """Returns a sentence with the model that has the most similar name, or an empty text."""
    names = [*(one.rpartition("/")[2] for one in EMBEDDED), *EMBEDDED, *published_models()]
    near = difflib.get_close_matches(name, names, 1) or difflib.get_close_matches(name.lower(), names, 1)
    return f" Did you mean {near[0]}?" if near else ""


def is_repository(name: str) -> bool:
    """Returns True if this can be the id of a model on the Hugging Face hub, ``owner/name``.

    ``sam2fast/...`` are models of the package.
    """
    is_id = _REPOSITORY.fullmatch(name) is not None and "--" not in name and ".." not in name
    return is_id and not name.startswith("sam2fast/")


def find_local(model: Published) -> Path | None:
    """The local checkpoint of an official model, or None.

    Searched under its official name in ``$SAM2FAST_CHECKPOINTS``, ``./checkpoints``, the cache of huggingface_hub if
    that package is installed, and the package's own cache, in this order.
    """
    return next((path for path in local_paths(model) if path.is_file()), None)


def local_paths(model: Published) -> Iterator[Path]:
    """Yields the possible paths of a checkpoint, in the order of the search."""
    file = model.release.checkpoint
    if named := os.environ.get(FOLDER_VARIABLE):
        yield expanded(named) / file
    yield LOCAL_FOLDER / file
    if (cached := cached_by_hub(model)) is not None:
        yield cached
    yield own_cache() / file


def own_cache() -> Path:
    """The folder for downloads from a mirror or from Meta."""
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
    """The environment variable that forbids the network, or None."""
    return next((name for name in OFFLINE_VARIABLES if os.environ.get(name, "").upper() in _YES), None)


def cached_by_hub(model: Published) -> Path | None:
    """The file in the cache of huggingface_hub; None without the file or without the package."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache("/".join(model.hub_id.split("/")[:2]), model.release.checkpoint)
    return Path(found) if isinstance(found, str) else None
