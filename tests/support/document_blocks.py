"""Finds code blocks and commands in the documents and notebooks, and classifies them.

A fenced block states its language. Indented blocks are classified by their form.
"""

import ast
import json
import re
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
# ``text`` is printed output, folder layouts and messages: nothing to run.
FENCES = {"python": "python", "shell": "shell", "yaml": "yaml", "json": "json", "text": "text"}
PROGRAMS = ("sam2fast", "make", "pip", "pre-commit", "python", "docker", "curl", "torchrun", "jupyter", "python3", ".")
_ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=")
_ASSIGNMENT_ALONE = re.compile(r" *[A-Z][A-Z0-9_]*=(\$\([^)]*\)|\S*) *(#.*)?$")
_FENCE = re.compile(r"( *)(```+|~~~+) *([^`]*)$")
_ITEM = re.compile(r" *([-*+]|\d+[.)]) ")
_ADMONITION = re.compile(r"(!!!|\?\?\?\+?) ")
_LAYOUT = re.compile(r"\S*/\S* ")
_HEADER = re.compile(r"[A-Z][a-z]+(-[A-Z][a-z]+)*: \S")
_KEY = re.compile(r"[a-z_]+:( |$)")
# No formula begins a line so.
_STATEMENT = re.compile(r"^((from \S+ )?import \w|(def|class) \w|(with|for|if|while) .*:$|print\()", re.MULTILINE)


class Block(NamedTuple):
    """A code block, or code in a sentence.

    Attributes:
        file: its document, from the root of the repository; for a notebook the cell is named, too.
        line: of its first line, from 1.
        fence: what stands behind the opening fence; None for an indented block and in a sentence.
        text: without the fence and the common indentation.
    """

    file: str
    line: int
    fence: str | None
    text: str

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


class UnknownBlockError(ValueError):
    """A block that cannot be classified."""


def documents() -> list[Path]:
    """README.md and similar files, and every page of the documentation."""
    single = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "bench/README.md")
    cards = (f"sam2fast/{model}/MODEL_CARD.md" for model in ("mini", "nano"))
    return [*(ROOT / name for name in (*single, *cards)), *sorted((ROOT / "docs").rglob("*.md"))]


def texts() -> Iterator[tuple[str, str]]:
    """Name and Markdown of every document, and of every cell of a notebook that has words."""
    for path in documents():
        yield _name(path), path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                yield f"{_name(path)}, {cell['id']}", "".join(cell["source"])


def all_blocks() -> list[Block]:
    return [block for name, text in texts() for block in find_blocks(name, text)]


def blocks_of(wanted: str) -> list[Block]:
    """The blocks of a kind; a separate test checks that each block has one."""
    found = []
    for block in all_blocks():
        with suppress(UnknownBlockError):
            if kind(block) == wanted:
                found.append(block)
    return found


def all_spans() -> list[Block]:
    return [span for name, text in texts() for span in find_spans(name, text)]


def find_blocks(file: str, text: str) -> Iterator[Block]:
    """The code blocks of a document, from its top to its end."""
    lines = text.expandtabs(4).splitlines()
    number, before, inner = 0, "", False
    while number < len(lines):
        line = lines[number]
        if fence := _FENCE.match(line):
            end = next((n for n in range(number + 1, len(lines)) if lines[n].strip() == fence[2]), None)
            if end is None:
                raise UnknownBlockError(f"{file}:{number + 1}: the fence is not closed")
            yield Block(file, number + 2, fence[3].strip(), textwrap.dedent("\n".join(lines[number + 1 : end])))
            number, before = end + 1, ""
            continue
        if line.strip() and not line.startswith(" "):
            inner = bool(_ITEM.match(line) or _ADMONITION.match(line)) or (inner and bool(before.strip()))
        # In a list's item or an admonition, four spaces go on with its text.
        depth = 8 if inner else 4
        if not before.strip() and line.startswith(" " * depth):
            end = next((n for n in range(number, len(lines)) if lines[n].strip() and lines[n][:depth].strip()), None)
            body = textwrap.dedent("\n".join(lines[number:end])).rstrip()
            yield Block(file, number + 1, None, body)
            number += body.count("\n") + 1
            before = line
            continue
        number, before = number + 1, line


def find_spans(file: str, text: str) -> Iterator[Block]:
    """What stands in single backquotes outside code blocks; line breaks in it become spaces."""
    kept = text.expandtabs(4).splitlines()
    for block in find_blocks(file, text):
        first = block.line - 1
        for number in range(first, first + block.text.count("\n") + 1):
            kept[number] = ""
    prose = "\n".join("" if _FENCE.match(line) else line for line in kept)
    for found in re.finditer(r"``.*?``|`([^`\n]+(?:\n[^`\n]+)?)`", prose):
        if found[1]:
            yield Block(file, prose.count("\n", 0, found.start()) + 1, None, " ".join(found[1].split()))


def kind(block: Block) -> str:
    """``python``, ``shell``, ``yaml``, ``json``, ``text`` or, on the pages of kernels, ``formula``.

    Raises:
        UnknownBlockError: the fence has no language, or another one, or an indented block has none of these forms.
    """
    if block.fence is not None:
        if block.fence not in FENCES:
            raise UnknownBlockError(f"{block.where}: a fence of {block.fence!r}; expected one of {', '.join(FENCES)}")
        return FENCES[block.fence]
    lines = [line for line in block.text.splitlines() if line.strip()]
    if is_shell(block.text):
        return "shell"
    if block.file.startswith("docs/kernels/"):
        # Invalid Python is not a formula either.
        return "python" if is_python(block.text) or _STATEMENT.search(block.text) else "formula"
    if as_json(block.text) is not None:
        return "json"
    if all(_LAYOUT.match(line) for line in lines) or any(_HEADER.match(line) for line in lines):
        return "text"
    if _KEY.match(lines[0]) and isinstance(yaml.safe_load(block.text), dict):
        return "yaml"
    if is_python(block.text):
        return "python"
    raise UnknownBlockError(f"{block.where}: neither commands, Python, YAML, JSON nor a layout: {lines[0]!r}")


def is_shell(text: str) -> bool:
    """Whether each line, with its continuations, begins with one of our programs."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    done = (line for line in lines if line.strip() and not line.lstrip().startswith("#"))
    return all(is_command(line) or _ASSIGNMENT_ALONE.match(line) for line in done)


def is_command(line: str) -> bool:
    words = line.split()
    while words and _ASSIGNMENT.match(words[0]):
        words = words[1:]
    return bool(words) and words[0].rpartition("/")[2] in PROGRAMS and words[0].startswith((".venv/bin/", *PROGRAMS))


def is_python(text: str) -> bool:
    """Whether it is Python with effects, rather than prose that happens to parse."""
    try:
        body = ast.parse(text).body
    except SyntaxError:
        return False
    return any(not isinstance(node, ast.Expr) or isinstance(node.value, ast.Call) for node in body)


def as_json(text: str) -> object | None:
    """The document, in which ``...`` stands for what is left out; None if it is none."""
    plain = re.sub(r", \.\.\.(?=[\]}])", "", text)
    plain = re.sub(r"(?<=[\[{])\.\.\.(?=[\]}])", "", plain)
    try:
        found = json.loads(plain)
    except ValueError:
        return None
    return found if isinstance(found, dict | list) else None


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
