"""Names and signatures of the official package, and how ours differ."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import oracle  # noqa: F401  (makes the official package importable)
import sam2
import torch

from sam2fast._official_names import ABSENT, MODULES, NAMES

# Protocols of Python's own; constructors are compared as the class's signature.
SPECIAL = ("__call__", "__getitem__", "__setitem__", "__delitem__", "__len__")


class Member(NamedTuple):
    """A function, class or method of the official package, and its counterpart."""

    name: str  # such as sam2.build_sam.build_sam2
    official: Any
    ours: Any  # None if there is none


def official_modules() -> list[str]:
    """Those that have a counterpart here."""
    found = [info.name for info in pkgutil.walk_packages(sam2.__path__, "sam2.")]
    return [name for name in found if name not in ABSENT]


def members() -> Iterator[Member]:
    """Everything that the official modules define, methods included."""
    for name in official_modules():
        for attribute, value in vars(importlib.import_module(name)).items():
            if getattr(value, "__module__", None) != name:
                continue
            ours = our(name, attribute)
            yield Member(f"{name}.{attribute}", value, ours)
            if inspect.isclass(value) and ours is not None:
                for method, raw in vars(value).items():
                    if method in SPECIAL or not method.startswith("__"):
                        found = inspect.getattr_static(ours, method, None)
                        yield Member(f"{name}.{attribute}.{method}", raw, found)


def our(module: str, name: str) -> Any:
    """What ``sam2fast.as_sam2`` would give for an official name, without registering it."""
    target = NAMES.get(module, {}).get(name) or (f"{MODULES[module]}.{name}" if module in MODULES else None)
    if target is None:
        return None
    home, _, own = target.rpartition(".")
    return getattr(importlib.import_module(home), own, None)


def kind(value: Any) -> str:
    """What sort of attribute it is."""
    for sort in (property, staticmethod, classmethod):
        if isinstance(value, sort):
            return sort.__name__
    return "callable" if callable(value) else "value"


def differences(official: Any, ours: Any) -> list[str]:
    """Differences by which a call written for the official package could fail or change its meaning."""
    if kind(official) != kind(ours):
        return [f"a {kind(ours)} instead of a {kind(official)}"]
    if isinstance(official, property) or kind(official) == "value":
        return []
    expected, actual = _signature(official), _signature(ours)
    if expected is None or actual is None:
        return [] if expected is None else ["no signature"]
    found = list(_parameter_differences(expected, actual))
    theirs, own = (_return_form(s.return_annotation) for s in (expected, actual))
    if theirs is not None and theirs != own:
        found.append(f"returns {own} instead of {theirs}")
    return found


def _signature(value: Any) -> inspect.Signature | None:
    function: Callable[..., Any] = value.__func__ if isinstance(value, staticmethod | classmethod) else value
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def _parameter_differences(expected: inspect.Signature, actual: inspect.Signature) -> Iterator[str]:
    theirs, ours = dict(expected.parameters), dict(actual.parameters)
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for sort in variable:
        if any(p.kind == sort for p in theirs.values()) and not any(p.kind == sort for p in ours.values()):
            yield f"no {sort.description} parameters"
    named = [p for p in theirs.values() if p.kind not in variable]
    own = [p for p in ours.values() if p.kind not in variable]
    for position, parameter in enumerate(named):
        if parameter.name not in ours:
            yield f"no {parameter.name}"
            continue
        match = ours[parameter.name]
        if match.kind != parameter.kind:
            yield f"{parameter.name} is {match.kind.description}"
        elif own.index(match) != position and parameter.kind != inspect.Parameter.KEYWORD_ONLY:
            yield f"{parameter.name} stands elsewhere"
        if not _same_default(parameter.default, match.default):
            yield f"{parameter.name}={match.default!r} instead of {parameter.default!r}"
    for parameter in own:
        if parameter.name not in theirs and parameter.default is inspect.Parameter.empty:
            yield f"{parameter.name} is needed"


def _same_default(theirs: Any, ours: Any) -> bool:
    if isinstance(theirs, list) and isinstance(ours, tuple):  # ours cannot be changed by a call
        return theirs == list(ours)
    if isinstance(theirs, torch.Tensor) or isinstance(ours, torch.Tensor):
        return theirs is ours
    return type(theirs) is type(ours) and bool(theirs == ours)


def _return_form(annotation: Any) -> str | None:
    """What is returned, however it is spelled; None where the official package does not say."""
    if annotation is inspect.Signature.empty:
        return None
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"\bndarray\[.*?\]\]", "ndarray", re.sub(r"[A-Za-z_0-9]+\.", "", text))  # modules, and dtypes
    text = re.sub(r"NDArray\[\w+(\[\w+\])?\]", "ndarray", text)
    return re.sub(r"Optional\[(.*)\]", r"\1 | None", text).lower()
