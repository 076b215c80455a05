"""Which configuration and which checkpoint are meant by ``--model`` and ``--checkpoint``."""

import os
from pathlib import Path
from typing import NamedTuple

import click

from sam2fast import nano
from sam2fast._official_names import RELEASES, Release
from sam2fast.cli.errors import MissingCheckpointError, UserError, one_line

DEFAULT_MODEL = "tiny"  # where its checkpoint is there; else nano
NANO = ("nano", nano.MODEL_ID, "sam2fast_nano", "nano/sam2fast_nano")  # its names, shortened by _short
FOLDER_VARIABLE = "SAM2FAST_CHECKPOINTS"
LOCAL_FOLDER = Path("checkpoints")


class ModelChoice(NamedTuple):
    """A configuration name or YAML path, and a checkpoint file that exists."""

    config: str
    checkpoint: Path


def choose_model(model: str | None, checkpoint: Path | None) -> ModelChoice:
    """Resolves what the user gave, by reading names and at most the checkpoint's table of contents.

    Given nothing, it is the tiny model if its checkpoint is found; else nano, which is always there, with a note.

    Raises:
        MissingCheckpointError: the checkpoint is not there; for an official model the message says where to get it.
        UserError: the checkpoint cannot be read, or its model is neither an official one nor nano.
        click.UsageError: no model has this name, or it has no official checkpoint.
    """
    if checkpoint is not None and not checkpoint.is_file():
        raise MissingCheckpointError(f"no checkpoint file {str(checkpoint)!r}")
    if checkpoint is not None and model is None:
        return ModelChoice(_config_that_fits(checkpoint), checkpoint)
    if model is None:
        return _default()
    if _short(model) in NANO:
        return ModelChoice(nano.CONFIG, checkpoint or _weights_of_nano())
    release = _releases_by_name().get(_short(model))
    if release is None and not _is_config(model):
        raise click.BadParameter(
            f"no model or YAML file {model!r}; the models are nano, tiny, small, base_plus, large, and by official "
            "name " + ", ".join(_short(r.config).rpartition("/")[2] for r in RELEASES.values()),
            param_hint="'--model'",
        )
    if checkpoint is None:
        if release is None:
            raise click.UsageError(f"the model {model} has no official checkpoint; give one with --checkpoint FILE")
        checkpoint = _find_checkpoint(release)
    return ModelChoice(release.config if release else model, checkpoint)


def _default() -> ModelChoice:
    release = _releases_by_name()[DEFAULT_MODEL]
    try:
        return ModelChoice(release.config, _find_checkpoint(release))
    except MissingCheckpointError:
        click.echo(
            f"sam2fast: note: no {release.checkpoint} was found, so this is nano, the small model in the package; for "
            f"better masks download {release.url} into ./{LOCAL_FOLDER} or ${FOLDER_VARIABLE}, or give another model "
            "with --checkpoint FILE",
            err=True,
        )
        return ModelChoice(nano.CONFIG, _weights_of_nano())


def _weights_of_nano() -> Path:
    if not nano.WEIGHTS.is_file():
        raise MissingCheckpointError(f"this installation lacks {nano.WEIGHTS}; install sam2fast again")
    return nano.WEIGHTS


def _config_that_fits(checkpoint: Path) -> str:
    from sam2fast.checkpoints import CheckpointError, guess_config, read_checkpoint

    with one_line(CheckpointError, OSError, ImportError):
        config = guess_config(read_checkpoint(checkpoint))
    if config is None:
        raise UserError(
            f"{checkpoint} fits neither nano nor an official model; name its configuration with --model FILE.yaml"
        )
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
