"""Griffe extension: the house style of docstrings, as the reference of the site reads it."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|meth|class|data|attr|mod|exc):`(?P<short>~?)\.?(?P<name>[\w.]+)(?:\(\))?`")
SEVERAL = re.compile(
    r"^(?P<indent> +)(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)+): (?P<said>(?:.|\n(?=(?P=indent) ))+)", re.MULTILINE
)


class HouseStyle(griffe.Extension):
    """Roles of Sphinx become code; several parameters explained at once become one entry each."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            text = ROLE.sub(_code, obj.docstring.value)
            obj.docstring.value = SEVERAL.sub(_one_each, text) if "Args:" in text else text


def _code(match: re.Match[str]) -> str:
    name = match["name"]
    return f"`{name.rsplit('.', 1)[-1] if match['short'] else name}`"


def _one_each(match: re.Match[str]) -> str:
    return "\n".join(f"{match['indent']}{name}: {match['said']}" for name in match["names"].split(", "))
