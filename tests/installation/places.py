"""Where the rows of the matrix run: a clean copy of the checkout, its wheel, and virtual environments."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from checkout import LINKS, ROOT, copy_checkout  # noqa: E402, F401

HERE = Path(__file__).parent
TESTED = ROOT / "constraints.txt"
OLDEST = HERE / "oldest.txt"
DEFAULT_PYTHON = "3.11"
SUPPORTED = ("3.10", "3.11", "3.12", "3.13")
SECONDS = 1800
LINES_OF_A_FAILURE = 60


class Unavailable(Exception):
    """This machine lacks a requirement of the row."""


class Failure(Exception):
    """The row's feature does not work."""


def expect(condition: object, message: str) -> None:
    """Raises :class:`Failure` unless the condition holds."""
    if not condition:
        raise Failure(message)


def checked(done: "subprocess.CompletedProcess[str]") -> str:
    """The output of a command; raises :class:`Failure` with the end of its output if it fails."""
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-LINES_OF_A_FAILURE:])
        raise Failure(f"{' '.join(map(str, done.args))[:200]}: exit code {done.returncode}\n{said}")
    return done.stdout


def run(*command: str | Path, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Runs a command of this machine."""
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)


@dataclass(frozen=True)
class Environment:
    """A virtual environment; as a context manager it is removed at the end, since torch takes a gigabyte, or seven."""

    folder: Path

    def __enter__(self) -> "Environment":
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(
        self,
        *arguments: str | Path,
        cwd: Path,
        env: Mapping[str, str | None] | None = None,
        prefix: Sequence[str] = (),
        program: str = "python",
    ) -> "subprocess.CompletedProcess[str]":
        """Runs a program of the environment.

        Args:
            env: variables that differ from this process's; None takes one away.
            prefix: a command that starts the program under other conditions.
        """
        variables: dict[str, str | None] = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        variables |= {"OMP_NUM_THREADS": "1", **(env or {})}
        return subprocess.run(
            [*prefix, str(self.folder / "bin" / program), *map(str, arguments)],
            cwd=cwd,
            env={name: value for name, value in variables.items() if value is not None},
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",
            timeout=SECONDS,
        )

    def pip(self, *arguments: str | Path, constraints: Path | None = None) -> None:
        """Runs pip; its cache is the folder ``PIP_CACHE_DIR``."""
        quiet = ("--disable-pip-version-check", "--quiet", "--no-input")
        bounds = ("-c", constraints) if constraints else ()
        checked(self.run("-m", "pip", arguments[0], *quiet, *bounds, *arguments[1:], cwd=HERE))

    def script(self, name: str, work: Path, *options: str, **conditions: Any) -> str:
        """The last line that a script of this folder prints; it runs alone in ``work``, with the options of run."""
        for file in ("smoke.py", name):
            shutil.copy(HERE / file, work)
        return checked(self.run(*options, name, cwd=work, **conditions)).splitlines()[-1]

    def smoke(self, work: Path, *options: str, **conditions: Any) -> dict[str, Any]:
        """The facts of smoke.py."""
        return json.loads(self.script("smoke.py", work, *options, **conditions))


@dataclass
class Place:
    """A folder for one run of the matrix; shared parts are created at first use.

    Args:
        folder: emptied at the end.
        pythons: interpreters by version, such as ``{"3.12": Path("/usr/bin/python3.12")}``.
    """

    folder: Path
    pythons: dict[str, Path]

    @property
    def default_python(self) -> str:
        """The version for rows that are not about versions: 3.11, or the newest supported one where there is none."""
        return DEFAULT_PYTHON if DEFAULT_PYTHON in self.pythons else self.newest_python

    @property
    def newest_python(self) -> str:
        """The newest version here of those supported."""
        here = [version for version in SUPPORTED if version in self.pythons]
        if not here:
            raise Unavailable(f"no Python {SUPPORTED[0]} to {SUPPORTED[-1]}")
        return here[-1]

    @cached_property
    def checkout(self) -> Path:
        """The clean copy; rows do not change it."""
        expect(copy_checkout(self.folder / "checkout"), "the matrix needs a checkout of git")
        return self.folder / "checkout"

    @cached_property
    def wheel(self) -> Path:
        """Built by pip from the clean copy, in an environment of pip's own."""
        with self.environment("builder", install=False) as builder:
            builder.pip("wheel", "--no-deps", "--wheel-dir", self.folder / "dist", self.checkout)
        return next((self.folder / "dist").glob("sam2fast-*.whl"))

    @cached_property
    def tested(self) -> Environment:
        """The tested versions and PyAV, shared by rows that differ only in the process's surroundings."""
        return self.environment("tested", extras="video", constraints=TESTED)

    def environment(
        self,
        name: str,
        python: str | None = None,
        extras: str = "",
        constraints: Path | None = None,
        install: bool = True,
    ) -> Environment:
        """A fresh virtual environment, by default with the wheel in it."""
        python = python or self.default_python
        if python not in self.pythons:
            raise Unavailable(f"no Python {python}")
        made = Environment(self.folder / "environments" / name)
        checked(run(self.pythons[python], "-m", "venv", "--clear", made.folder))
        if install:
            wanted = f"{self.wheel}[{extras}]" if extras else str(self.wheel)
            try:
                made.pip("install", "--no-compile", wanted, constraints=constraints)
            except BaseException:
                shutil.rmtree(made.folder, ignore_errors=True)
                raise
        return made

    def work(self, name: str) -> Path:
        """An empty folder."""
        folder = self.folder / "work" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


def find_pythons(named: Sequence[Path]) -> dict[str, Path]:
    """Interpreters by version: those that are named, then those of ``PATH``."""
    found: dict[str, Path] = {}
    on_path = [shutil.which(f"python3.{minor}") for minor in range(10, 15)]
    for candidate in [*named, *(Path(path) for path in on_path if path), Path(sys.executable)]:
        done = run(candidate, "--version")
        if done.returncode == 0 and (match := re.match(r"Python (3\.\d+)\.", done.stdout)):
            found.setdefault(match[1], candidate)
    return found


def told(facts: Mapping[str, Any]) -> str:
    """The facts of smoke.py as one line."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())
