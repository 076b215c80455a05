"""Prompts for images, and the option types that parse them."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click

FOREGROUND, BACKGROUND = 1, 0
LABEL = re.compile(r"(.+):(\d+)")


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
    """The prompts for one object; the mask is ``FILE`` or ``FILE:LABEL``."""

    clicks: tuple[Click, ...] = ()
    box: Box | None = None
    mask: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.clicks) or self.box is not None or self.mask is not None

    @property
    def is_ambiguous(self) -> bool:
        """Whether the prompt is a single click, for which the model predicts several masks."""
        return len(self.clicks) == 1 and self.box is None and self.mask is None

    def outside(self, width: int, height: int) -> list[str]:
        """Clicks and boxes that lie outside an image of this size, as text. A box may reach beyond the edge."""
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


def mask_file(mask: Path) -> tuple[Path, int | None]:
    """The file of a mask, and of ``FILE:LABEL`` the label."""
    found = LABEL.fullmatch(str(mask))
    return (Path(found[1]), int(found[2])) if found and not mask.is_file() else (mask, None)


class Reason(ValueError):
    """The reason why a text is not a valid prompt."""


class PromptType(click.ParamType):
    """One prompt as text. Subclasses say its form and parse it."""

    example: str

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.read(value)
        except ValueError as error:
            reason = f" ({error})" if isinstance(error, Reason) else ""
            hint = self.hint(value)
            self.fail(f"{value!r} is not {self.name}, such as {self.example}{reason}{hint}", param, ctx)

    def hint(self, text: str) -> str:
        """A hint to append to the error message, or nothing."""
        if re.fullmatch(r"-?[\d.]+", text):
            return "; give numbers joined by commas, without spaces"
        return ""

    def read(self, text: str) -> Any:
        """The prompt; raises ValueError if the text is anything else."""
        raise NotImplementedError


class ClickType(PromptType):
    """``X,Y`` or ``X,Y,LABEL``."""

    name, example = "X,Y[,LABEL]", "500,375 or 500,375,0"

    def read(self, text: str) -> Click:
        x, y, *label = read_numbers(text.split(","), (2, 3))
        return Click(x, y, read_label(label[0] if label else FOREGROUND))


class BoxType(PromptType):
    """``X0,Y0,X1,Y1``."""

    name, example = "X0,Y0,X1,Y1", "425,600,700,875"

    def read(self, text: str) -> Box:
        box = Box(*read_numbers(text.split(","), (4,)))
        if box.x1 < box.x0 or box.y1 < box.y0:
            raise Reason("its corners are the wrong way round; expected X0 <= X1 and Y0 <= Y1")
        return box


def read_label(value: Any) -> int:
    """The label of a point; raises ValueError for anything else."""
    if isinstance(value, bool) or value not in (FOREGROUND, BACKGROUND):
        raise Reason(f"the label is {value!r}; expected 1 (the object) or 0 (not the object)")
    return int(value)


def read_numbers(values: Any, counts: tuple[int, ...], what: str = "it") -> list[float]:
    """Parses finite numbers; raises ValueError if their count is not one of ``counts``."""
    try:
        numbers = [float(value) for value in values if not isinstance(value, bool)]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) not in counts or len(numbers) != len(values) or not all(map(math.isfinite, numbers)):
        raise Reason(f"{what} has not {' or '.join(map(str, counts))} finite numbers")
    return numbers
