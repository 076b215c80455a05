"""Checks integer arguments. Imports only the standard library, since exported trackers contain this file."""

import operator
from typing import Any


def integer(value: Any, name: str) -> int:
    """Returns ``value`` as an int.

    Raises:
        TypeError: If ``value`` is not a Python, NumPy or torch integer.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; expected an integer, not {type(value).__name__}") from None


def frame_number(value: Any, num_frames: int, name: str, may_be_the_end: bool = False) -> int:
    """Returns ``value`` as the index of a video frame.

    Args:
        may_be_the_end: If True, ``num_frames`` is also valid, for loops that continue after the last frame of a pass.

    Raises:
        TypeError: If ``value`` is not an integer.
        IndexError: If the frame does not exist.
    """
    frame = integer(value, name)
    if not 0 <= frame < num_frames + may_be_the_end:
        raise IndexError(f"frame {frame} is not in this video of {num_frames} frames")
    return frame


def at_least(least: int, value: Any, name: str) -> int:
    """Returns ``value`` as an int of at least ``least``.

    Raises:
        TypeError: If ``value`` is not an integer.
        ValueError: If ``value`` is less than ``least``.
    """
    number = integer(value, name)
    if number < least:
        raise ValueError(f"{name} is {number}; expected {least} or more")
    return number
