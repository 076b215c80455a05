"""Which configuration and which checkpoint are meant by ``--model`` and ``--checkpoint``."""

import os
from pathlib import Path
from typing import NamedTuple

import click

from sam2fast._official_names import RELEASES, Release
from sam2fast.cli.errors import MissingCheckpointError, UserError, one_line

DEFAULT_MODEL = "tiny"
FOLDER_VARIABLE = "SAM2FAST_CHECKPOINTS"
LOCAL_FOLDER = Path("checkpoints")


class ModelChoice(NamedTuple):
    """A configuration name or YAML path, and a checkpoint file that exists."""

    config: str
    checkpoint: Path


def choose_model(model: str | None, checkpoint: Path | None) -> ModelChoice:
    """Resolves what the user gave, by reading names and at most the checkpoint's table of contents.

    Raises:
        MissingCheckpointError: the checkpoint is not there; for an official model the message says where to get it.
        UserError: the checkpoint cannot be read, or its model is none of the official ones.
        click.UsageError: no model has this name, or it has no official checkpoint.
    """
    if checkpoint is not None and not checkpoint.is_file():
        raise MissingCheckpointError(f"no checkpoint file {str(checkpoint)!r}")
    if checkpoint is not None and model is None:
        return ModelChoice(_config_that_fits(checkpoint), checkpoint)
    name = model or DEFAULT_MODEL
    release = _releases_by_name().get(_short(name))
    if release is None and not _is_config(name):
        raise click.BadParameter(
            f"no model or YAML file {name!r}; the models are tiny, small, base_plus, large, and by official name "
            + ", ".join(_short(r.config).rpartition("/")[2] for r in RELEASES.values()),
            param_hint="'--model'",
        )
    if checkpoint is None:
        if release is None:
            raise click.UsageError(f"the model {name} has no official checkpoint; give one with --checkpoint FILE")
        checkpoint = _find_checkpoint(release)
    return ModelChoice(release.config if release else name, checkpoint)


def _config_that_fits(checkpoint: Path) -> str:
    from sam2fast.checkpoints import CheckpointError, guess_config, read_checkpoint

    with one_line(CheckpointError, OSError, ImportError):
        config = guess_config(read_checkpoint(checkpoint))
    if config is None:
        raise UserError(f"{checkpoint} fits none of the official models; name its configuration with --model FILE.yaml")
    return config


def _releases_by_name() -> dict[str, Release]:
    """Every spelling of an official model's name, shortened by :func:`_short`."""
    names: dict[str, Release] = {}
    for hub_id, release in RELEASES.items():
        config = _short(release.config)  # sam2.1/sam2.1_hiera_t
        stem = release.checkpoint.removesuffix(".pt")  # sam2.1_hiera_tiny
        for name in (hub_id, config, config.rpartition("/")[2], stem):
            names[name] = release
        if "2.1" in stem:
            names[stem.partition("_hiera_")[2]] = release  # tiny
    names["base+"] = names["base_plus"]
    return names


def _short(name: str) -> str:
    return name.removeprefix("configs/").removesuffix(".yaml")


def _is_config(name: str) -> bool:
    from sam2fast.config import shipped_configs

    return Path(name).is_file() or _short(name) in shipped_configs()


def _find_checkpoint(release: Release) -> Path:
    named = os.environ.get(FOLDER_VARIABLE)
    folders = [Path(named).expanduser()] if named else []
    for folder in (*folders, LOCAL_FOLDER):
        if (folder / release.checkpoint).is_file():
            return folder / release.checkpoint
    first = f"{folders[0]} (${FOLDER_VARIABLE})" if folders else f"${FOLDER_VARIABLE} (not set)"
    raise MissingCheckpointError(
        f"no checkpoint {release.checkpoint} in {first} or {LOCAL_FOLDER.absolute()}; download it from "
        f"{release.url} into one of these folders, or give a file with --checkpoint FILE"
    )
