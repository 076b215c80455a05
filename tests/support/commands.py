"""The command in this process."""

import inspect
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import click.testing
import pytest

from sam2fast.cli import main

NANO = ["--model", "nano", "--device", "cpu"]

# click before 8.2 mixes stderr into stdout by default.
_APART: dict[str, Any] = (
    {"mix_stderr": False} if "mix_stderr" in inspect.signature(click.testing.CliRunner).parameters else {}
)


def load(path: Path) -> Any:
    """Returns the content of a JSON file."""
    return json.loads(path.read_text())


def invoke(*arguments: object) -> click.testing.Result:
    """Runs ``sam2fast`` with these arguments; unexpected exceptions are raised."""
    result = click.testing.CliRunner(**_APART).invoke(main, [str(a) for a in arguments], prog_name="sam2fast")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def ok(result: click.testing.Result) -> click.testing.Result:
    """Returns the result of a command that succeeds."""
    assert result.exit_code == 0, result.stderr
    return result


def ends(result: click.testing.Result, code: int, *words: str) -> click.testing.Result:
    """Returns the result of a command that ends with this code, and with a message that has all words."""
    assert result.exit_code == code and all(text in result.stderr for text in words), result.stderr
    return result


def assert_one_line(result: Any, code: int = 1) -> str:
    """The error of a finished command: one line, no traceback, nothing on stdout."""
    error = result.stderr.removesuffix("\n")
    assert result.stdout == ""
    assert (getattr(result, "exit_code", None) or getattr(result, "returncode", None)) == code
    assert error.startswith("sam2fast: ") and "\n" not in error
    return error


def act_at(patch: pytest.MonkeyPatch, owner: Any, name: str, count: int, act: Callable[[], Any]) -> None:
    """Makes ``act`` happen before a call of a function, counted from 1."""
    original, counts = getattr(owner, name), itertools.count(1)

    def call(*arguments: Any, **options: Any) -> Any:
        if next(counts) == count:
            act()
        return original(*arguments, **options)

    patch.setattr(owner, name, call)


def fail_at(patch: pytest.MonkeyPatch, owner: Any, name: str, count: int, error: BaseException) -> None:
    """Makes this call of a function, counted from 1, raise the error."""
    act_at(patch, owner, name, count, Mock(side_effect=error))
