"""The commands of the documents, in blocks and sentences, are parsed by their programs without running."""

import re
import runpy
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from unittest.mock import patch

import click
import pytest
from document_blocks import ROOT, Command, all_spans, blocks_of, commands, texts
from document_commands import options, parse_sam2fast, parse_script

# Columns of a table of bench/README.md are named like commands.
SPANS = [span for span in all_spans() if span.file != "bench/README.md" or not span.text.startswith("sam2fast ")]
IN_BLOCKS = [command for block in blocks_of("shell") for command in commands(block)]
PROGRAMS = re.compile(r"(sam2fast|make|python|(bench|examples|tests)/\S+\.py) ")
IN_SENTENCES = [command for span in SPANS if PROGRAMS.match(span.text) for command in commands(span)]


def of_program(program: str, found: Iterable[Command]) -> list[Command]:
    return [command for command in found if command.program == program]


def check_all(found: Iterable[Command], check: Callable[[Command], None]) -> None:
    """Reports all errors, each with its document and line."""
    wrong = []
    for command in found:
        try:
            check(command)
        except (click.ClickException, ValueError, OSError) as error:
            wrong.append(f"{command.where}: `{' '.join(command.words)}`: {error}")
    assert not wrong, "\n".join(wrong)


def test_sam2fast_in_blocks(stage: Path) -> None:
    """Some options must name existing folders."""
    found = of_program("sam2fast", IN_BLOCKS)
    assert len(found) > 50
    check_all(found, parse_sam2fast)


def test_sam2fast_in_sentences() -> None:
    """Sentences often name a part of a command: the command and its options exist."""
    known = options()
    groups = {name.rpartition(" ")[0] for name in known}

    def check(command: Command) -> None:
        name, named = "sam2fast", set(known["sam2fast"])
        for word in command.words[1:]:
            if f"{name} {word}" in known:
                name = f"{name} {word}"
                named |= known[name]
            elif not word.startswith("-") and name in groups:
                raise ValueError(f"{name} has no command {word}")
            elif word.startswith("-") and word.partition("=")[0] not in named:
                raise ValueError(f"{name} has no option {word}")

    found = of_program("sam2fast", IN_SENTENCES)
    assert len(found) > 20
    check_all(found, check)


def test_make_targets() -> None:
    """make accepts them, in a dry run; ``test_names.py`` checks the variables."""
    found = of_program("make", [*IN_BLOCKS, *IN_SENTENCES])
    targets = {word for command in found for word in command.words[1:] if "=" not in word}
    assert len(targets) > 20
    done = subprocess.run(["make", "-n", *sorted(targets)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_extras_exist() -> None:
    with patch("setuptools.setup"):
        extras = runpy.run_path(str(ROOT / "setup.py"))["EXTRAS"]
    named = [
        (file, names)
        for file, text in texts().items()
        for names in re.findall(r"(?:\"\.|sam2fast)\[([a-z,-]+)\]", text)
    ]
    assert len(named) > 10
    assert [(file, names) for file, names in named if not set(names.split(",")) <= set(extras)] == []


def test_scripts_accept_their_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also scripts that are named without their interpreter."""
    monkeypatch.chdir(ROOT)
    found = [Command(where, words[words[0].endswith("python") :]) for where, words in (*IN_BLOCKS, *IN_SENTENCES)]
    scripts = [command for command in found if command.program.endswith(".py") and len(command.words) > 1]
    assert len(scripts) > 8
    check_all(scripts, lambda command: parse_script(*command.words))
