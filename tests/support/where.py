"""Prints where a name or module is defined, tested, measured and documented: ``make where NAME=fill_holes``."""

import ast
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
    for path in _modules():
        text = path.read_text(encoding="utf-8")
        found += [f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, m.end()) + 1}" for m in pattern.finditer(text)]
    return found


def mentions(pattern: str, folder: str, files: str) -> list[str]:
    """Files of a folder that match the pattern, those with most matches first."""
    texts = {path: path.read_text(encoding="utf-8") for path in _files(folder, files)}
    counts = {path: sum(1 for _ in re.finditer(pattern, text)) for path, text in texts.items()}
    return [f"{path.relative_to(ROOT)} ({n})" for path, n in sorted(counts.items(), key=lambda item: -item[1]) if n]


def main(name: str) -> None:
    name = name.lstrip("-").replace("-", "_")
    if name.endswith(".py"):
        found = [path for path in _modules() if f"/{path.relative_to(ROOT)}".endswith(f"/{name}")]
        rows = {"defined": [str(path.relative_to(ROOT)) for path in found]}
        named = [str(test.relative_to(ROOT)) for path in found for test in _files("tests", f"test_{path.stem}.py")]
        pattern = pattern_of_modules(found)
    else:
        rows = {"defined": definitions(name)}
        pattern = rf"\b{name}\b|--{name.replace('_', '-')}\b"
        named = []
    rows |= {place: mentions(pattern, *where) for place, where in PLACES.items()}
    if name.endswith(".py") and not rows["tests"]:
        rows["tests"] = tests_of_importers(found)
    rows["tests"] = named + [each for each in rows["tests"] if each.partition(" ")[0] not in named]
    for place, each in rows.items():
        print(f"{place:11}" + f"\n{'':11}".join(each[:MOST] or ["nowhere"]))


def tests_of_importers(modules: list[Path]) -> list[str]:
    """Returns tests of the nearest modules that import the modules, directly or not, and that tests name."""
    seen, found = set(modules), []
    while modules and not found:
        pattern = re.compile("|".join(map(pattern_of_imports, modules)))
        modules = [path for path in _modules() if path not in seen and pattern.search(path.read_text(encoding="utf-8"))]
        seen.update(modules)
        found = mentions(pattern_of_modules(modules), *PLACES["tests"])
    return found


def pattern_of_modules(paths: list[Path]) -> str:
    """Returns a regular expression for imports of modules, and for their public functions and classes."""
    patterns = [r"(?!)"]
    for path in paths:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        names = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        public = "|".join(name for name in names if not name.startswith("_"))
        patterns += [pattern_of_imports(path), *([rf"\b({public})\b"] if public else [])]
    return "|".join(patterns)


def pattern_of_imports(path: Path) -> str:
    return rf"\b{path.parent.name}(\.{path.stem}\b| import [^\n]*\b{path.stem}\b)"


def _modules() -> list[Path]:
    return [*_files("sam2fast", "*.py"), *_files("kernels", "*.py")]


def _files(folder: str, files: str) -> list[Path]:
    return sorted((ROOT / folder).rglob(files))


if __name__ == "__main__":
    main(sys.argv[1])
