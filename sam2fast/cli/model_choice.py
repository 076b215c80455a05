"""Finds the configuration and the checkpoint for ``--model``, ``--checkpoint`` and ``--image-size``."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import click

from sam2fast import __version__
from sam2fast._official_names import SAM3_CONFIG, SAM3_ID
from sam2fast.cli.reporting import reporting
from sam2fast.cli.terminal import print_message
from sam2fast.cli.user_errors import MissingCheckpointError, UserError, as_user_error, format_error, print_note
from sam2fast.downloads import DownloadError, get_checkpoint, get_repository
from sam2fast.downloads.catalog import is_repository, published_models, short_name, suggestion
from sam2fast.downloads.digests import digest_of
from sam2fast.utils.embedded import MINI, EmbeddedModel, find_embedded

SAM3 = short_name(SAM3_CONFIG).rpartition("/")[2]
DEFAULT_MODEL = "tiny"  # SAM 2.1 tiny; mini if the checkpoint of tiny is unavailable


class ModelChoice(NamedTuple):
    """A configuration name or YAML path, and a checkpoint file that exists."""

    config: str
    checkpoint: Path
    fallback: bool = False  # True if mini replaces the default model
    image_size: int | None = None  # the value of ``--image-size``

    def as_json(self) -> dict[str, Any]:
        """Returns the choice as JSON: the input size if set, and ``name`` and ``fallback`` only for a fallback."""
        content = {"config": self.config, "checkpoint": str(self.checkpoint), **self._size()}
        return {**content, "name": "mini", "fallback": True} if self.fallback else content

    def fingerprint(self) -> dict[str, Any]:
        """Returns JSON that identifies the model by the content of its files."""
        config, weights = Path(self.config), self.checkpoint
        with as_user_error(OSError, ValueError, LookupError, AttributeError):
            files = [weights]
            if weights.name.endswith(".index.json"):
                shards = json.loads(weights.read_bytes())["weight_map"].values()
                files += [weights.parent / name for name in sorted(set(shards))]
            return {
                "config": digest_of(config) if config.is_file() else self.config,
                "weights": digest_of(weights, files),
                **self._size(),
            }

    def made_from(self, **options: Any) -> dict[str, Any]:
        """Returns the record of the model and options that determine results; see :mod:`sam2fast.io.made_from`."""
        model = self.fingerprint()
        options = {**options, "image_size": model.pop("image_size", None)}
        return {"version": __version__, **model, "options": options}

    def _size(self) -> dict[str, int]:
        return {} if self.image_size is None else {"image_size": self.image_size}


def choose_model(model: str | None, checkpoint: Path | None, image_size: int | None = None) -> ModelChoice:
    """Resolves ``--model``, ``--checkpoint`` and ``--image-size``. Reads at most the checkpoint's table of contents.

    As in ``from_pretrained``, a missing checkpoint of a published model is downloaded. If ``model`` and ``checkpoint``
    are None, the model is SAM 2.1 tiny, or mini (with a warning) if tiny is unavailable.

    Raises:
        MissingCheckpointError: If the checkpoint does not exist, or cannot be downloaded.
        UserError: If the checkpoint cannot be read, or belongs to a model neither official nor in the package.
        click.UsageError: If no model has this name, or the model has no official checkpoint.
    """
    return _resolve(model, checkpoint)._replace(image_size=image_size)


def config_of(model: str) -> str:
    """Returns the configuration of a published model or of a model in the package, or the name itself."""
    name = model if _is_user_file(model) else short_name(model)
    if embedded := find_embedded(name):
        return embedded.config
    official = published_models().get(name)
    return official.release.config if official else model


def _is_user_file(model: str) -> bool:
    """Returns True for a user's file, such as ``small.yaml``, and False for a configuration of the package."""
    if not Path(model).is_file():
        return False
    from sam2fast.config import shipped_configs

    return short_name(model).rpartition("/")[2] not in {name.rpartition("/")[2] for name in shipped_configs()}


def _resolve(model: str | None, checkpoint: Path | None) -> ModelChoice:
    if checkpoint is not None and not checkpoint.is_file():
        checkpoint = _find_in_folder(checkpoint)
    if checkpoint is not None and model is None:
        return ModelChoice(_config_that_fits(checkpoint), checkpoint)
    if model is None:
        default = published_models()[DEFAULT_MODEL].release
        try:
            return ModelChoice(default.config, get_checkpoint(DEFAULT_MODEL, quiet=reporting().quiet))
        except DownloadError as error:
            print_message(
                f"THIS IS NOT SAM 2: mini, which has worse masks, replaces SAM 2.1 {DEFAULT_MODEL}, since "
                f"{error.reason}. To get {DEFAULT_MODEL}: sam2fast download {DEFAULT_MODEL}. To hide this line: "
                "--model mini"
            )
            return ModelChoice(MINI.config, _weights_of(MINI), fallback=True)
    name = model if _is_user_file(model) else short_name(model)
    if embedded := find_embedded(name):
        return ModelChoice(embedded.config, checkpoint or _weights_of(embedded))
    official = published_models().get(name)
    if official is not None:
        try:
            checkpoint = checkpoint or get_checkpoint(model, quiet=reporting().quiet)
        except DownloadError as error:
            raise MissingCheckpointError(f"{format_error(error)} with --checkpoint") from error
        return ModelChoice(official.release.config, checkpoint)
    from sam2fast.config import shipped_configs

    shipped = shipped_configs()
    if Path(model).is_file() or name in {*shipped, *(config.rpartition("/")[2] for config in shipped)}:
        if checkpoint is None and name.rpartition("/")[2] == SAM3:
            return _from_hub(SAM3_ID)
        if checkpoint is None:
            raise click.UsageError(f"the model {model} has no official checkpoint; give one with --checkpoint FILE")
        return ModelChoice(model, checkpoint)
    if checkpoint is None and is_repository(model) and not model.endswith(".yaml"):
        return _from_hub(model)
    raise click.BadParameter(
        f"no model or YAML file {model!r}.{suggestion(model)} `sam2fast download --list` shows all names, such as tiny "
        "and mini",
        param_hint="'--model'",
    )


def _from_hub(model: str) -> ModelChoice:
    """Returns an unpublished model of the Hugging Face hub."""
    try:
        checkpoint = _find_in_folder(get_repository(model, quiet=reporting().quiet))
    except (DownloadError, ImportError) as error:
        raise MissingCheckpointError(format_error(error)) from error
    return ModelChoice(_config_that_fits(checkpoint), checkpoint)


def _weights_of(model: EmbeddedModel) -> Path:
    if not model.weights.is_file():
        raise MissingCheckpointError(f"this installation lacks {model.weights}; install sam2fast again")
    return model.weights


def _find_in_folder(path: Path) -> Path:
    """Returns the checkpoint in a folder, such as a model folder of transformers."""
    if not path.is_dir():
        raise MissingCheckpointError(f"no checkpoint file {str(path)!r}")
    from sam2fast.checkpoints import find_weights

    try:
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
            f"the model of {checkpoint} is {config} with {' '.join(overrides)}, according to its config.json; "
            "give a configuration with these values with --model FILE.yaml"
        )
    return config


def note_licence(config: str, out: Path) -> None:
    """Prints the licence of a model's files, if the model's configuration names a licence."""
    from sam2fast.config import load_config

    if licence := load_config(config).get("licence"):
        print_note(f"these weights are under the {licence}, and so is {click.format_filename(out)}")
