"""The result files: of several of one kind the newest date counts."""

import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

WIDTH = 120
# Kind -> what its files' names begin with, as a regular expression, and what writes them.
KINDS = {
    "set-image": (r"set-image-cpu", "make bench"),
    "video": (r"video-cpu", "make bench"),
    "encoder": (r"encoder-cpu", "bench/encoder_side_by_side.py"),
    "encoder-parts": (r"encoder-parts-cpu", "bench/encoder_parts.py"),
    "automatic-masks": (r"automatic-masks-cpu", "bench/automatic_masks.py"),
    "stream-memory": (r"stream-memory-cpu", "bench/stream_memory.py"),
    "soak": (r"soak-cpu", "bench/soak.py"),
    "video-loading": (r"video-loading-cpu", "bench/video_loading.py"),
    "nano-heldout": (r"nano-heldout", "bench/nano_heldout.py"),
    "nano-real": (r"nano-real", "bench/nano_real.py"),
    "nano-overfit": (r"nano-overfit", "sam2fast train -c nano/sam2fast_nano_overfit"),
    "untrained-heldout": (r"untrained-heldout", "bench/nano_heldout.py"),
    "suite": (r"suite-cpu", "make bench"),
    "suite-gpu": (r"suite-(?!cpu-|transformers-)[a-z0-9-]+", "make gpu"),
    "curves": (r"curves-cpu", "bench/curves.py"),
    "curves-gpu": (r"curves-cuda", "bench/curves.py --device cuda"),
    "encoder-gpu": (r"encoder-cuda", "bench/encoder_side_by_side.py --device cuda"),
    "compile-modes": (r"compile-modes(-[a-z0-9-]+)?", "bench/compile_modes.py"),
    "transformers": (r"suite-transformers-cpu", "make bench-transformers"),
    "approximations": (r"approximations-cpu", "bench/approximations.py"),
    "evaluation": (r"evaluation-cpu", "bench/evaluation.py"),
    "scaling": (r"scaling-cpu", "bench/scaling.py"),
    "training-memory": (r"training-memory-cpu", "bench/training_memory.py"),
    "own-masks": (r"own-masks-cpu", "bench/own_masks.py"),
    "memory-trial": (r"memory-trial-cpu", "bench/memory_trial.py"),
    "serve-load": (r"serve-load-cpu", "bench/serve_load.py"),
}
DATE = r"-(\d{4}-\d{2}-\d{2})\.json"


class FiguresError(Exception):
    """A document cannot be made; the message says what is missing."""


class Report(NamedTuple):
    """One result file."""

    name: str
    data: dict[str, Any]


def read(path: Path) -> Report:
    """A file of results under its own name.

    Raises:
        FiguresError: it cannot be read.
    """
    try:
        return Report(path.name, json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise FiguresError(f"{path} is not JSON: {error}") from error


class Results:
    """Result files, as one document refers to them.

    Args:
        folder: where they lie.
        root: how the document writes the repository's root: ``""`` for the README, ``"../"`` for ``docs/*.md``.
        wraps: paragraphs are broken into lines of at most 120 characters.
    """

    def __init__(self, folder: Path, root: str = "", wraps: bool = False) -> None:
        self.folder, self.root, self.wraps = folder, root, wraps

    def newest(self, kind: str, of: Callable[[dict[str, Any]], bool] = lambda data: True) -> Report:
        """The newest file of a kind, of those that have what is wanted.

        Raises:
            FiguresError: there is none.
        """
        found = self.find(kind, of)
        if found is None:
            _, writer = KINDS[kind]
            raise FiguresError(
                f"no file {_readable(kind)} with what is needed in {self.folder}; it is written by: {writer}"
            )
        return found

    def find(self, kind: str, of: Callable[[dict[str, Any]], bool] = lambda data: True) -> Report | None:
        """As :meth:`newest`; None if there is no such file.

        Raises:
            FiguresError: a file cannot be read.
        """
        pattern = re.compile(KINDS[kind][0] + DATE)
        dated = [(m[m.lastindex or 0], p) for p in self.folder.glob("*.json") if (m := pattern.fullmatch(p.name))]
        for _, path in sorted(dated, reverse=True):
            report = read(path)
            if of(report.data):
                return report
        return None

    def link(self, report: Report, text: str | None = None) -> str:
        """A link to a result file; by default its path is the text."""
        return f"[{text or f'bench/results/{report.name}'}]({self.root}bench/results/{report.name})"

    def picture(self, name: str, what: str) -> str:
        """A chart in the document."""
        return f"![{what}]({self.root}docs/figures/{name}.svg)"

    def paragraph(self, text: str) -> str:
        """Text of one paragraph in the document's form."""
        if not self.wraps:
            return text
        return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)

    def not_measured(self, kind: str) -> str:
        """What stands in place of a table of a kind of which there is no file yet."""
        return self.paragraph(f"Not measured yet: there is no file {_readable(kind)} ({KINDS[kind][1]}).")


def _readable(kind: str) -> str:
    names = {"suite-gpu": "suite-GPU", "compile-modes": "compile-modes-DEVICE"}
    return f"`bench/results/{names.get(kind, KINDS[kind][0])}-DATE.json`"
