"""The command ``sam2fast``.

Each command is in the module of the same name, imported when the command is called. Modules ``*_run`` implement the
work of a command. These modules import torch, and are imported after the options are checked.

Functions raise one of USER_ERRORS for unusable inputs and for files that cannot be read or written. For contradictory
options, functions raise click.UsageError. Docstrings only name these errors to add details.
"""

import difflib
import errno
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from sam2fast import __version__
from sam2fast.cli.completion import install_completion
from sam2fast.cli.terminal import ClosedPipeError, exit_code, exit_quietly, handle_signals, print_message
from sam2fast.cli.user_errors import USER_ERRORS, UserError, format_error, warnings_as_notes
from sam2fast.io.atomic import FULL
from sam2fast.utils.errors import FixableError

COMMANDS = (
    "segment",
    "masks",
    "find",
    "track",
    "compare",
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
    "label-studio",
    "mcp",
    "env",
)

# Numbers of errors without a file name: writing to stdout, and reading from a lost network drive.
STREAM_ERRNOS = (*FULL, errno.EFBIG, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)


class _CommandGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = cmd_name.replace("-", "_")
        return getattr(import_module(f"sam2fast.cli.{name}"), name) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean {near[0]!r}?", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists every command with the full first sentence of its help. click would truncate the sentence."""
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            assert command is not None
            rows.append((name, command.get_short_help_str(limit=1000)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        inherited: Any = super().main  # the method has overloads
        with handle_signals():
            if not standalone_mode:
                return inherited(*args, standalone_mode=False, **kwargs)
            try:
                sys.exit(self._run_to_exit_code(*args, **kwargs))
            except KeyboardInterrupt as stop:
                print_message("interrupted")
                sys.exit(exit_code(stop))
            finally:
                exit_quietly()

    def _run_to_exit_code(self, *args: Any, **kwargs: Any) -> int:
        """Returns click's exit code. Raises an interrupt that caused an error, since click would report a failure."""
        inherited: Any = super().main
        try:
            code = inherited(*args, standalone_mode=False, **kwargs)
        except click.ClickException as error:
            error.show()
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, KeyboardInterrupt):
                cause = cause.__cause__ or cause.__context__
            if cause is None:
                return error.exit_code
            raise cause from None
        except click.Abort as error:
            raise error.__cause__ if isinstance(error.__cause__, KeyboardInterrupt) else KeyboardInterrupt from error
        return code if isinstance(code, int) else 0

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:  # commands with a more specific message catch the interrupt
            print_message("interrupted")
            ctx.exit(exit_code(stop))
        except EOFError as error:  # such as a truncated video; click treats EOFError as Ctrl-D
            raise UserError(f"an input file ends too early: {format_error(error)}") from error
        except ClosedPipeError as closed:
            raise OSError(errno.EPIPE, "stdout or stderr is closed") from closed  # click exits without a message
        except USER_ERRORS as error:
            # An OSError without a file name may come from stdout. click handles closed pipes; other errors are bugs.
            is_bug = not isinstance(error, FixableError) and error.filename is None and error.errno not in STREAM_ERRNOS
            if isinstance(error, UserError) or is_bug:
                raise
            raise UserError(format_error(error)) from error


@contextmanager
def _escape_unencodable() -> Iterator[None]:
    """Prints characters outside stdout's encoding as escapes, like stderr."""
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


@click.group(cls=_CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="sam2fast")
@click.option(
    "--deterministic",
    is_flag=True,
    help="Use deterministic algorithms. They may be slower on GPUs. Give this option before the command's name.",
)
@click.option(
    "--install-completion",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=install_completion,
    help="Install completion of commands and options for your shell: bash, zsh or fish.",
)
@click.pass_context
def main(ctx: click.Context, deterministic: bool) -> None:
    """Segment objects in images and videos with SAM 2, from points, boxes or masks, or segment everything.

    \b
    For example, with mini, a model in the package:
      sam2fast segment photo.jpg --point 500,375 --model mini
      sam2fast track clip.mp4 --point 0,dog,210,350 --model mini

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the model's checkpoint is missing,
    130 interrupted by Ctrl-C, 143 by SIGTERM, 129 by a closed terminal.
    """
    ctx.with_resource(_escape_unencodable())
    ctx.with_resource(warnings_as_notes())
    if deterministic:
        from sam2fast.utils.reproducibility import deterministic as block

        ctx.with_resource(block())
