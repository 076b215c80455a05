"""Approximations by name: what a video predictor may leave out, and how much of it."""

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

# Of names that are given without a value; measured in docs/approximations.md.
DEFAULT_SLOTS = 4
DEFAULT_STILL = 0.02


@dataclass(frozen=True)
class Approximations:
    """Which approximations are in force; with none of them masks are the exact ones, bit by bit.

    Attributes:
        memory_slots: an object attends to its conditioning frames and so many minus one of its recent frames, the
            nearest; None for as many as the model was trained with.
        still_frames: a frame that differs from the last encoded one by no more than this gets its features. The
            difference is that of pixels in [0, 1], the mean over a cell of 32x32 pixels of the model's input, of the
            cell where it is largest. None for never.
        fp8_attention: scores of memory attention are of queries and keys rounded to eight bits, where the GPU has
            products of such numbers (NVIDIA's from compute capability 8.9 on); elsewhere they are exact, which is
            logged. ``"emulated"`` for the same rounding on any device, which saves nothing and shows what it costs.
    """

    memory_slots: int | None = None
    still_frames: float | None = None
    fp8_attention: bool | Literal["emulated"] = False

    @classmethod
    def of(cls, asked: "ApproximationsLike") -> "Approximations":
        """What is asked for by names, with values where a name has one and another than the default is wanted.

        Args:
            asked: ``"memory_slots"``, ``["fp8_attention", "still_frames=0.01"]``, ``{"memory_slots": 3,
                "still_frames": True}``; None or an empty list for no approximation.

        Raises:
            ValueError: an unknown name, one given twice, or a value that it cannot have.
            TypeError: neither names nor a mapping.
        """
        if isinstance(asked, Approximations):
            return asked
        values: dict[str, Any] = {}
        for name, value in _entries(asked):
            if name not in DEFAULTS:
                raise ValueError(f"there is no approximation {name!r}; the known ones are {KNOWN}")
            if name in values:
                raise ValueError(f"the approximation {name} is given twice")
            if value is not None and value is not False:
                values[name] = _CHECKS[name](DEFAULTS[name] if value is True else value)
        return cls(**values)

    def check_for(self, num_maskmem: int) -> "Approximations":
        """These, if a model can have them.

        Args:
            num_maskmem: memories that it attends to, one of them for conditioning frames.

        Raises:
            ValueError: it cannot; the message says why.
        """
        if self.memory_slots is not None and self.memory_slots > num_maskmem:
            raise ValueError(
                f"memory_slots={self.memory_slots} is more than the {num_maskmem} memories that this model attends to"
            )
        return self

    def named(self) -> dict[str, Any]:
        """Values by name of those in force, as :meth:`of` takes them."""
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in every.items() if value is not None and value is not False}

    def __str__(self) -> str:
        return ", ".join(name if v is True else f"{name}={v}" for name, v in self.named().items()) or "none"


EXACT = Approximations()
ApproximationsLike: TypeAlias = None | str | Iterable[str] | Mapping[str, Any] | Approximations

DEFAULTS: dict[str, Any] = {
    "memory_slots": DEFAULT_SLOTS,
    "still_frames": DEFAULT_STILL,
    "fp8_attention": True,
}
KNOWN = (
    f"memory_slots[=1, 2, ...] (by default {DEFAULT_SLOTS}), "
    f"still_frames[=0.0 to 1.0] (by default {DEFAULT_STILL}), fp8_attention[=emulated]"
)


def _entries(asked: ApproximationsLike) -> Iterable[tuple[str, Any]]:
    if asked is None:
        return ()
    if isinstance(asked, str):
        asked = [asked]
    if isinstance(asked, Mapping):
        return asked.items()
    if not isinstance(asked, Iterable):
        raise TypeError(f"approximations are names or a mapping of names to values, not {type(asked).__name__}")
    return [_entry(name) for name in asked]


def _entry(text: Any) -> tuple[str, Any]:
    """``NAME`` or ``NAME=VALUE``."""
    if not isinstance(text, str):
        raise TypeError(f"the name of an approximation is a string, not {text!r}; the known ones are {KNOWN}")
    name, equals, value = text.partition("=")
    return name.strip(), value.strip() if equals else True


def _slots(value: Any) -> int:
    try:
        number = int(value) if isinstance(value, str) else operator.index(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise ValueError(f"memory_slots is {value!r}; expected an integer of 1 or more, conditioning frames included")
    return number


def _threshold(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise ValueError(f"still_frames is {value!r}; expected a difference of pixels from 0 to 1")
    return number


def _fp8(value: Any) -> bool | str:
    if value is not True and value != "emulated":
        raise ValueError(f"fp8_attention is {value!r}; it takes no value but True, False and 'emulated'")
    return value


_CHECKS = {"memory_slots": _slots, "still_frames": _threshold, "fp8_attention": _fp8}
