"""Tracking strategies: training-free rules that select masks and memories."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

from sam2fast.tracking.strategies.base import (
    Attended,
    Decided,
    History,
    KeptResult,
    MaskCandidates,
    Sam2,
    Strategy,
)
from sam2fast.tracking.strategies.confident import Confident
from sam2fast.tracking.strategies.d4sm import D4sm
from sam2fast.tracking.strategies.dam4sam import Dam4Sam
from sam2fast.tracking.strategies.sam2long import Sam2Long
from sam2fast.tracking.strategies.samurai import Samurai
from sam2fast.tracking.strategies.together import Together

__all__ = [
    "Attended",
    "Confident",
    "D4sm",
    "Dam4Sam",
    "Decided",
    "History",
    "KeptResult",
    "MaskCandidates",
    "Sam2",
    "Sam2Long",
    "Samurai",
    "Strategy",
    "Together",
]

# Strategies by name, as in ``build_sam2_video_predictor(..., strategy=...)``.
STRATEGIES: Mapping[str, type[Strategy]] = {
    "sam2": Sam2,
    "samurai": Samurai,
    "sam2long": Sam2Long,
    "confident": Confident,
    "dam4sam": Dam4Sam,
    "d4sm": D4sm,
    "together": Together,
}
SAM2 = Sam2()
StrategyLike: TypeAlias = str | Strategy


def strategy_of(requested: StrategyLike) -> Strategy:
    """Returns the strategy named ``requested``, with published settings. Returns an instance unchanged.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If ``requested`` is neither a name nor an instance, or cannot be hashed.
    """
    if isinstance(requested, Strategy):
        try:
            hash(requested)  # recorded steps are stored by strategy
        except TypeError as error:
            raise TypeError(
                f"{type(requested).__name__} cannot be hashed ({error}); make it a @dataclass(frozen=True), with "
                "tuples instead of lists"
            ) from error
        return requested
    known = ", ".join(map(repr, STRATEGIES))
    if not isinstance(requested, str):
        raise TypeError(f"strategy is {requested!r}; expected {known}, or an instance of a Strategy")
    if requested not in STRATEGIES:
        raise ValueError(f"there is no strategy {requested!r}; expected {known}, or an instance of a Strategy")
    return STRATEGIES[requested]()


def saved_strategy(strategy: Strategy) -> dict[str, Any]:
    """Returns a strategy as JSON-serializable values. See :func:`restored_strategy`."""
    names = [name for name, cls in STRATEGIES.items() if type(strategy) is cls]
    return {"name": names[0] if names else type(strategy).__qualname__, "settings": _settings_of(strategy)}


def restored_strategy(saved: Mapping[str, Any] | None, present: Strategy) -> Strategy:
    """Returns the strategy that was saved.

    Args:
        saved: Result of :func:`saved_strategy`. None for sessions saved by versions without strategies.
        present: The predictor's strategy, which is returned if the saved strategy is a user's class.

    Raises:
        ValueError: If the saved strategy is a user's class and ``present`` differs, or if the settings are invalid.
    """
    if saved is None:
        return SAM2
    name = saved["name"]
    if name in STRATEGIES:
        try:
            return STRATEGIES[name](**saved["settings"])
        except TypeError as error:
            raise ValueError(f"strategy {name!r} has other settings: {error}") from error
    if type(present).__qualname__ != name:
        raise ValueError(f"its strategy is {name}; set the predictor's attribute strategy to an instance of it first")
    settings = _settings_of(present)
    differing = [
        f"{key} {value!r}, not {settings.get(key)!r}"
        for key, value in saved["settings"].items()
        if settings.get(key) != value
    ]
    if differing:
        raise ValueError(
            f"its strategy is {name} with {', '.join(differing)}; set the predictor's attribute strategy first"
        )
    return present


def _settings_of(strategy: Strategy) -> dict[str, Any]:
    """Returns the strategy's settings that are numbers, strings or None."""
    names = [field.name for field in fields(strategy)] if is_dataclass(strategy) else list(vars(strategy))
    values = {name: getattr(strategy, name) for name in names}
    return {name: value for name, value in values.items() if value is None or isinstance(value, str | int | float)}
