"""Runs the commands of the documents, or has their programs read the arguments."""

import argparse
import glob
import runpy
import subprocess
import sys
from contextlib import nullcontext
from typing import Any, NoReturn
from unittest.mock import patch

import click
import click.testing
import pytest
from document_blocks import ROOT, Command

from sam2fast.cli import main


def options(command: click.Command = main, name: str = "sam2fast") -> dict[str, set[str]]:
    """Every spelling of the options of each command, by its full name."""
    found = {
        name: {"-h", "--help", *(word for taken in command.params for word in (*taken.opts, *taken.secondary_opts))}
    }
    if isinstance(command, click.Group):
        for inner in command.list_commands(click.Context(command)):
            child = command.get_command(click.Context(command), inner)
            assert child is not None
            found |= options(child, f"{name} {inner}")
    return found


def parse_sam2fast(command: Command) -> None:
    """Has every option converted and checked; raises click.ClickException if the command would be refused."""
    with patch("click.Command.invoke"):
        main.main(command.words[1:], "sam2fast", standalone_mode=False)


def parse_script(script: str, *arguments: str) -> None:
    """Has a script's ``argparse`` read the arguments; raises ValueError if it refuses them or reads none."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *given: Any, **more: Any) -> NoReturn:
        parse(parser, arguments)
        sys.exit(0)

    def refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
        raise ValueError(message)

    path = ROOT / script
    parser = patch.multiple(argparse.ArgumentParser, parse_args=parse_and_stop, error=refuse)
    with parser, patch.object(sys, "path", [str(path.parent), *sys.path]), patch.object(sys, "argv", [script]):
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit:
            return
    raise ValueError("it reads no arguments")


def run_sam2fast(command: Command) -> None:
    """Runs a command, which has to end with 0; of a training everything is built, as by ``--dry-run``, and no more."""
    words = [found for word in command.words[1:] for found in (("*" in word and sorted(glob.glob(word))) or [word])]
    uncounted = words[0] == "train" and "--dry-run" not in words
    if uncounted:
        words.insert(1, "--dry-run")
    # To count what memory a training takes is slow, and what `--dry-run` alone asks for.
    memory = patch("sam2fast.training.memory_estimate.describe_memory", return_value=[]) if uncounted else nullcontext()
    with memory:
        result = click.testing.CliRunner().invoke(main, words, prog_name="sam2fast")
    if result.exit_code != 0:
        pytest.fail(f"{command.where}: `{' '.join(command.words)}`: {result.output}", pytrace=False)


def run_script(command: Command) -> None:
    """Runs a script of the repository in a process of its own, which has to end with 0."""
    script = [sys.executable, str(ROOT / command.words[1]), *command.words[2:]]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command.where}: {done.stderr}"
