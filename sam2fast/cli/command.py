"""Defines commands as dataclasses: a field declares an option for click, for type checkers and for the run."""

import re
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

import click

from sam2fast.io.atomic import expanded


class HomePath(click.Path):
    """A path in which ``~`` is the home folder, since shells do not expand ``--out=~/results``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(expanded(value) if str(value).startswith("~") else value, param, ctx)


PATH = HomePath(path_type=Path)
# Settings of click.option by the field's annotation.
TYPES: dict[Any, dict[str, Any]] = {bool: {"is_flag": True}, float | None: {"type": float}}
TYPES |= {Path: {"type": PATH}, Path | None: {"type": PATH}, Sequence[Path]: {"multiple": True, "type": PATH}}

HELP_ALL = "sam2fast.help_all"  # the key in click's context that is True for ``--help-all``
NO_OPTION = {"decorators": lambda _: ()}  # metadata of fields that are not options


class RareOption(click.Option):
    """An option that few users need. ``--help-all`` lists the option, ``--help`` does not."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        return super().get_help_record(ctx) if ctx.meta.get(HELP_ALL) else None


def option(*flags: str, **settings: Any) -> Any:
    """Declares a field as an option. Flags and settings are arguments of ``click.option``.

    Without flags, the field's name is the flag: ``--max-frames`` for ``max_frames``. :data:`TYPES` sets the type of
    some annotations.
    """

    def decorate(one: Field[Any]) -> list[Callable[[Any], Any]]:
        names = *(flags or ["--" + one.name.replace("_", "-")]), one.name
        return [click.option(*names, **{**TYPES.get(one.type, {}), **settings})]

    return field(metadata={"decorators": decorate})


def argument(**settings: Any) -> Any:
    """Declares a field as an argument of the command. Settings and type are as in :func:`option`."""
    return field(metadata={"decorators": lambda one: [click.argument(one.name, **TYPES.get(one.type, {}), **settings)]})


def shared(*decorators: Callable[[Any], Any]) -> Any:
    """Declares a field for options that several commands share. The command's decorators add the options."""
    return field(metadata={"decorators": lambda _: decorators})


def command(owner: Any, *decorators: Callable[[Any], Any]) -> click.Command:
    """Turns a class with a method ``run`` into a dataclass, and returns a command with the class's docstring as help.

    The name of the class gives the name of the command: ``evaluate-images`` for ``EvaluateImagesCommand``. A command
    with rare options also has ``--help-all``.

    Args:
        decorators: Options without fields. In the help, these options follow the options of the fields.
    """
    owner = dataclass(frozen=True)(owner)

    def callback(**values: Any) -> Any:
        return owner(**values).run()

    callback.__doc__ = owner.__doc__
    of_fields = (one for item in fields(owner) for one in item.metadata["decorators"](item))
    for decorate in reversed([*of_fields, *decorators]):
        callback = decorate(callback)
    name = "-".join(re.findall("[A-Z][a-z]+", owner.__name__)[:-1]).lower()
    made = click.command(name)(callback)
    if any(isinstance(one, RareOption) for one in made.params):
        help_all = RareOption(
            ["--help-all"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_full_help,
            help="Show all options and exit.",
        )
        made.params.append(help_all)
        made.epilog = "--help-all also lists rarely used options."
    return made


def _print_full_help(ctx: click.Context, _option: click.Parameter, is_asked: bool) -> None:
    """Prints the help with rare options, and ends the command. Callback of ``--help-all``."""
    if is_asked and not ctx.resilient_parsing:
        ctx.meta[HELP_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()
