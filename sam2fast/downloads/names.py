"""The names under which published models can be asked for."""

import re
from typing import NamedTuple

from sam2fast._official_names import RELEASES, Release

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*[\w-]", re.ASCII)


class Published(NamedTuple):
    """A published model: its id on the Hugging Face hub, and what belongs to it."""

    hub_id: str
    release: Release


def short_name(name: str) -> str:
    """A configuration's name without ``configs/`` and ``.yaml``; any other name as it is."""
    return name.removeprefix("configs/").removesuffix(".yaml")


def published_models() -> dict[str, Published]:
    """Every spelling of an official model's name, shortened by :func:`short_name`.

    These are the hub's id, the configuration with and without its folder, the checkpoint with and without its ending,
    and for SAM 2.1 the size alone.
    """
    names: dict[str, Published] = {}
    for hub_id, release in RELEASES.items():
        model = Published(hub_id, release)
        config = short_name(release.config)  # sam2.1/sam2.1_hiera_t
        stem = release.checkpoint.removesuffix(".pt")  # sam2.1_hiera_tiny
        for name in (hub_id, config, config.rpartition("/")[2], stem, release.checkpoint):
            names[name] = model
        if "2.1" in stem:
            names[stem.partition("_hiera_")[2]] = model  # tiny
    names["base+"] = names["base_plus"]
    return names


def published(name: str) -> Published | None:
    """The official model of this name, if there is one."""
    return published_models().get(short_name(name))


def simplest_name(model: Published) -> str:
    """The name to tell a user: ``tiny``, or ``sam2_hiera_t`` for SAM 2.0."""
    names = [name for name, named in published_models().items() if named == model and "+" not in name]
    return min(names, key=len)


def is_repository(name: str) -> bool:
    """Whether this can be the id of a model on the Hugging Face hub, ``owner/name``."""
    return _REPOSITORY.fullmatch(name) is not None and "--" not in name and ".." not in name
