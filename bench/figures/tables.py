"""Tables and sentences that are made of one result file each, by the templates of ``tables.md``.

A part is ``## NAME KIND options``, and then text, with the heading of a table and a template of its rows before it
where it has one. Options are ``KEY=VALUE``, which rows have to have; ``rows=``, the field with the rows, or one of
:data:`ROWS`; and ``has=``, a field that the file must not have empty. Fields are written as
:func:`figures.results.write` says; text may also name ``{link}`` or ``{link:TEXT}``, the machine as ``{on}``, and the
rows of the table as ``{shown}``.
"""

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from figures.results import Results, field, machine, table, write

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


ROWS: dict[str, Callable[[Data], Iterable[Data]]] = {"by_clips": by_clips, "full_size": full_size, "states": states}


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
