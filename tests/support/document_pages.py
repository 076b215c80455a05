"""Runs the code of a document from top to bottom: Python in one namespace, ``sam2fast`` in this process, and the
repository's scripts."""

import ast
import glob
import re
import subprocess
import sys
import traceback
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import click.testing
import pytest
from document_blocks import ROOT, Block, all_blocks, blocks_of
from document_commands import Line

from sam2fast.cli import main


def pages() -> dict[str, list[Block]]:
    """The blocks of Python and of commands of each document that has any, in their order."""
    wanted = {block for kind in ("python", "shell") for block in blocks_of(kind)}
    found = defaultdict(list)
    for block in all_blocks():
        if block in wanted:
            found[block.file].append(block)
    return found


def substituted(block: Block, substitutes: Mapping[str, str]) -> Block:
    text = block.text
    for written, instead in substitutes.items():
        text = text.replace(written, instead)
    return block._replace(text=text)


def imports_of(block: Block) -> Block:
    """Only the imports of a block; line numbers are kept."""
    wanted = (node for node in ast.parse(block.text).body if isinstance(node, ast.Import | ast.ImportFrom))
    kept = {line for node in wanted for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    lines = block.text.splitlines()
    return block._replace(text="\n".join(text if n + 1 in kept else "" for n, text in enumerate(lines)))


def run_python(block: Block, names: dict[str, Any]) -> None:
    """Runs a block in this namespace; a failure names the document's own line."""
    try:
        exec(compile(block.text, block.where, "exec"), names)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        inside = next((frame.lineno for frame in frames if frame.filename == block.where), None) or 1
        told = f"{block.file}:{block.line + inside - 1}: {type(error).__name__}: {error}"
        pytest.fail(told, pytrace=False)


def check_shapes(block: Block, names: Mapping[str, Any]) -> None:
    """Checks values with a comment such as ``# (objects, 1, H, W)``: number of axes and their lengths."""
    for line, name, stated in stated_shapes(block):
        shape = tuple(eval(name, dict(names)).shape)
        fits = len(shape) == len(stated) and all(
            not told.isdecimal() or int(told) == length for told, length in zip(stated, shape, strict=True)
        )
        if not fits:
            pytest.fail(f"{block.file}:{line}: {name} is {shape}, not ({', '.join(stated)})", pytrace=False)


def stated_shapes(block: Block) -> Iterator[tuple[int, str, list[str]]]:
    """Line, name and axes of values with such a comment."""
    for number, text in enumerate(block.text.splitlines()):
        found = re.match(r" *([\w.]+)(?: = .*)?  +# \((\w+(?:, \w+)*),?\)", text)
        if found:
            yield block.line + number, found[1], found[2].split(", ")


def run_sam2fast(line: Line) -> None:
    """Runs a command, which has to end with 0; of a training everything is built, as by ``--dry-run``, and no more."""
    words = [found for word in line.words[1:] for found in (("*" in word and sorted(glob.glob(word))) or [word])]
    uncounted = words[0] == "train" and "--dry-run" not in words
    if uncounted:
        words.insert(1, "--dry-run")
    # To count what memory a training takes is dear, and what `--dry-run` alone asks for.
    memory = (
        patch("sam2fast.training.memory_estimate.describe_memory", lambda trainer: []) if uncounted else nullcontext()
    )
    with memory:
        result = click.testing.CliRunner().invoke(main, words, prog_name="sam2fast")
    if result.exit_code != 0:
        pytest.fail(f"{line.where}: `{line.text}` ends with {result.exit_code}: {result.output}", pytrace=False)


def run_script(line: Line) -> None:
    """Runs a script of the repository in a process of its own, which has to end with 0."""
    command = [sys.executable, str(ROOT / line.words[1]), *line.words[2:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"{line.where}: `{line.text}` ends with {done.returncode}: {done.stderr}", pytrace=False)
