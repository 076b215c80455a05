"""``sam2fast convert``: a checkpoint from one layout to another."""

from pathlib import Path
from typing import Any

import click

from sam2fast.cli.command_files import note_kept
from sam2fast.cli.model_choice import ModelChoice, config_of, note_licence
from sam2fast.cli.options import DTYPES, PATH
from sam2fast.cli.reporting import emit, output_options, say
from sam2fast.cli.user_errors import MissingCheckpointError, as_user_error
from sam2fast.io.atomic import expanded

LAYOUTS = ("official", "safetensors", "transformers")
LAYOUT_OF_SUFFIX = {".pt": "official", ".pth": "official", ".safetensors": "safetensors"}
FILE_SUFFIXES = (".bin", ".ckpt", ".gz", ".onnx", ".tar", ".zip")  # nobody means a folder


@click.command()
@click.argument("source", metavar="IN", type=PATH)
@click.argument("target", metavar="OUT", type=PATH)
@click.option(
    "--to",
    "layout",
    type=click.Choice(LAYOUTS),
    help="official: a .pt file as Meta publishes them; safetensors: the same names in a .safetensors file; "
    "transformers: a folder for Hugging Face transformers. [default: by the name of OUT]",
)
@click.option("--dtype", type=click.Choice(DTYPES), help="Round the weights to this dtype.  [default: unchanged]")
@click.option("--int8", is_flag=True, help="Store large weights in eight bits, for safetensors: a quarter of the size.")
@click.option(
    "--model",
    metavar="NAME",
    help="Of the weights: a model's name, a configuration or a YAML file.  [default: detected]",
)
@click.option(
    "--prefix",
    default="",
    show_default=False,
    metavar="TEXT",
    help="Take only the names with this prefix, and remove it. A prefix that all names have is always removed.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
@output_options()
def convert(
    source: Path,
    target: Path,
    layout: str | None,
    dtype: str | None,
    int8: bool,
    model: str | None,
    prefix: str,
    overwrite: bool,
) -> None:
    """Convert a checkpoint between Meta's layout, safetensors and Hugging Face transformers.

    IN is a file or a folder of any of them. OUT is written atomically, after it was read back and compared. If OUT was
    converted from the same before, it is kept.
    """
    if not expanded(source).exists():
        raise MissingCheckpointError(f"no checkpoint {str(source)!r}")
    suffix = target.suffix.lower()
    if layout is None and suffix in FILE_SUFFIXES:
        raise click.UsageError(f"no layout has files such as {target.name}; name it .pt or .safetensors, or give --to")
    layout = layout or LAYOUT_OF_SUFFIX.get(suffix, "transformers")
    if int8 and (layout != "safetensors" or dtype):
        raise click.UsageError("--int8 is for the layout safetensors, without --dtype")

    import torch

    from sam2fast.checkpoints import find_weights
    from sam2fast.checkpoints.choosing import Choice
    from sam2fast.checkpoints.converting import check_target, convert_checkpoint, fitting_config

    try:
        check_target(target, layout)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    config = None if model is None else config_of(model)
    with as_user_error(OSError, ImportError):
        weights = find_weights(source)
        choice = fitting_config(source, prefix) if config is None else Choice(config)
        name = " ".join((choice.config, *choice.overrides)) if choice else "none"
        made_from = ModelChoice(name, weights).made_from(to=layout, dtype=dtype, int8=int8, prefix=prefix)
        options: dict[str, Any] = {"int8": int8, "config": config, "prefix": prefix, "overwrite": overwrite}
        options |= {"dtype": getattr(torch, dtype) if dtype else None, "made_from": made_from}
        done = convert_checkpoint(source, target, layout, **options)
    files = {str(file): digest for file, digest in done.files.items()}
    left_out = {"left_out": {"detector_weights": done.of_detector}} if done.of_detector else {}
    emit({"layout": done.layout, "tensors": done.tensors, "parameters": done.parameters, "sha256": files} | left_out)
    fits = done.choice.config if done.choice else "no configuration of the package; it can be loaded in part"
    say(f"layout   {done.layout}")
    say(f"fits     {fits}")
    if done.choice and done.choice.overrides:
        say(f"with     {' '.join(done.choice.overrides)}")
    say(f"weights  {done.tensors} tensors, {done.parameters} parameters, {', '.join(done.dtypes)}")
    if done.of_detector:
        say(f"left out {done.of_detector} weights of SAM 3's detector")
    if done.is_kept:
        note_kept(target)
    else:
        say("checked  read back, names and values equal")
    if done.choice:
        note_licence(done.choice.config, target)
    for file, digest in done.files.items():
        say(f"sha256   {digest}  {click.format_filename(file)}")
