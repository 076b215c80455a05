"""Writes the generated parts of README.md, docs/ and bench/results/, docs/speed.svg and docs/two_models.svg.

make figures
python bench/figures --check      # changes nothing; fails, and names them, if documents do not show what was measured

A generated part is between ``<!-- figures:NAME -->`` and ``<!-- /figures -->``. A marker with a line of its own holds
paragraphs and tables, one inside a line a piece of a sentence. Such a one must not begin a line: Markdown would take
the line for HTML.
"""

import argparse
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from suite.results import SchemaError

from figures import chart, choose, diagram, kernels, profiles, results, suite
from figures.results import FiguresError, Results

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"
END = "<!-- /figures -->"
PART = re.compile(rf"<!-- figures:([a-z0-9-]+) -->(.*?){END}", re.DOTALL)
ANY = re.compile(r"<!--\s*/?figures.*?-->")
SECTIONS: dict[str, Callable[[Results], str]] = {
    **suite.SECTIONS,
    **results.SECTIONS,
    **kernels.SECTIONS,
    **profiles.SECTIONS,
    **choose.SECTIONS,
}


def generate(root: Path, results: Path) -> dict[str, str]:
    """Every document with markers, the chart and the diagram, as they should be, by path relative to ``root``.

    Raises:
        FiguresError: a result file or one of its fields is missing, or a document's markers are wrong.
    """
    made = {"docs/speed.svg": _part("speed.svg", chart.speed, Results(results, ""))}
    made["docs/two_models.svg"] = diagram.two_models()
    for path in [
        root / "README.md",
        *sorted((root / "bench" / "results").glob("*.md")),
        *sorted((root / "docs").rglob("*.md")),
    ]:
        name, text = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
        if ANY.search(text):
            try:
                made[name] = replace(text, Results(results, "../" * name.count("/")))
            except FiguresError as error:
                raise FiguresError(f"{name}: {error}") from error
    return made


def replace(text: str, results: Results) -> str:
    """A document with each part made again.

    Raises:
        FiguresError: a marker is not closed, is misspelt or does not stand where it can; a part cannot be made.
    """
    if 2 * len(PART.findall(text)) != len(ANY.findall(text)):
        raise FiguresError("a marker <!-- figures:NAME --> or <!-- /figures --> has no counterpart, or is misspelt")

    def part(match: re.Match[str]) -> str:
        name, own_lines = match[1], match[2].startswith("\n")
        if own_lines != (match.start() == 0 or text[match.start() - 1] == "\n"):
            raise FiguresError(f"the part {name!r} has to have lines of its own, or to stand inside a line")
        if name not in SECTIONS:
            raise FiguresError(f"there is no part {name!r}; the parts are {', '.join(SECTIONS)}")
        content = _part(name, SECTIONS[name], results)
        if own_lines:
            content = "\n\n".join(["", *map(_wrapped, content.split("\n\n")), ""])
        return f"<!-- figures:{name} -->{content}{END}"

    return PART.sub(part, text)


def _part(name: str, make: Callable[[Results], str], results: Results) -> str:
    try:
        return make(results)
    except (FiguresError, SchemaError, KeyError) as error:
        raise FiguresError(f"the part {name!r} lacks a field or file: {error}") from error


def _wrapped(text: str) -> str:
    """A paragraph in lines of at most 120 characters; tables, lists and headings as they are."""
    if text.startswith(("|", "- ", "#")):
        return text
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if something would change")
    options = parser.parse_args(arguments)
    try:
        made = generate(ROOT, RESULTS)
    except FiguresError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    old = [name for name, text in made.items() if _text_of(ROOT / name) != text]
    for name in old:
        if options.check:
            print(f"{name} does not show what was measured; run: make figures")
        else:
            (ROOT / name).write_text(made[name], encoding="utf-8")
            print(f"written: {name}")
    return 1 if options.check and old else 0
