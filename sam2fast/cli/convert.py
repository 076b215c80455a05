"""``sam2fast convert``: converts a checkpoint from one layout to another."""

from pathlib import Path
from typing import Any

import click

from sam2fast.cli.command import argument, command, option
from sam2fast.cli.command_files import note_kept
from sam2fast.cli.model_choice import ModelChoice, config_of, note_licence
from sam2fast.cli.options import DTYPES
from sam2fast.cli.reporting import emit, output_options, say
from sam2fast.cli.user_errors import MissingCheckpointError, as_user_error
from sam2fast.io.atomic import expanded

LAYOUTS = ("official", "safetensors", "transformers")
LAYOUT_OF_SUFFIX = {".pt": "official", ".pth": "official", ".safetensors": "safetensors"}
FILE_SUFFIXES = (".bin", ".ckpt", ".gz", ".onnx", ".tar", ".zip")  # suffixes that no name of a folder has


class ConvertCommand:
    """Convert a checkpoint between Meta's layout, safetensors and Hugging Face transformers.

    IN is a file or a folder in any of these layouts. The new file is read back, and compared with the weights of IN,
    before the file gets the name OUT. An existing OUT from the same checkpoint with the same options is kept.
    """

    source: Path = argument(metavar="IN")
    target: Path = argument(metavar="OUT")
    layout: str | None = option(
        "--to",
        type=click.Choice(LAYOUTS),
        help="official: a .pt file in Meta's layout; safetensors: the same names in a .safetensors file; "
        "transformers: a folder for Hugging Face transformers. [default: by the name of OUT]",
    )
    dtype: str | None = option(type=click.Choice(DTYPES), help="Round the weights to this dtype.  [default: unchanged]")
    int8: bool = option(help="Store large weights as 8-bit integers, a quarter of the size. For safetensors.")
    model: str | None = option(
        metavar="NAME", help="Model of the weights: a name, a configuration or a YAML file.  [default: detected]"
    )
    prefix: str = option(
        default="",
        show_default=False,
        metavar="TEXT",
        help="Take only weights with this prefix, and remove the prefix. A prefix of all weights is always removed.",
    )
    overwrite: bool = option(help="Replace OUT.")

    def run(self) -> None:
        if not expanded(self.source).exists():
            raise MissingCheckpointError(f"no checkpoint {str(self.source)!r}")
        suffix = self.target.suffix.lower()
        if self.layout is None and suffix in FILE_SUFFIXES:
            raise click.UsageError(
                f"no layout uses files such as {self.target.name}; name it .pt or .safetensors, or give --to"
            )
        layout = self.layout or LAYOUT_OF_SUFFIX.get(suffix, "transformers")
        if self.int8 and (layout != "safetensors" or self.dtype):
            raise click.UsageError("--int8 is for the layout safetensors, without --dtype")

        import torch

        from sam2fast.checkpoints import find_weights
        from sam2fast.checkpoints.choosing import Choice
        from sam2fast.checkpoints.converting import check_target, convert_checkpoint, fitting_config

        try:
            check_target(self.target, layout)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        config = None if self.model is None else config_of(self.model)
        with as_user_error(OSError, ImportError):
            weights = find_weights(self.source)
            choice = fitting_config(self.source, self.prefix) if config is None else Choice(config)
            name = " ".join((choice.config, *choice.overrides)) if choice else "none"
            options: dict[str, Any] = {"int8": self.int8, "prefix": self.prefix}
            made_from = ModelChoice(name, weights).made_from(to=layout, dtype=self.dtype, **options)
            options |= {"dtype": getattr(torch, self.dtype) if self.dtype else None, "made_from": made_from}
            options |= {"config": config, "overwrite": self.overwrite}
            done = convert_checkpoint(self.source, self.target, layout, **options)
        files = {str(file): digest for file, digest in done.files.items()}
        left_out = {"left_out": {"detector_weights": done.of_detector}} if done.of_detector else {}
        emit(
            {"layout": done.layout, "tensors": done.tensors, "parameters": done.parameters, "sha256": files} | left_out
        )
        fits = done.choice.config if done.choice else "no configuration of the package; it can be loaded in part"
        say(f"layout   {done.layout}")
        say(f"fits     {fits}")
        if done.choice and done.choice.overrides:
            say(f"with     {' '.join(done.choice.overrides)}")
        say(f"weights  {done.tensors} tensors, {done.parameters} parameters, {', '.join(done.dtypes)}")
        if done.of_detector:
            say(f"left out {done.of_detector} weights of SAM 3's detector")
        if done.is_kept:
            note_kept(self.target)
        else:
            say("checked  read back, names and values equal")
        if done.choice:
            note_licence(done.choice.config, self.target)
        for file, digest in done.files.items():
            say(f"sha256   {digest}  {click.format_filename(file)}")


convert = command(ConvertCommand, output_options())
