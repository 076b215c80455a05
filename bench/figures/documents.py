"""Writes the generated parts of README.md and docs/*.md, and the charts.

make figures
python bench/figures --check      # changes nothing; fails, and names them, if documents do not show what was measured
python bench/figures --out DIR    # leaves the documents as they are and writes the new ones there
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from figures import markers
from figures.charts import numbers, svg
from figures.results import FiguresError, Results
from figures.sections import SECTIONS, charts

ROOT = Path(__file__).resolve().parents[2]
DRAWINGS = "docs/figures"


def generate(root: Path, results: Path) -> dict[str, str]:
    """Every document with markers as it should be, and every chart, by path relative to ``root``.

    Raises:
        FiguresError: a result file is missing, or a document's markers are wrong.
    """
    made = {}
    for path in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        name, text = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
        try:
            if "<!-- figures:" in text or markers.END in text:
                made[name] = _document(text, Results(results, "../" * name.count("/"), wraps=True))
        except FiguresError as error:
            raise FiguresError(f"{name}: {error}") from error
    drawn = charts(Results(results))
    return made | {f"{DRAWINGS}/{name}.svg": svg(chart) for name, chart in drawn.items()}


def _document(text: str, results: Results) -> str:
    def make(name: str) -> str:
        if name not in SECTIONS:
            raise FiguresError(f"there is no part {name!r}; the parts are {', '.join(SECTIONS)}")
        return SECTIONS[name](results)

    return markers.replace(text, make)


def stale(root: Path, made: dict[str, str]) -> list[str]:
    """What differs from what was made, or was not made; charts are equal if their numbers are."""
    found = []
    for name, text in made.items():
        path = root / name
        present = path.read_text(encoding="utf-8") if path.exists() else None
        equal = present == text
        if present is not None and name.endswith(".svg"):
            # Another version of matplotlib draws other paths.
            equal = numbers(present) == numbers(text)
        if not equal:
            found.append(name)
    return found + unused(root, made)


def unused(root: Path, made: dict[str, str]) -> list[str]:
    """Charts that no result file gives any more."""
    there = (path.relative_to(root).as_posix() for path in sorted((root / DRAWINGS).glob("*.svg")))
    return [name for name in there if name not in made]


def write(target: Path, made: dict[str, str]) -> list[str]:
    """Writes what differs, each file whole or not at all; their names."""
    written = []
    for name, text in made.items():
        path = target / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        written.append(name)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if something would change")
    parser.add_argument("--out", type=Path, help="write into this folder instead")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results", help="the result files")
    options = parser.parse_args(arguments)
    try:
        made = generate(ROOT, options.results)
    except FiguresError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.check:
        old = stale(ROOT, made)
        for name in old:
            print(f"{name} does not show what was measured; run: make figures")
        return 1 if old else 0
    for name in write(options.out or ROOT, made):
        print(f"written: {name}")
    if options.out is None:
        for name in unused(ROOT, made):
            (ROOT / name).unlink()
            print(f"removed: {name}")
    return 0
