"""The command ``sam2fast``. A verb is imported when it is asked for, and torch only once there is work to do."""

import logging
from importlib import import_module

import click

from sam2fast import __version__

VERBS = (
    "segment",
    "masks",
    "track",
    "vos",
    "train",
    "evaluate",
    "evaluate-images",
    "export",
    "demo",
    "synthesize",
    "profile",
    "download",
    "convert",
    "dataset",
    "serve",
    "env",
)


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = cmd_name.replace("-", "_")
        return getattr(import_module(f"sam2fast.cli.{name}"), name) if cmd_name in VERBS else None


class _NotesToStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"sam2fast: note: {record.getMessage()}", err=True)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sam2fast")
@click.option(
    "--deterministic",
    is_flag=True,
    help="Before the command's name: algorithms that give the same bits each time, which may be slower on GPUs.",
)
@click.pass_context
def main(ctx: click.Context, deterministic: bool) -> None:
    """SAM 2: masks of objects in pictures and videos, from points, boxes and masks, or of everything.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the model's checkpoint is missing,
    130 interrupted while tracking or downloading.
    """
    notes = _NotesToStderr(logging.WARNING)
    logger = logging.getLogger("sam2fast")
    logger.addHandler(notes)
    ctx.call_on_close(lambda: logger.removeHandler(notes))
    if deterministic:
        from sam2fast.reproducibility import deterministic as block

        ctx.with_resource(block())
