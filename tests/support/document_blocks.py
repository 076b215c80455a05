"""The code blocks, code spans and commands of the documents and notebooks."""

import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^( *)```(.*)\n((?:.*\n)*?)\1```$", re.MULTILINE)
_ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=")


class Block(NamedTuple):
    """A code block with its document, first line and language, or the code between backquotes in a sentence."""

    file: str
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


class Command(NamedTuple):
    """A command of a shell block or a code span: its document and line, its program and arguments."""

    where: str
    words: list[str]

    @property
    def program(self) -> str:
        return self.words[0].rpartition("/")[2]


@cache
def texts() -> dict[str, str]:
    """Markdown of every document, and of every cell of a notebook that has words, by name."""
    single = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "bench/README.md")
    cards = (f"sam2fast/{model}/MODEL_CARD.md" for model in ("mini", "nano"))
    paths = [*(ROOT / name for name in (*single, *cards)), *sorted((ROOT / "docs").rglob("*.md"))]
    found = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                found[f"notebooks/{path.name}, {cell['id']}"] = "".join(cell["source"])
    return found


def all_blocks() -> Iterator[Block]:
    for file, text in texts().items():
        for found in FENCE.finditer(text):
            yield Block(file, text.count("\n", 0, found.start()) + 2, found[2], textwrap.dedent(found[3]).rstrip())


def blocks_of(language: str) -> list[Block]:
    return [block for block in all_blocks() if block.language == language]


def all_spans() -> Iterator[Block]:
    """What stands in single backquotes outside code blocks; line breaks in it become spaces."""
    for file, text in texts().items():
        prose = FENCE.sub(lambda found: "\n" * found[0].count("\n"), text)
        for found in re.finditer(r"``.*?``|`([^`\n]+(?:\n[^`\n]+)?)`", prose):
            if found[1]:
                yield Block(file, prose.count("\n", 0, found.start()) + 1, "", " ".join(found[1].split()))


def commands(block: Block) -> Iterator[Command]:
    """Its commands, without environment and redirection. ``$(...)`` gives ``FILE``; ``[--option]`` is given."""
    number = block.line
    for text in re.split(r"(?<!\\)\n", block.text):
        plain = re.sub(r"\$\([^)]*\)", "FILE", re.sub(r"\[(--[^\]]*)\]", r"\1", text.replace("\\\n", " ")))
        words = shlex.split(plain, comments=True)
        words = words[: words.index(">")] if ">" in words else words
        while words and _ASSIGNMENT.match(words[0]):
            words.pop(0)
        if words:
            yield Command(f"{block.file}:{number}", [word for word in words if word not in ("KEY=VALUE...", "...")])
        number += text.count("\n") + 1
