"""The commands in the documents, and checks of their arguments without running them."""

import argparse
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import click
from document_blocks import ROOT, Block, is_command

from sam2fast.cli import main

# Placeholders for the reader's own values. The rest of a line is checked unchanged.
_REST = {"KEY=VALUE...", "...", "IMAGES..."}
_OPTIONAL = re.compile(r"\[(--[^\]]*)\]")
_PLACE = re.compile(r"<([a-z]+)>")
_INNER = re.compile(r"\$\(([^)]*)\)")


class Line(NamedTuple):
    """A command of a shell block.

    Attributes:
        where: document and line.
        text: as it is written, with what continues it.
        words: program and arguments, without environment and redirection.
        environment: variables that are set for it.
    """

    where: str
    text: str
    words: tuple[str, ...]
    environment: dict[str, str]

    @property
    def program(self) -> str:
        return self.words[0].rpartition("/")[2]


def lines_of(block: Block) -> Iterator[Line]:
    """The commands of a block in their order; those in ``$(...)`` before the one that uses them."""
    number = block.line
    for text in re.split(r"(?<!\\)\n", block.text):
        yield from _lines(f"{block.file}:{number}", " ".join(text.replace("\\\n", " ").split()))
        number += text.count("\n") + 1


def line_of(span: Block) -> Line | None:
    """The command in a code span, if it is complete: a program with arguments."""
    if not is_command(span.text) or " " not in span.text:
        return None
    return next(_lines(span.where, span.text))


def _lines(where: str, text: str) -> Iterator[Line]:
    for inner in _INNER.findall(text):
        if is_command(inner):
            yield from _lines(where, inner)
    plain = _PLACE.sub(r"\1", _OPTIONAL.sub(r"\1", _INNER.sub("FILE", text)))
    lexer = shlex.shlex(plain, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    command: list[str] = []
    for token in [*lexer, "&&"]:
        if token not in ("&&", "||", ";", "|"):
            command.append(token)
            continue
        if ">" in command:
            command = command[: command.index(">")]
        environment = {}
        while command and re.match(r"[A-Z][A-Z0-9_]*=", command[0]):
            name, _, value = command.pop(0).partition("=")
            environment[name] = value
        if command:
            yield Line(where, text, tuple(word for word in command if word not in _REST), environment)
        command = []


class WrongCommandError(ValueError):
    """A command that its program would refuse."""


def parse_sam2fast(arguments: Sequence[str]) -> click.Context:
    """The context in which the verb would run, all options converted and checked.

    Raises:
        WrongCommandError: it would not run.
    """
    context, command, rest = None, main, list(arguments)
    try:
        while isinstance(command, click.Group):
            _, rest, _ = command.make_parser(click.Context(command, context)).parse_args(rest)
            context, command, rest = click.Context(command, context), *_chosen(command, rest)
        return command.make_context(command.name, rest, parent=context)
    except click.exceptions.Exit:  # --help
        return click.Context(command)
    except click.ClickException as error:
        raise WrongCommandError(error.format_message()) from error


def check_fragment(arguments: Sequence[str]) -> None:
    """Checks that the verb and the options of a partial command exist.

    Raises:
        WrongCommandError: one is not.
    """
    command: Any = main
    rest = list(arguments)
    names = set(option_names(command))
    while isinstance(command, click.Group) and rest:
        if rest[0] in names:
            rest = rest[1:]
            continue
        command, rest = _chosen(command, rest)
        names = set(option_names(command))
    unknown = [word for word in rest if word.startswith("-") and word.partition("=")[0] not in names]
    if unknown:
        raise WrongCommandError(f"{command.name} has no option {unknown[0]}")


def _chosen(group: click.Group, rest: list[str]) -> tuple[click.Command, list[str]]:
    found = group.get_command(click.Context(group), rest[0]) if rest else None
    if found is None:
        raise WrongCommandError(f"no command {' '.join(rest[:1])!r}")
    return found, rest[1:]


def option_names(command: click.Command) -> Iterator[str]:
    """Every spelling of a verb's options."""
    yield from ("-h", "--help")
    for option in command.params:
        yield from (*option.opts, *option.secondary_opts)


def parse_script(script: Path, arguments: Sequence[str]) -> None:
    """Has the script's own ``argparse`` read the arguments, and stops there.

    Raises:
        WrongCommandError: it is not there, refuses them, or reads none.
    """
    if not script.is_file():
        raise WrongCommandError(f"no file {script}")
    parse: Callable[..., Any] = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *given: Any, **more: Any) -> None:
        parse(parser, list(arguments))
        raise _ParsedError

    def refuse(parser: argparse.ArgumentParser, message: str) -> None:
        raise WrongCommandError(f"{script.name}: {message}")

    parser = patch.multiple(argparse.ArgumentParser, parse_args=parse_and_stop, error=refuse)
    with parser, patch.object(sys, "argv", [script.name]), patch.object(sys, "path", [str(script.parent), *sys.path]):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except _ParsedError:
            return
        except ImportError as error:
            raise WrongCommandError(f"{script.name}: {error}") from error
        except SystemExit as error:  # --help
            if error.code == 0:
                return
            raise
    raise WrongCommandError(f"{script.name} reads no arguments")


class _ParsedError(Exception):
    """Raised after the arguments were parsed, to stop the script."""


def make_targets() -> tuple[set[str], set[str]]:
    """Targets of the Makefile, and the variables that it reads."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {name for found in re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE) for name in found.split()}
    return targets, set(re.findall(r"\$\(([A-Z]+)\)", text)) | set(re.findall(r"\$\(if \$\(([A-Z]+)\)", text))


def setup_arguments() -> dict[str, Any]:
    """The arguments of setup.py's ``setup``."""
    told: dict[str, Any] = {}
    with patch("setuptools.setup", lambda **keywords: told.update(keywords)):
        runpy.run_path(str(ROOT / "setup.py"))
    return told
