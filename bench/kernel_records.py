"""The records in ``bench/kernels``: what is measured, tuned and shown of each op.

Their modules are imported as ``kernel_records.<op>``, since ``kernels`` is the name of another package.
"""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from registry import Case, Record

FOLDER = Path(__file__).with_name("kernels")
__path__ = [str(FOLDER)]  # makes this module a package

# By module or folder of ``kernels``.
RECORDS: dict[str, Record] = {
    op: import_module(f"kernel_records.{op}").RECORD for op in sorted(path.stem for path in FOLDER.glob("*.py"))
}
# Most important rows first.
SEARCHES = sorted((search for record in RECORDS.values() for search in record.searches), key=lambda each: each.order)


def cases() -> Iterator[Case]:
    """Everything there is to measure."""
    for record in RECORDS.values():
        yield from record.cases


def small_cases() -> Iterator[Case]:
    """A small case of every op and shape class; no times."""
    for record in RECORDS.values():
        yield from record.small
