"""``sam2fast convert``: a checkpoint from one layout to another."""

from pathlib import Path

import click

from sam2fast.cli.errors import MissingCheckpointError, one_line
from sam2fast.cli.options import DTYPES
from sam2fast.io.atomic import expanded

LAYOUTS = ("official", "safetensors", "transformers")
BY_SUFFIX = {".pt": "official", ".pth": "official", ".safetensors": "safetensors"}


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "layout",
    type=click.Choice(LAYOUTS),
    help="official: a .pt file as Meta publishes them; safetensors: the same names in a .safetensors file; "
    "transformers: a folder for Hugging Face transformers. Left out, the name of OUT says it.",
)
@click.option("--dtype", type=click.Choice(DTYPES), help="To round the weights to. Left out, they stay as they are.")
@click.option(
    "--model",
    metavar="FILE",
    help="Their configuration, by official name or as a YAML file. Left out, the one that they fit.",
)
@click.option("--prefix", default="", metavar="TEXT", help="To take off the names of IN, such as module.")
@click.option("--force", is_flag=True, help="Replace OUT.")
def convert(
    source: Path, target: Path, layout: str | None, dtype: str | None, model: str | None, prefix: str, force: bool
) -> None:
    """Convert a checkpoint between Meta's layout, safetensors and Hugging Face transformers.

    IN is a file or a folder of any of them. OUT appears whole or not at all; it is read back and compared before it
    gets its name.
    """
    if not expanded(source).exists():
        raise MissingCheckpointError(f"no checkpoint {str(source)!r}")
    layout = layout or BY_SUFFIX.get(target.suffix, "transformers")

    import torch

    from sam2fast.checkpoints import CheckpointError
    from sam2fast.checkpoints.converting import check_target, convert_checkpoint
    from sam2fast.config import ConfigError

    try:
        check_target(target, layout)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with one_line(CheckpointError, ConfigError, OSError, ImportError):
        done = convert_checkpoint(
            source,
            target,
            layout,
            dtype=getattr(torch, dtype) if dtype else None,
            config=model,
            prefix=prefix,
            force=force,
        )
    fits = done.choice.config if done.choice else "no configuration of the package; it can be loaded in part"
    click.echo(f"layout   {done.layout}")
    click.echo(f"fits     {fits}")
    if done.choice and done.choice.overrides:
        click.echo(f"with     {' '.join(done.choice.overrides)}")
    click.echo(f"weights  {done.tensors} tensors, {done.parameters} parameters, {', '.join(done.dtypes)}")
    click.echo("checked  read back, names and values equal")
    for file, digest in done.files.items():
        click.echo(f"sha256   {digest}  {click.format_filename(file)}")
