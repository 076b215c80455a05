"""Whole numbers that callers give, checked before anything is done with them."""

import operator
from typing import Any


def integer(value: Any, name: str) -> int:
    """``value`` as an int.

    Raises:
        TypeError: it is no integer, of Python, numpy or torch.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; expected an integer, not {type(value).__name__}") from None


def frame_number(value: Any, num_frames: int, name: str, may_be_the_end: bool = False) -> int:
    """The same, if a video has such a frame.

    Args:
        may_be_the_end: the video's length is allowed too, for loops that go on where the last pass ended.

    Raises:
        TypeError: it is no integer.
        IndexError: there is no such frame.
    """
    frame = integer(value, name)
    if not 0 <= frame < num_frames + may_be_the_end:
        raise IndexError(f"frame {frame} is not in this video of {num_frames} frames")
    return frame


def at_least(least: int, value: Any, name: str) -> int:
    """The same, if it is ``least`` or more.

    Raises:
        TypeError: it is no integer.
        ValueError: it is less.
    """
    number = integer(value, name)
    if number < least:
        raise ValueError(f"{name} is {number}; expected {least} or more")
    return number
