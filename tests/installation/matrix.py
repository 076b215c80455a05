"""Installs the package in many ways and says what then works: ``make matrix ROWS="tested oldest"``.

Rows run one after another, each in an environment of its own or, where only what surrounds the process differs, in one
that they share. Prints a line for each and a table at the end; the exit code is 1 if one fails. A row that needs what
this machine does not have says so, and is no failure.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import rows_folders
import rows_surroundings
import rows_versions
from places import Failure, Place, Unavailable, find_pythons

ROWS = rows_versions.ROWS | rows_surroundings.ROWS | rows_folders.ROWS
OK, FAILED, ABSENT = "ok", "FAILED", "not here"


def run_row(name: str, place: Place) -> dict[str, Any]:
    """The verdict on one row, with what was seen."""
    begun = time.perf_counter()
    try:
        verdict, said = OK, ROWS[name](place)
    except Unavailable as error:
        verdict, said = ABSENT, str(error)
    except Failure as error:
        verdict, said = FAILED, str(error)
    return {"row": name, "verdict": verdict, "said": said, "seconds": round(time.perf_counter() - begun)}


def table(results: list[dict[str, Any]]) -> list[str]:
    """The results in columns, in one line each."""
    width = max(len(result["row"]) for result in results)
    return [f"{r['row']:<{width}}  {r['verdict']:<8}  {r['seconds']:>4} s  {_first_line(r['said'])}" for r in results]


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; left out, all")
    parser.add_argument("--python", action="append", default=[], type=Path, help="an interpreter, beside those of PATH")
    parser.add_argument("--folder", type=Path, help="where to work, which takes 10 GB; left out, a temporary folder")
    parser.add_argument("--out", type=Path, default=Path("out/matrix.json"), help="the results (%(default)s)")
    arguments = parser.parse_args()
    if unknown := set(arguments.rows) - set(ROWS):
        parser.error(f"no rows {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="matrix-") as folder:
        Path(folder).chmod(0o755)  # for users other than this one
        place = Place(Path(folder), find_pythons(arguments.python))
        results = []
        for name in arguments.rows or ROWS:
            results.append(run_row(name, place))
            print(f"{name}: {results[-1]['verdict']}: {results[-1]['said']}", flush=True)
            arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print("\n".join(["", *table(results)]))
    return 1 if any(result["verdict"] == FAILED for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
