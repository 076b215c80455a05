"""Checks the rules of CONTRIBUTING.md for files and names."""

import ast
from collections import defaultdict
from pathlib import Path

import where

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "sam2fast"
MOST_LINES = 600
MOST_ROOT_MODULES = 14


def sources() -> list[Path]:
    """Every module of the package; ``kernels`` is a symbolic link, which glob does not follow."""
    found = [*PACKAGE.rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]
    return sorted(path for path in found if PACKAGE / "kernels" not in path.parents)


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_package_has_few_modules_at_its_root():
    modules = sorted(path.name for path in PACKAGE.glob("*.py"))
    assert 5 < len(modules) <= MOST_ROOT_MODULES, modules


def test_no_file_is_too_long_to_read():
    assert len(sources()) > 200
    assert [(name(path), lines(path)) for path in sources() if lines(path) > MOST_LINES] == []


def test_a_public_class_name_stands_once():
    where = defaultdict(list)
    for path in sources():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(name(path))
    assert len(where) > 100
    assert {cls: paths for cls, paths in where.items() if len(paths) > 1} == {}


def test_a_named_tuple_has_no_other_base():
    """Python 3.10 refuses to make such a class."""
    classes = [
        node
        for path in sources()
        if "NamedTuple" in (text := path.read_text(encoding="utf-8"))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef)
    ]
    bases = {node.name: [ast.unparse(base) for base in node.bases] for node in classes}
    assert ["NamedTuple"] in bases.values()
    assert [name for name, of_class in bases.items() if "NamedTuple" in of_class and len(of_class) > 1] == []


def test_names_and_modules_are_found(capsys):
    """By ``make where``."""
    for asked, expected, test in (
        ("encode_masks", "kernels/run_lengths.py:", "kernels/test_run_lengths.py"),
        ("kernels/run_lengths.py", "defined", "kernels/test_run_lengths.py"),
        ("video_io/timeline.py", "defined", "video_io/test_video_file.py"),  # no test names this module
    ):
        where.main(asked)
        printed = capsys.readouterr().out
        assert expected in printed and f"tests/{test}" in printed
