"""The site's reference shows every promised name: ``docs/api`` lists it or its module."""

import inspect
import pkgutil
import re

from checkout import ROOT
from public_api import MODULES, promised, promised_members

ENTRY = re.compile(r"^::: (?P<path>[\w.]+)$(?P<options>(?:\n {4}.*)*)", re.MULTILINE)
INHERITED = re.compile(r"^ +- (\w+)$", re.MULTILINE)
DOCUMENT = re.compile(r"\bdocs/[\w/]+\.md\b")


def entries() -> dict[str, set[str]]:
    """The names on the pages, with the inherited members to show."""
    texts = [page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs" / "api").glob("*.md"))]
    return {m["path"]: set(INHERITED.findall(m["options"])) for text in texts for m in ENTRY.finditer(text)}


def test_names_on_the_pages_exist():
    for path, inherited in entries().items():
        value = pkgutil.resolve_name(path)
        assert not [name for name in inherited if not hasattr(value, name)], path


def test_every_promised_name_is_shown():
    named = {path: pkgutil.resolve_name(path) for path in entries()}
    # Of a module, what has a docstring is shown; a constant has none, and has to be named.
    shown = {id(value) for value in named.values()}
    shown |= {
        id(value)
        for path, module in named.items()
        if inspect.ismodule(module)
        for _, value in promised(path)
        if (inspect.isclass(value) or inspect.isfunction(value)) and value.__doc__
    }
    hidden = [
        f"{module}.{name}"
        for module in MODULES
        for name, value in promised(module)
        if id(value) not in shown and f"{module}.{name}" not in named
    ]
    assert not hidden, f"docs/api/ does not show {hidden}: name them there, or give them docstrings"


def test_every_promised_member_is_shown():
    inherited = {pkgutil.resolve_name(path): names for path, names in entries().items()}
    classes = {value for module in MODULES for _, value in promised(module) if inspect.isclass(value)}
    shown = {
        value: {name for name, member in vars(value).items() if member.__doc__} | inherited.get(value, set())
        for value in classes
    }
    for value in classes:
        seen = {name for base in value.__mro__ for name in shown.get(base, ())}
        # The forward of a torch module is documented by its class.
        hidden = promised_members(value).keys() - seen - {"forward"}
        assert not hidden, f"{value}: docs/api/ does not show {sorted(hidden)}: inherited, or without docstring"


def test_documents_in_docstrings_exist():
    for folder in ("sam2fast", "kernels"):
        for path in (ROOT / folder).rglob("*.py"):
            for name in DOCUMENT.findall(path.read_text(encoding="utf-8")):
                assert (ROOT / name).is_file(), f"{path}: {name}"
