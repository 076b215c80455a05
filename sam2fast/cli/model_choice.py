"""Which configuration and which checkpoint are meant by ``--model`` and ``--checkpoint``."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import click

from sam2fast._official_names import RELEASES
from sam2fast.cli.command_files import digest_of_ends
from sam2fast.cli.user_errors import MissingCheckpointError, UserError, as_user_error, print_note
from sam2fast.downloads import catalog
from sam2fast.downloads.catalog import (
    FOLDER_VARIABLE,
    LOCAL_FOLDER,
    Published,
    published_models,
    short_name,
    simplest_name,
)
from sam2fast.io.atomic import expanded
from sam2fast.utils.embedded import MINI, EmbeddedModel, find_embedded

DEFAULT_MODEL = "tiny"  # if its checkpoint is found; else mini


class ModelChoice(NamedTuple):
    """A configuration name or YAML path, and a checkpoint file that exists."""

    config: str
    checkpoint: Path

    def as_json(self) -> dict[str, str]:
        """As JSON."""
        return {"config": self.config, "checkpoint": str(self.checkpoint)}

    def fingerprint(self) -> dict[str, Any]:
        """Identifies the model independently of where its files lie, as JSON.

        Raises:
            OSError: a file cannot be read.
        """
        config = Path(self.config)
        return {
            "config": digest_of_ends(config) if config.is_file() else self.config,
            "weights": digest_of_ends(self.checkpoint),
        }


def choose_model(model: str | None, checkpoint: Path | None) -> ModelChoice:
    """Resolves ``--model`` and ``--checkpoint``. Reads at most the checkpoint's table of contents.

    Without either it is the tiny model if its checkpoint is found, else mini with a note.

    Raises:
        MissingCheckpointError: the checkpoint does not exist; for an official model the message says where to get it.
        UserError: the checkpoint cannot be read, or its model is neither an official one nor in the package.
        click.UsageError: no model has this name, or it has no official checkpoint.
    """
    if checkpoint is not None and not checkpoint.is_file():
        checkpoint = _find_in_folder(checkpoint)
    if checkpoint is not None and model is None:
        return ModelChoice(_config_that_fits(checkpoint), checkpoint)
    if model is None:
        return _default()
    if embedded := find_embedded(short_name(model)):
        return ModelChoice(embedded.config, checkpoint or _weights_of(embedded))
    official = published_models().get(short_name(model))
    if official is None and not _is_config(model):
        raise click.BadParameter(
            f"no model or YAML file {model!r}; the models are mini, nano, tiny, small, base_plus, large, and by "
            "official name " + ", ".join(short_name(r.config).rpartition("/")[2] for r in RELEASES.values()),
            param_hint="'--model'",
        )
    if checkpoint is None:
        if official is None:
            raise click.UsageError(f"the model {model} has no official checkpoint; give one with --checkpoint FILE")
        checkpoint = _find_checkpoint(official)
    return ModelChoice(official.release.config if official else model, checkpoint)


def _default() -> ModelChoice:
    official = published_models()[DEFAULT_MODEL]
    release = official.release
    try:
        return ModelChoice(release.config, _find_checkpoint(official))
    except MissingCheckpointError:
        print_note(
            f"no {release.checkpoint} was found, so this is mini, the model in the package, derived from SAM 2 tiny; "
            f"for better masks get it by 'sam2fast download {DEFAULT_MODEL}' or from {release.url} into "
            f"./{LOCAL_FOLDER} or ${FOLDER_VARIABLE}, or give another model with --checkpoint FILE"
        )
        return ModelChoice(MINI.config, _weights_of(MINI))


def _weights_of(model: EmbeddedModel) -> Path:
    if not model.weights.is_file():
        raise MissingCheckpointError(f"this installation lacks {model.weights}; install sam2fast again")
    return model.weights


def _find_in_folder(path: Path) -> Path:
    """The checkpoint in a folder, such as a model folder of transformers."""
    if not path.is_dir():
        raise MissingCheckpointError(f"no checkpoint file {str(path)!r}")
    from sam2fast.checkpoints import CheckpointError, find_weights

    try:
        with as_user_error(CheckpointError):
            return find_weights(path)
    except FileNotFoundError as error:
        raise MissingCheckpointError(str(error)) from error


def _config_that_fits(checkpoint: Path) -> str:
    from sam2fast.checkpoints import CheckpointError, NoConfigError, choose_config

    try:
        config, overrides = choose_config(checkpoint)
    except NoConfigError as error:
        raise UserError(f"{error} with --model FILE.yaml") from error
    except (CheckpointError, OSError, ImportError) as error:
        raise UserError(" ".join(str(error).split())) from error
    if overrides:
        raise UserError(
            f"the model of {checkpoint} is {config} with {' '.join(overrides)}, as the config.json beside it says; "
            "name a configuration with these values with --model FILE.yaml"
        )
    return config


def _is_config(name: str) -> bool:
    from sam2fast.config import shipped_configs

    return Path(name).is_file() or short_name(name) in shipped_configs()


def _find_checkpoint(model: Published) -> Path:
    found = catalog.find_local(model)
    if found is not None:
        return found
    named = os.environ.get(FOLDER_VARIABLE)
    first = f"{expanded(named)} (${FOLDER_VARIABLE})" if named else f"${FOLDER_VARIABLE} (not set)"
    raise MissingCheckpointError(
        f"no checkpoint {model.release.checkpoint} in {first}, {LOCAL_FOLDER.absolute()} or the caches; get it by "
        f"'sam2fast download {simplest_name(model)}' or from {model.release.url} into one of these folders, or give a "
        "file with --checkpoint FILE"
    )
