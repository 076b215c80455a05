"""Code blocks are of a kind that a test here runs or parses. Names in sentences exist: options, environment variables,
variables of make, files, and imports."""

import pydoc
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import pytest
from document_blocks import ROOT, Block, all_blocks, all_spans, as_json, blocks_of, documents, kind, texts
from document_commands import make_targets, option_names

from sam2fast.cli import main

SPANS = all_spans()
# Options of other programs.
OTHER_OPTIONS = {"--rdzv-conf", "--max-restarts", "-f", "--outDir"}
FOLDERS = "sam2fast|kernels|tests|bench|examples|docs|configs|notebooks"


def test_every_block_is_of_a_kind() -> None:
    """A failure names the first unclassified block; give it a fence with a language."""
    kinds = {block.where: kind(block) for block in all_blocks()}
    assert set(kinds.values()) == {"python", "shell", "yaml", "json", "text", "formula"}
    assert len(documents()) > 40 and len(kinds) > 130


def test_json_is_json() -> None:
    for block in blocks_of("json"):
        assert as_json(block.text) is not None, block.where


def test_python_is_python() -> None:
    """Also if it cannot be run."""
    for block in blocks_of("python"):
        compile(block.text, block.where, "exec")


def test_options() -> None:
    known = OTHER_OPTIONS | set(options_of(main))
    named = [span for span in SPANS if re.match(r"(--[a-z]|-[a-z]\b)", span.text) and span.file != "bench/README.md"]
    assert len(named) > 80
    fail_for(
        (span, f"no command has {option}")
        for span in named
        for option in re.findall(r"(?:^|[ /])(--?[a-z][\w-]*)", span.text)
        if option not in known
    )


def options_of(command: click.Command) -> Iterator[str]:
    yield from option_names(command)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from options_of(found)


def test_variables() -> None:
    """Environment variables, which our code or its libraries read, and variables of make."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources())
    known = make_targets()[1] | set(re.findall(r"[A-Z][A-Z0-9]*_[A-Z0-9_]+", text)) | {"KEY"}
    set_there = [(span, name) for span in SPANS for name in re.findall(r"(?:^| )([A-Z][A-Z0-9_]*)=", span.text)]
    assert len(set_there) > 20
    fail_for((span, f"nothing reads {name}") for span, name in set_there if name not in known)
    for file, content in texts():
        for name in re.findall(r"SAM2FAST_[A-Z_]+[A-Z]", content):
            assert name in known, f"{file}: nothing reads {name}"


def sources() -> Iterator[Path]:
    for folder in ("sam2fast", "kernels", "tests", "bench", "examples"):
        yield from (path for path in (ROOT / folder).rglob("*.py") if "node_modules" not in path.parts)


def test_files() -> None:
    words = [(span, word) for span in SPANS for word in span.text.split()]
    named = [(span, word) for span, word in words if re.fullmatch(rf"({FOLDERS})/[\w./+-]+", word)]
    assert len(named) > 60
    fail_for((span, f"no {word}") for span, word in named if not (ROOT / word).exists())


def test_imports() -> None:
    found = [(span, re.match(r"(sam2fast(?:\.\w+)+)", span.text)) for span in SPANS]
    named = [(span, name[1]) for span, name in found if name]
    assert len(named) > 20
    fail_for((span, f"no {name}") for span, name in named if pydoc.locate(name) is None)


def fail_for(wrong: Iterable[tuple[Block, str]]) -> None:
    """Reports all errors, each with its document and line."""
    if told := [f"{span.where}: `{span.text}`: {why}" for span, why in wrong]:
        pytest.fail("\n".join(told), pytrace=False)
