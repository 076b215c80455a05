"""Checks the arguments of an op by a sentence, which its error quotes."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

_PART = re.compile(r"([^()]*) \(([^()]*)\)")  # names of arguments, and their shape


class Shapes:
    """Checks arguments by a sentence such as ``"x (..., K), weight (N, K) and bias (N)"``.

    A symbol is the same size everywhere, and ``...`` the same leading axes. ``B or 1`` may also be 1. A symbol may
    consist of several words, such as ``4 * H``. Arguments may be None.

    Args:
        sentence: Names and shapes of arguments. Other words are for readers.
        names: Names of all arguments.
        fits: Function of all arguments that returns False if a condition besides shapes does not hold.
    """

    def __init__(self, sentence: str, names: Sequence[str], fits: Callable[..., bool] | None) -> None:
        self._sentence, self._names, self._fits = sentence, names, fits
        # For each argument: position, True with leading axes, and its axes, which may be 1 if the second is True.
        self._axes: list[tuple[int, bool, list[tuple[str, bool]]]] = []
        for words, shape in _PART.findall(sentence):
            axes = [(axis.removesuffix(" or 1"), axis.endswith(" or 1")) for axis in shape.split(", ") if axis != "..."]
            positions = [names.index(word) for word in re.findall(r"\w+", words) if word in names]
            self._axes += [(position, "..." in shape, axes) for position in positions]
        self._numbers = {axis: int(axis) for _, _, axes in self._axes for axis, _ in axes if axis.isdigit()}
        self._count = 1 + max((position for position, _, _ in self._axes), default=-1)
        self._are_known = lru_cache(maxsize=1024)(self._are_right)

    def check(self, given: Sequence[Any]) -> None:
        """Checks all arguments, by position.

        Raises:
            ValueError: If they do not fit the sentence.
        """
        shapes = tuple([None if x is None else x.shape for x in given[: self._count]])
        try:
            are_right = self._are_right(shapes) if torch.compiler.is_compiling() else self._are_known(shapes)
        except TypeError:  # symbols of a tracer, which have no hash
            are_right = self._are_right(shapes)
        if not are_right or self._fits is not None and not self._fits(*given):
            shown = (tuple(x.shape) if isinstance(x, Tensor) else x for x in given)
            found = [f"{name} {x}" for name, x in zip(self._names, shown, strict=True)]
            raise ValueError(f"expected {self._sentence}, got {', '.join(found)}")

    def _are_right(self, shapes: Sequence[Sequence[int] | None]) -> bool:
        sizes: dict[str, Any] = dict(self._numbers)
        for position, has_leading, axes in self._axes:
            if (shape := shapes[position]) is None:
                continue
            start = len(shape) - len(axes)
            if start < 0 or (start > 0 and not has_leading):
                return False
            if has_leading and sizes.setdefault("...", shape[:start]) != shape[:start]:
                return False
            for size, (axis, is_shared) in zip(shape[start:], axes, strict=True):
                if not (is_shared and size == 1) and sizes.setdefault(axis, size) != size:
                    return False
        return True
