"""Defines the approximations that a video predictor can use to save time."""

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

# Default values of approximations that are requested without a value. docs/approximations.md has measurements.
DEFAULT_SLOTS = 4
DEFAULT_STILL = 0.02


@dataclass(frozen=True)
class Approximations:
    """Stores the enabled approximations. If none is enabled, masks are unchanged bit by bit.

    Attributes:
        memory_slots: Number of memory slots. An object attends to its conditioning frames and to the
            ``memory_slots - 1`` nearest recent frames. If None, uses ``num_maskmem`` slots of the model.
        still_frames: Largest difference at which a frame reuses the features of the last encoded frame. The difference
            is the largest mean absolute difference in a cell of 32x32 pixels of the model's input, for pixels in
            [0, 1]. If None, encodes every frame.
        fp8_attention: If True, memory attention rounds queries and keys to fp8 for its scores, on GPUs with fp8 matrix
            multiplication (NVIDIA from compute capability 8.9). On other devices scores stay exact, and a warning is
            logged. ``"emulated"`` rounds on any device, to measure the error, but saves no time.
    """

    memory_slots: int | None = None
    still_frames: float | None = None
    fp8_attention: bool | Literal["emulated"] = False

    @classmethod
    def of(cls, asked: "ApproximationsLike") -> "Approximations":
        """Returns the approximations for names with optional values.

        Args:
            asked: Names, for example ``"memory_slots"``, ``["fp8_attention", "still_frames=0.01"]``, or
                ``{"memory_slots": 3, "still_frames": True}``. None or an empty list for no approximation.

        Raises:
            ValueError: If a name is unknown or occurs twice, or a value is invalid.
            TypeError: If ``asked`` is not None, a string, an iterable or a mapping.
        """
        if isinstance(asked, Approximations):
            return asked
        values: dict[str, Any] = {}
        for name, value in _entries(asked):
            if name not in _KNOWN:
                raise ValueError(f"there is no approximation {name!r}; the known ones are {KNOWN}")
            if name in values:
                raise ValueError(f"the approximation {name} occurs twice")
            if value is not None and value is not False:
                default, check = _KNOWN[name]
                values[name] = check(default if value is True else value)
        return cls(**values)

    def named(self) -> dict[str, Any]:
        """Returns the values of the enabled approximations by name, as a mapping for :meth:`of`."""
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in every.items() if value is not None and value is not False}

    def __str__(self) -> str:
        return ", ".join(name if v is True else f"{name}={v}" for name, v in self.named().items()) or "none"


EXACT = Approximations()
ApproximationsLike: TypeAlias = None | str | Iterable[str] | Mapping[str, Any] | Approximations

KNOWN = (
    f"memory_slots[=1, 2, ...] (by default {DEFAULT_SLOTS}), "
    f"still_frames[=0.0 to 1.0] (by default {DEFAULT_STILL}), fp8_attention[=emulated]"
)


def _entries(requested: ApproximationsLike) -> Iterable[tuple[str, Any]]:
    if requested is None:
        return ()
    if isinstance(requested, str):
        requested = [requested]
    if isinstance(requested, Mapping):
        return requested.items()
    if not isinstance(requested, Iterable):
        raise TypeError(f"approximations are names or a mapping of names to values, not {type(requested).__name__}")
    return [_entry(name) for name in requested]


def _entry(text: Any) -> tuple[str, Any]:
    """Parses ``NAME`` or ``NAME=VALUE``. Without a value, returns True as the value."""
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
        raise ValueError(f"memory_slots is {value!r}; expected an integer of at least 1")
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
        raise ValueError(f"fp8_attention is {value!r}; expected True, False or 'emulated'")
    return value


# Maps an approximation's name to its default value, and to the function that checks a given value.
_KNOWN: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "memory_slots": (DEFAULT_SLOTS, _slots),
    "still_frames": (DEFAULT_STILL, _threshold),
    "fp8_attention": (True, _fp8),
}
