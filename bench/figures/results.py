"""Result files, the newest of each kind, how their numbers are written, and parts that are made of one file each by the
templates of ``tables.md``.

A part is ``## NAME KIND options``, and then text, with the heading of a table and a template of its rows before it
where it has one. Options are ``KEY=VALUE``, which rows have to have; ``rows=``, the field with the rows, or one of
:data:`ROWS`; and ``has=``, a field that the file must not have empty. Fields are written as
:func:`write` says; text may also name ``{link}`` or ``{link:TEXT}``, the machine as ``{on}``, and the
rows of the table as ``{shown}``.
"""

import json
import re
import shlex
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

DATE = r"-(\d{4}-\d{2}-\d{2})\.json"
MODELS = {"t": "tiny", "s": "small", "b+": "base+", "l": "large"}
WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


class FiguresError(Exception):
    """A document cannot be made; the message says what is missing."""


class Report(NamedTuple):
    """One result file."""

    name: str
    path: str  # below ``bench/results``
    data: dict[str, Any]


class Results:
    """The result files, as one document refers to them.

    Args:
        folder: where they are.
        root: how the document writes the repository's root: ``""`` for the README, ``"../"`` for ``docs/*.md``.
    """

    def __init__(self, folder: Path, root: str = "") -> None:
        self.folder, self.root = folder, root

    def reports(self, kind: str) -> list[Report]:
        """All files ``KIND-DATE.json``, the newest first. ``kind`` is a regular expression."""
        dated = [(m[1], p) for p in self.folder.rglob("*.json") if (m := re.fullmatch(f"(?:{kind}){DATE}", p.name))]
        return [
            Report(p.name, p.relative_to(self.folder).as_posix(), json.loads(p.read_text(encoding="utf-8")))
            for _, p in sorted(dated, reverse=True)
        ]

    def newest(self, kind: str, suits: Callable[[dict[str, Any]], Any] = lambda data: True) -> Report:
        """The newest file of a kind, of those that suit.

        Raises:
            FiguresError: there is none.
        """
        found = next((report for report in self.reports(kind) if suits(report.data)), None)
        if found is None:
            raise FiguresError(f"no file {kind}-DATE.json with what is needed in {self.folder}")
        return found

    def link(self, report: Report, text: str = "") -> str:
        """A link to a result file; by default its path is the text."""
        return f"[{text or f'bench/results/{report.path}'}]({self.root}bench/results/{report.path})"


def mark(row: Mapping[str, Any], report: Report) -> str:
    """Returns the reason why a row of a GPU does not count, as text behind its name; empty if the row counts.

    A row counts if its step ended in time, the commit is known, no tracked file differed from it, and no kernel was
    switched off.
    """
    about = report.data["machine"]
    if about.get("device", "CPU").startswith("CPU"):
        return ""
    commit = row.get("commit", about.get("commit"))
    reasons = ["timed out"] * ("timed out" in row.get("verdict", "")) + ["unknown commit"] * (commit is None)
    reasons += ["uncommitted changes"] * str(commit).endswith("-dirty")
    reasons += [f"{op} by torch" for op in row.get("torch_ops", ())]
    return f" ({', '.join(reasons)})" if reasons else ""


class _Each(list[Any]):
    """Every element, which ``[*]`` stands for; the format sums them up."""


def _step(found: Any, key: str) -> Any:
    """One key further. What is null stays null."""
    if isinstance(found, _Each):
        return _Each(_step(each, key) for each in found)
    if key == "*":
        return _Each(found.values() if isinstance(found, Mapping) else found)
    if found is None:
        return None
    return found[int(key)] if isinstance(found, list) else found[key]


def field(found: Any, path: str) -> Any:
    """``rows[0][median_s]``: what the keys of a path lead to; ``[*]`` are all elements.

    Raises:
        FiguresError: there is no such field.
    """
    for key in re.findall(r"[^\[\]]+", path):
        try:
            found = _step(found, key)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise FiguresError(f"there is no {path!r}") from error
    return found


class _Template(string.Formatter):
    def get_field(self, field_name: str, args: Any, kwargs: Any) -> tuple[Any, str]:
        return field(kwargs, field_name), field_name

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, _Each) or format_spec.startswith("count"):
            summary, _, format_spec = format_spec.partition(" ")
            value = {"min": min, "max": max, "count": len}[summary](value)
        if value is None:
            return "–"
        if callable(value):
            return str(value(format_spec))
        written = FORMATS.get(format_spec)
        return written(value) if written else format(value, format_spec)


