"""Griffe extension: the house style of docstrings, as the reference of the site reads it."""

import re
from pathlib import Path
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|meth|class|data|attr|mod|exc):`(?P<short>~?)\.?(?P<name>[\w.]+)(?:\(\)| <[\w.]+>)?`")
SEVERAL = re.compile(
    r"^(?P<indent> +)(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)+): (?P<said>(?:.|\n(?=(?P=indent) ))+)", re.MULTILINE
)
DOCUMENT = re.compile(r"\bdocs/(?P<name>[\w/]+)\.md\b")
DOCUMENTS = Path(__file__).parents[1]
ATTRIBUTES = re.compile(r"^Attributes:\n(?P<listed>(?: {4}.*(?:\n|$))+)", re.MULTILINE)
NOTHING = "\N{NO-BREAK SPACE}"  # an entry has to say something
COMMENT = re.compile(r"  # (?P<said>.+)$")


class HouseStyle(griffe.Extension):
    """Roles of Sphinx become code, documents links, comments beside the fields of a record its attributes.

    Several parameters that are explained at once become one entry each.
    """

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            text = DOCUMENT.sub(_link, ROLE.sub(_code, obj.docstring.value))
            obj.docstring.value = SEVERAL.sub(_one_each, text) if "Args:" in text else text
            if isinstance(obj, griffe.Class) and _is_record(obj):
                obj.docstring.value = _with_fields(obj, obj.docstring.value)


def _is_record(obj: griffe.Class) -> bool:
    return "dataclass" in obj.labels or any(str(base) in ("NamedTuple", "TypedDict") for base in obj.bases)


def _with_fields(obj: griffe.Class, text: str) -> str:
    """The docstring with all fields under ``Attributes:``; those that are not there yet with their comments."""
    section = ATTRIBUTES.search(text)
    listed = section["listed"].rstrip("\n") if section else ""
    for field in obj.members.values():
        if not isinstance(field, griffe.Attribute) or field.annotation is None or field.name.startswith("_"):
            continue
        if field.docstring is None and not re.search(rf"^ {{4}}(.*, )?{field.name}\b.*:", listed, re.MULTILINE):
            listed += f"\n    {field.name}: {_said_of(field)}"
    if section:
        return text[: section.start("listed")] + listed.lstrip("\n") + "\n" + text[section.end("listed") :]
    return f"{text}\n\nAttributes:{listed}" if listed else text


def _said_of(field: griffe.Attribute) -> str:
    comment = COMMENT.search(field.source)
    parts = [comment["said"]] if comment else []
    if field.value is not None and not str(field.value).startswith("field("):
        parts.append(f"default `{field.value}`")
    return "; ".join(parts) or NOTHING


def _code(match: re.Match[str]) -> str:
    name = match["name"]
    return f"`{name.rsplit('.', 1)[-1] if match['short'] else name}`"


def _link(match: re.Match[str]) -> str:
    """By the title of the page; from ``api/``, where every page of the reference is. MkDocs says if there is none."""
    page = DOCUMENTS / f"{match['name']}.md"
    title = page.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# ") if page.is_file() else match[0]
    return f"[{title}](../{match['name']}.md)"


def _one_each(match: re.Match[str]) -> str:
    return "\n".join(f"{match['indent']}{name}: {match['said']}" for name in match["names"].split(", "))
