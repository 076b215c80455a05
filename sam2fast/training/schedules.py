"""Schedules: functions of ``where``, the completed fraction of the training in [0, 1].

The classes have the names, arguments and values of ``fvcore.common.param_scheduler``. Unlike in fvcore, the argument
``where`` may be 1.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

# Tolerance for rounding errors of ``where`` at the boundary between two schedules.
WHERE_EPSILON = 1e-6
ParamScheduler: TypeAlias = Callable[[float], float]  # function of ``where`` in [0, 1]


def _check(where: float) -> float:
    if not 0 <= where <= 1:
        raise ValueError(f"where, the completed fraction of the training, must lie in [0, 1]; got {where}")
    return where


class ConstantParamScheduler:
    """Schedule that returns ``value`` throughout the training."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, where: float) -> float:
        _check(where)
        return self.value


class LinearParamScheduler:
    """Interpolates linearly from ``start_value`` to ``end_value``."""

    def __init__(self, start_value: float, end_value: float) -> None:
        self.start_value, self.end_value = start_value, end_value

    def __call__(self, where: float) -> float:
        return self.end_value * _check(where) + self.start_value * (1 - where)


class CosineParamScheduler:
    """Interpolates from ``start_value`` to ``end_value`` along half a period of the cosine."""

    def __init__(self, start_value: float, end_value: float) -> None:
        self.start_value, self.end_value = start_value, end_value

    def __call__(self, where: float) -> float:
        share = 1 + math.cos(math.pi * _check(where))
        return self.end_value + 0.5 * (self.start_value - self.end_value) * share


class StepParamScheduler:
    """Schedule that returns each of ``values`` for an equal fraction of the training.

    Args:
        num_updates: positive number that is ignored, as in fvcore.
    """

    def __init__(self, num_updates: float, values: Sequence[float]) -> None:
        if num_updates <= 0 or not values:
            raise ValueError(f"expected a positive num_updates and values, got {num_updates} and {list(values)}")
        self.values = tuple(values)

    def __call__(self, where: float) -> float:
        index = int((_check(where) + WHERE_EPSILON) * len(self.values))
        return self.values[min(index, len(self.values) - 1)]


class CompositeParamScheduler:
    """Schedule that runs several schedules one after another.

    Args:
        schedulers: schedules in the order in which they run.
        lengths: positive fraction of the training for each schedule. The fractions sum to 1.
        interval_scaling: for each schedule, ``rescaled`` (default) if the schedule's ``where`` runs from 0 to 1 in its
            interval, or ``fixed`` if the schedule gets the training's ``where``.
    """

    def __init__(
        self,
        schedulers: Sequence[ParamScheduler],
        lengths: Sequence[float],
        interval_scaling: Sequence[str] | None = None,
    ) -> None:
        if interval_scaling is None:
            interval_scaling = ["rescaled"] * len(schedulers)
        if not schedulers or not len(schedulers) == len(lengths) == len(interval_scaling):
            raise ValueError(
                f"expected as many lengths and scalings as schedules; got {len(schedulers)} schedules, "
                f"{len(lengths)} lengths, {len(interval_scaling)} scalings"
            )
        if min(lengths) <= 0 or abs(sum(lengths) - 1) >= 1e-3:
            raise ValueError(f"lengths must be positive and sum to 1, got {list(lengths)}")
        if unknown := set(interval_scaling) - {"rescaled", "fixed"}:
            raise ValueError(f"interval_scaling is 'rescaled' or 'fixed', got {', '.join(map(repr, unknown))}")
        self.schedulers = tuple(schedulers)
        self.interval_scaling = tuple(interval_scaling)
        # The last length is adjusted so that all lengths sum to exactly 1.
        self.lengths = (*lengths[:-1], 1 - sum(lengths[:-1]))

    def __call__(self, where: float) -> float:
        _check(where)
        index, end = 0, self.lengths[0]
        while where + WHERE_EPSILON > end and index < len(self.lengths) - 1:
            index += 1
            end += self.lengths[index]
        if self.interval_scaling[index] == "rescaled":
            length = self.lengths[index]
            where = min(1.0, max(0.0, (where - (end - length)) / length))
        return self.schedulers[index](where)


class WarmUpParamScheduler(CompositeParamScheduler):
    """Rises linearly from ``start_value`` to the first value of ``scheduler``, then follows ``scheduler``."""

    def __init__(self, scheduler: ParamScheduler, length: float, start_value: float = 0.0) -> None:
        if not 0 < length < 1:
            raise ValueError(f"the warm-up's share of the training must lie between 0 and 1, got {length}")
        super().__init__([LinearParamScheduler(start_value, scheduler(0.0)), scheduler], [length, 1 - length])
