"""Commands as dataclasses: a field declares an option for click, for type checkers and for the run."""

import re
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)
# Settings of fields with these annotations.
TYPES: dict[Any, dict[str, Any]] = {bool: {"is_flag": True}, float | None: {"type": float}}
TYPES |= {Path: {"type": PATH}, Path | None: {"type": PATH}, Sequence[Path]: {"multiple": True, "type": PATH}}

NO_OPTION = {"decorators": lambda _: ()}  # metadata of a field that is no option


def option(*flags: str, **settings: Any) -> Any:
    """Declares a field that is an option. Flags and settings are as of ``click.option``.

    Without flags, the name of the field is the flag: ``--max-frames`` for ``max_frames``. The annotations in
    :data:`TYPES` are types, too.
    """

    def decorate(one: Field[Any]) -> list[Callable[[Any], Any]]:
        names = *(flags or ["--" + one.name.replace("_", "-")]), one.name
        return [click.option(*names, **{**TYPES.get(one.type, {}), **settings})]

    return field(metadata={"decorators": decorate})


def argument(**settings: Any) -> Any:
    """Declares a field that is an argument. Settings and the type are as of :func:`option`."""
    return field(metadata={"decorators": lambda one: [click.argument(one.name, **TYPES.get(one.type, {}), **settings)]})


def shared(*decorators: Callable[[Any], Any]) -> Any:
    """Declares a field whose options several commands share. The decorators add them."""
    return field(metadata={"decorators": lambda _: decorators})


def command(owner: Any, *decorators: Callable[[Any], Any], cls: type[click.Command] = click.Command) -> click.Command:
    """Turns a class with a method ``run`` into a dataclass, and returns its command. The class's docstring is the help.

    The name of the class gives the name of the command: ``evaluate-images`` for ``EvaluateImagesCommand``.

    Args:
        decorators: Options that are no fields. They stand after the options of the fields.
    """
    owner = dataclass(frozen=True)(owner)

    def made(**values: Any) -> Any:
        return owner(**values).run()

    made.__doc__ = owner.__doc__
    of_fields = (one for each in fields(owner) for one in each.metadata["decorators"](each))
    for decorate in reversed([*of_fields, *decorators]):
        made = decorate(made)
    name = "-".join(re.findall("[A-Z][a-z]+", owner.__name__)[:-1]).lower()
    return click.command(name, cls=cls)(made)
