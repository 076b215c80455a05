"""Installs the package in many ways and reports what works: ``make matrix ROWS="tested oldest"``.

Rows run one by one, each in its own environment; rows that differ only in the process's surroundings share one. Prints
a line per row and a table at the end. The exit code is 1 if a row fails or lacks a requirement. Requirements may be
missing for the rows of ``OPTIONAL`` and with ``--allow-absent``.
"""

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import rows_folders
import rows_surroundings
import rows_versions
from places import ROOT, Failure, Place, Unavailable, find_pythons

ROWS = rows_versions.ROWS | rows_surroundings.ROWS | rows_folders.ROWS
# They need rights or programs that many machines lack, in particular containers.
OPTIONAL = {"read-only", "no-home", "no-network", "latin-locale"}
OK, FAILED, ABSENT = "ok", "FAILED", "not here"


def run_row(name: str, place: Place) -> dict[str, Any]:
    """The verdict on one row, with details."""
    begun = time.perf_counter()
    try:
        verdict, said = OK, ROWS[name](place)
    except Unavailable as error:
        verdict, said = ABSENT, str(error)
    except Failure as error:
        verdict, said = FAILED, str(error)
    except Exception as error:  # unexpected errors must not end the later rows
        verdict, said = FAILED, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
    return {"row": name, "verdict": verdict, "said": said, "seconds": round(time.perf_counter() - begun)}


def exit_code(verdicts: dict[str, str], allow_absent: bool) -> int:
    """1 if a row failed, or a required row could not run."""
    absent = {name for name, verdict in verdicts.items() if verdict == ABSENT} - OPTIONAL
    return 1 if FAILED in verdicts.values() or (absent and not allow_absent) else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; left out, all")
    parser.add_argument("--python", action="append", default=[], type=Path, help="an interpreter, beside those of PATH")
    parser.add_argument("--folder", type=Path, help="where to work, which takes 10 GB; left out, a temporary folder")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where matrix-cpu-DATE.json goes (%(default)s)")
    parser.add_argument("--allow-absent", action="store_true", help="a row that cannot be run here is no failure")
    arguments = parser.parse_args()
    if unknown := set(arguments.rows) - set(ROWS):
        parser.error(f"no rows {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    sys.path.append(str(ROOT / "bench"))
    from reports import write_report
    from suite.machine import machine

    about = machine()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="matrix-") as folder:
        Path(folder).chmod(0o755)  # for users other than this one
        place = Place(Path(folder), find_pythons(arguments.python))
        about["pythons"] = {version: str(path) for version, path in sorted(place.pythons.items())}
        results: list[dict[str, Any]] = []
        for name in arguments.rows or ROWS:
            results.append(run_row(name, place))
            print(f"{name}: {results[-1]['verdict']}: {results[-1]['said']}", flush=True)
            report = write_report(arguments.out, "matrix-cpu", machine=about, rows=results)
    print()
    for r in results:
        print(f"{r['row']:<15}  {r['verdict']:<8}  {r['seconds']:>4} s  {r['said'].partition(chr(10))[0]}")
    print(report)
    return exit_code({r["row"]: r["verdict"] for r in results}, arguments.allow_absent)


if __name__ == "__main__":
    sys.exit(main())
