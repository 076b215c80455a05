"""The command ``sam2fast``. A verb is imported when it is asked for, and torch only once there is work to do."""

import errno
import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from sam2fast import __version__
from sam2fast.cli.errors import UserError, told
from sam2fast.cli.signals import end_quietly, exit_code, heeded, tell
from sam2fast.io.atomic import FULL

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

OF_STREAMS = (*FULL, errno.EFBIG, errno.EIO)  # what writing to stdout may come to


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = cmd_name.replace("-", "_")
        return getattr(import_module(f"sam2fast.cli.{name}"), name) if cmd_name in VERBS else None

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        inherited: Any = super().main  # of which there are overloads
        with heeded():
            if not standalone_mode:
                return inherited(*args, standalone_mode=False, **kwargs)
            try:
                sys.exit(self._ended(*args, **kwargs))
            except KeyboardInterrupt as stop:
                tell("interrupted")
                sys.exit(exit_code(stop))
            finally:
                end_quietly()

    def _ended(self, *args: Any, **kwargs: Any) -> int:
        """The exit code, as click itself would end, but for interrupts: those it takes for a failure like any other."""
        inherited: Any = super().main
        try:
            code = inherited(*args, standalone_mode=False, **kwargs)
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except click.Abort as error:
            raise error.__cause__ if isinstance(error.__cause__, KeyboardInterrupt) else KeyboardInterrupt from error
        return code if isinstance(code, int) else 0

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:  # verbs that can say more catch it themselves
            tell("interrupted")
            ctx.exit(exit_code(stop))
        except EOFError as error:  # of a film, say; click would take it for Ctrl-D
            raise UserError(f"something that is read ends too early: {told(error)}") from error
        except OSError as error:  # a path below a folder that may not be looked into, a name that is too long
            # Without a name it may be of stdout. One whose reader has left click ends quietly; others are our mistakes.
            if error.filename is None and error.errno not in OF_STREAMS:
                raise
            raise UserError(told(error)) from error


class _NotesToStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"sam2fast: note: {record.getMessage()}", err=True)


@contextmanager
def _anything_can_be_printed() -> Iterator[None]:
    """What stdout's encoding does not have, such as a file's name in another one, is shown escaped, as on stderr."""
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper) or stream.errors != "strict":
        yield
        return
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        if not stream.closed:
            stream.reconfigure(errors="strict")


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
    130 interrupted by Ctrl-C, 143 by SIGTERM, 129 by the end of the terminal.
    """
    ctx.with_resource(_anything_can_be_printed())
    notes = _NotesToStderr(logging.WARNING)
    logger = logging.getLogger("sam2fast")
    logger.addHandler(notes)
    ctx.call_on_close(lambda: logger.removeHandler(notes))
    if deterministic:
        from sam2fast.utils.reproducibility import deterministic as block

        ctx.with_resource(block())