def write(template: str, values: Mapping[str, Any]) -> str:
    """Fills ``{PATH:format}`` from the fields of a result.

    A format is one of :data:`FORMATS` or Python's. Before it stands ``min``, ``max`` or ``count`` where a path leads to
    several values, as in ``{rows[*][ratio]:min .1f}``. Null is a dash.

    Raises:
        FiguresError: the result has no such field.
    """
    return _Template().vformat(template, (), values)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Writes a table in Markdown."""
    lines = [f"| {' | '.join(line)} |" for line in (header, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(header)}", *lines[1:]])


def seconds(value: float, digits: int = 2) -> str:
    """Writes seconds with a unit, in milliseconds below a tenth of a second."""
    return f"{value:.{digits}f} s" if value >= 0.1 else f"{value * 1e3:.{1 if value >= 0.01 else 2}f} ms"


def small(value: float) -> str:
    """A difference, with two digits."""
    return f"{value:.1f}" if value >= 0.1 else f"{value:.1e}".replace("e-0", "e-") if value else "0"


def count(number: int) -> str:
    """In words up to twelve."""
    return WORDS[number] if number < len(WORDS) else f"{number:,}"


def several(number: int, what: str) -> str:
    return f"{count(number)} {what}{'s' * (number > 1)}"


def machine(about: dict[str, Any]) -> str:
    """Describes the machine as a piece of a sentence."""
    versions = f"torch {about['torch'].split('+')[0]}, Python {'.'.join(about['python'].split('.')[:2])}"
    if "gpu" in about:
        return f"{about['gpu']}, {versions}"
    return f"{several(about['threads'], 'thread')} of an {processor(about)}, {versions}"


def processor(about: dict[str, Any]) -> str:
    """The GPU, or the CPU with its vector units."""
    vectors = f" with {about['capability']}" if "capability" in about else ""
    return str(about.get("gpu") or f"{about['cpu']}{vectors}")


FORMATS: dict[str, Callable[[Any], str]] = {
    "seconds": seconds,
    "seconds1": lambda value: seconds(value, 1),
    "seconds3": lambda value: seconds(value, 3),
    "times": lambda value: f"{value:.2f}×",
    "times1": lambda value: f"{value:.1f}×",
    "difference": small,
    "model": lambda size: MODELS.get(size, size),
    "million": lambda number: f"{number / 1e6:.1f} million",
    "words": count,
    "millions": lambda number: f"{number / 1e6:,.0f}",
    "billions": lambda number: f"{number / 1e9:,.0f}",
    "billions1": lambda number: f"{number / 1e9:.1f}",
    "megabytes": lambda value: f"{value / 1e6:,.2f} MB",
    "ms": lambda value: f"{value * 1e3:.2f}",
}


Data = dict[str, Any]


def by_clips(data: Data) -> Iterable[Data]:
    """Approximations with what was measured of each on each kind of clips; null where nothing was."""
    kinds = dict.fromkeys(("fast clips", "slow clips", "real videos", "time alone"))
    found: dict[str, Data] = {}
    for row in data["rows"]:
        found.setdefault(row["name"], {"name": row["name"], **kinds})[row["films"]] = row  # codespell:ignore
    return found.values()


def full_size(data: Data) -> Iterable[Data]:
    """Recipes of training at the full size, with the GiB of all that is kept."""
    rows = [row for row in data["rows"] if row["side"] == 1024 and not row["overrides"]]
    parts = ("weights", "gradients", "optimizer", "saved")
    return [row | {"gib": sum(row["mib"][part] for part in parts) / 1024} for row in rows]


def states(data: Data) -> Iterable[Data]:
    """Before and after a training."""
    return [{"state": state, "own": data["own"][state], "kept": data["kept"][state]} for state in ("before", "after")]


ROWS: dict[str, Callable[[Data], Iterable[Data]]] = {
    "by_clips": by_clips,
    "full_size": full_size,
    "states": states,
}


def part(results: Results, kind: str, options: dict[str, str], template: str) -> str:
    """One generated part."""
    needed, rows_of = options.get("has"), options.get("rows", "rows")
    wanted = {key: value for key, value in options.items() if key not in ("has", "rows")}
    report = results.newest(kind, lambda data: needed is None or field(data, needed))
    rows = ROWS[rows_of](report.data) if rows_of in ROWS else report.data.get(rows_of, [])
    shown = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    more: Data = {"shown": shown, "link": lambda text: results.link(report, text)}
    about = report.data.get("machine")
    more |= {"on": machine(about)} if isinstance(about, dict) else {}
    *lines, text = template.split("\n")
    tables = [table(_cells(lines[0]), [_cells(write(lines[1], row)) for row in shown])] if lines else []
    return "\n\n".join([*tables, write(text, report.data | more)])


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def _sections(templates: str) -> Iterable[tuple[str, Callable[[Results], str]]]:
    for block in templates.split("\n## ")[1:]:
        head, template = block.strip().replace("\n\n", "\n").split("\n", 1)
        name, kind, *options = shlex.split(head)
        chosen = dict(option.split("=", 1) for option in options)
        yield name, lambda results, kind=kind, chosen=chosen, template=template: part(results, kind, chosen, template)


SECTIONS = dict(_sections(Path(__file__).with_name("tables.md").read_text(encoding="utf-8")))
