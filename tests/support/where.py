"""Prints where a name is defined, tested, measured and documented: ``make where NAME=fill_holes``.

The name is that of a function, class, method, option, or of a module (``NAME=tracking/state.py``): a module's tests are
those that import it.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST = 8  # lines for each
PLACES = {
    "tests": ("tests", "test_*.py"),
    "benchmarks": ("bench", "*.py"),
    "examples": ("examples", "*.py"),
    "documents": ("docs", "*.md"),
}


def definitions(name: str) -> list[str]:
    """Files and lines of the package that define it."""
    pattern = re.compile(
        rf"^\s*(?:(?:async )?def|class) {name}\b|^{name}\b[^=(]*=|\"--{name.replace('_', '-')}\"", re.M
    )
    found = []
    for path in _files("sam2fast", "*.py") + _files("kernels", "*.py"):
        text = path.read_text(encoding="utf-8")
        found += [f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, m.end()) + 1}" for m in pattern.finditer(text)]
    return found


def mentions(pattern: str, folder: str, files: str) -> list[str]:
    """Files of a folder that match the pattern, those with most matches first."""
    counts = {path: len(re.findall(pattern, path.read_text(encoding="utf-8"))) for path in _files(folder, files)}
    return [f"{path.relative_to(ROOT)} ({n})" for path, n in sorted(counts.items(), key=lambda item: -item[1]) if n]


def main(name: str) -> None:
    if name.endswith(".py"):
        parent, stem = (".".join(Path(name).with_suffix("").parts[-2:]).rpartition("."))[::2]
        lines = [str(p.relative_to(ROOT)) for p in _files("sam2fast", "*.py") + _files("kernels", "*.py")]
        rows = {"defined": [line for line in lines if f"/{line}".endswith(f"/{name}")]}
        pattern = rf"\b{parent}\.{stem}\b|{parent} import [^\n]*\b{stem}\b" if parent else rf"\b{stem}\b"
    else:
        rows = {"defined": definitions(name)}
        pattern = rf"\b{name}\b|--{name.replace('_', '-')}\b"
    rows |= {place: mentions(pattern, *where) for place, where in PLACES.items()}
    for place, found in rows.items():
        print(f"{place:11}" + f"\n{'':11}".join(found[:MOST] or ["nowhere"]))


def _files(folder: str, files: str) -> list[Path]:
    return [path for path in sorted((ROOT / folder).rglob(files)) if "node_modules" not in path.parts]


if __name__ == "__main__":
    main(sys.argv[1])
