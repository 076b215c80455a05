"""Prompts for images, and the option types that parse them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click

FOREGROUND, BACKGROUND = 1, 0


class Click(NamedTuple):
    """A point in pixels of the image as displayed."""

    x: float
    y: float
    label: int


class Box(NamedTuple):
    """Corners in pixels of the image as displayed."""

    x0: float
    y0: float
    x1: float
    y1: float

    def scaled(self, width: float, height: float) -> "Box":
        """The box with its columns times ``width`` and its rows times ``height``."""
        return Box(self.x0 * width, self.y0 * height, self.x1 * width, self.y1 * height)


@dataclass(frozen=True)
class Prompts:
    """The prompts for one object."""

    clicks: Sequence[Click] = ()
    box: Box | None = None
    mask: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.clicks) or self.box is not None or self.mask is not None

    @property
    def is_ambiguous(self) -> bool:
        """Whether the prompt is a single click, for which the model predicts several masks."""
        return len(self.clicks) == 1 and self.box is None and self.mask is None

    def outside(self, width: int, height: int) -> list[str]:
        """Clicks and boxes that lie outside an image of this size, as text."""
        found = [f"point {c.x:g},{c.y:g}" for c in self.clicks if not (0 <= c.x <= width and 0 <= c.y <= height)]
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            if x1 < 0 or y1 < 0 or x0 > width or y0 > height:
                found.append(f"box {x0:g},{y0:g},{x1:g},{y1:g}")
        return found

    def as_json(self) -> dict[str, Any]:
        """As JSON; ``labels`` are 1 for the object and 0 for what is not part of it."""
        return {
            "points": [[c.x, c.y] for c in self.clicks],
            "labels": [c.label for c in self.clicks],
            "box": None if self.box is None else list(self.box),
            "mask": None if self.mask is None else str(self.mask),
        }


class ClickType(click.ParamType):
    """``X,Y`` or ``X,Y,LABEL``."""

    name = "X,Y[,LABEL]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Click:
        """Reads one point; anything else is a usage error."""
        if isinstance(value, Click):
            return value
        numbers = _numbers(value)
        if numbers is None or len(numbers) not in (2, 3):
            self.fail(f"{value!r} is not {self.name}, such as 500,375 or 500,375,0", param, ctx)
        label = numbers[2] if len(numbers) == 3 else FOREGROUND
        if label not in (FOREGROUND, BACKGROUND):
            self.fail(f"{value!r} has the label {label:g}; expected 1 (the object) or 0 (not the object)", param, ctx)
        return Click(numbers[0], numbers[1], int(label))


class BoxType(click.ParamType):
    """``X0,Y0,X1,Y1``."""

    name = "X0,Y0,X1,Y1"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Box:
        """Reads one box; anything else is a usage error."""
        if isinstance(value, Box):
            return value
        numbers = _numbers(value)
        if numbers is None or len(numbers) != 4:
            self.fail(f"{value!r} is not {self.name}, such as 425,600,700,875", param, ctx)
        box = Box(*numbers)
        if box.x1 < box.x0 or box.y1 < box.y0:
            self.fail(f"{value!r} has its corners the wrong way round; expected X0 <= X1 and Y0 <= Y1", param, ctx)
        return box


def _numbers(text: str) -> list[float] | None:
    """Finite numbers separated by commas; none if the text is anything else."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return None
    return numbers if all(math.isfinite(number) for number in numbers) else None
