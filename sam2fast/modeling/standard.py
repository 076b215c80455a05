"""Whether a part of the model is as sam2fast defines it: nothing in it was wrapped, hooked, patched or replaced.

Fused code computes a whole part at once, from the parameters of its layers, and calls none of its modules. It stands in
for a part only while :func:`is_standard` is true. Otherwise each module is called through its ``forward``, with the
arguments and results of the original, and what a user added to it takes effect.
"""

from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from gc import get_referents  # of dicts: the values of many in one call
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules import module as nn_module
from torch.utils.hooks import RemovableHandle

Class = TypeVar("Class", bound=type[nn.Module])
Function = TypeVar("Function", bound=Callable[..., Any])

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS: list[dict[int, Any]] = [getattr(nn_module, f"_global{name}") for name in _HOOKS]

_CONTAINERS = (nn.ModuleDict, nn.ModuleList, nn.Sequential)

_decided: ContextVar[Container[int]] = ContextVar("sam2fast_decided_standard", default=())  # ids of modules

# Classes whose modules are standard, with their attributes as they were defined, and the names of their methods.
_CLASSES: dict[type[nn.Module], dict[str, Any]] = {}
_METHODS: dict[type[nn.Module], frozenset[str]] = {}
_COUNTS: dict[type[nn.Module], int] = {}


def standard(cls: Class) -> Class:
    """Class decorator: fused code knows what modules of this class compute with the parts that they construct."""
    if cls.__module__.startswith("sam2fast.") and not issubclass(cls, _CONTAINERS):
        _record_kinds(cls)
    # Not its construction, which torch's compiler patches.
    names = [name for name in dir(cls) if name == "__call__" or name[:2] != "__"]
    _CLASSES[cls] = {name: vars(cls)[name] for name in names if name in vars(cls)}
    _COUNTS[cls] = len(vars(cls))
    methods = {name for name in names if callable(getattr(cls, name, None))}
    _METHODS[cls] = frozenset(methods | {"_compiled_call_impl"})  # set by nn.Module.compile
    return cls


def _record_kinds(cls: type[nn.Module]) -> None:
    """Has instances keep the classes of the parts that they are constructed with."""
    init = cls.__init__

    @wraps(init)
    def construct(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        vars(self)["_constructed"] = _kinds(self)

    cls.__init__ = construct  # type: ignore[method-assign]


def _kinds(module: nn.Module) -> dict[str, type]:
    """The classes of the modules in this one, and of those in its lists and sequences, by name."""
    found = {}
    for name, child in module._modules.items():
        found[name] = type(child)
        if isinstance(child, _CONTAINERS):
            found |= {f"{name}.{below}": kind for below, kind in _kinds(child).items()}
    return found


for _cls in (
    nn.Module,
    nn.Linear,
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.LayerNorm,
    nn.BatchNorm2d,
    nn.Embedding,
    nn.GELU,
    nn.ReLU,
    nn.MaxPool2d,
    nn.Dropout,
    nn.Identity,
    nn.ModuleDict,
    nn.ModuleList,
    nn.Sequential,
):
    standard(_cls)


def observing(method: Function) -> Function:
    """Marks a method that only observes the one it replaces on an instance, for a profile: fused code calls it, too."""
    method.keeps_standard = True  # type: ignore[attr-defined]
    return method


def is_standard(part: nn.Module) -> bool:
    """Whether ``part`` and all modules below it are of sam2fast's or torch's own classes, and nobody

    - registered a hook (forward, forward pre, backward, backward pre) on one of them or on all modules,
    - set or patched a method, on an instance or on a class,
    - replaced a module or a parameter by something of another class.
    """
    return id(part) in _decided.get() or (is_plain(part) and has_standard_parts(part))


def is_plain(module: nn.Module) -> bool:
    """:func:`is_standard` of one module, whatever is below it."""
    return id(module) in _decided.get() or (
        _is_unchanged(module) and _has_no_global_hooks() and _are_pristine(type(module).__mro__)
    )


def has_standard_parts(whole: nn.Module) -> bool:
    """:func:`is_standard` of all modules below ``whole``, but not of itself.

    What was found is kept until something changes, so that a call takes microseconds.
    """
    if id(whole) in _decided.get():
        return True
    found: _Parts | None = vars(whole).get("_standard_parts")
    if found is None or not (found.are_standard and found.are_unchanged()):
        found = vars(whole)["_standard_parts"] = _Parts(whole)
    return found.are_standard and _has_no_global_hooks() and found.classes.are_pristine()


@contextmanager
def deciding_once(model: nn.Module) -> Iterator[list[nn.Module] | None]:
    """Context manager in which ``model`` is not changed, so that its parts are looked at only here.

    Other models that a user's function calls meanwhile are looked at as usual.

    Yields:
        The modules below ``model``; None if one is not standard.
    """
    parts: _Parts | None = vars(model)["_standard_parts"] if has_standard_parts(model) else None
    token = _decided.set(() if parts is None else parts.ids)
    try:
        yield None if parts is None else parts.below
    finally:
        _decided.reset(token)


# A compiler evaluates these when it traces the caller. The public decorator does only this, and imports the compiler.
for _function in (is_standard, is_plain, has_standard_parts):
    setattr(_function, "_dynamo_marked_constant", True)  # noqa: B010


def is_standard_layer(layer: nn.Module, cls: type[nn.Module]) -> bool:
    """:func:`is_standard` of one of torch's layers, which has no others below it; and that it is of this class."""
    if type(layer) is not cls:
        return False
    attributes = vars(layer)
    return id(layer) in _decided.get() or (
        cls.forward is _CLASSES[cls]["forward"]
        and "forward" not in attributes
        and "_compiled_call_impl" not in attributes
        and not any(attributes[name] for name in _HOOKS)
        and all(_is_plain_tensor(type(parameter)) for parameter in layer._parameters.values())
        and _has_no_global_hooks()
    )


is_standard_layer._dynamo_marked_constant = True  # type: ignore[attr-defined]


class _Parts:
    """The modules below one, and what was found in them. Copies and pickles of the module look for themselves."""

    def __init__(self, whole: nn.Module) -> None:
        below = [module for module in whole.modules() if module is not whole]  # not itself: it would keep itself alive
        self.below, self.ids = below, frozenset(map(id, (whole, *below)))
        self._handles = -1
        self._hooks = [getattr(module, name) for module in below for name in _HOOKS]
        # What is added where there was nothing, is called by nobody.
        children = [module._modules for module in (whole, *below) if module._modules]
        self._dicts = (*children, *(module._parameters for module in below if module._parameters))
        self._had = get_referents(*children)
        self._types = list(map(type, get_referents(*self._dicts)))
        self._attributes = [vars(module) for module in below]
        self._counts = list(map(len, self._attributes))
        self._hiding = [(vars(module), name, vars(module)[name]) for module in below for name in hidden_methods(module)]
        self.classes = _Classes(base for cls in set(map(type, self._had)) for base in cls.__mro__)
        self.are_standard = _has_its_kinds(whole) and all(map(_is_unchanged, below))

    def are_unchanged(self) -> bool:
        """Whether nothing was added, removed or replaced since, and there is no hook."""
        found = get_referents(*self._dicts)
        return (
            self._have_no_hooks()
            and list(map(type, found)) == self._types
            and found[: len(self._had)] == self._had
            and list(map(len, self._attributes)) == self._counts
            and all(attributes.get(name) is value for attributes, name, value in self._hiding)
        )

    def _have_no_hooks(self) -> bool:
        """Looks at the modules only if any hook was registered since the last time, on whatever in the process."""
        handles = RemovableHandle.next_id
        if handles != self._handles:
            if any(self._hooks):
                return False
            self._handles = handles
        return True

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[()]]:
        return _nothing, ()


def _nothing() -> None:
    return None


def hidden_methods(module: nn.Module) -> frozenset[str]:
    """Names of methods of a known class that attributes of the instance hide, as after a patch."""
    return _METHODS.get(type(module), frozenset()) & vars(module).keys()


def _is_unchanged(module: nn.Module) -> bool:
    """Whether the module itself has no hooks, methods or kinds of parameters that its class has not."""
    attributes = vars(module)
    if type(module) not in _METHODS or any(attributes[name] for name in _HOOKS):
        return False
    if not all(_hides_nothing(module, name) for name in hidden_methods(module)):
        return False
    return _has_its_kinds(module) and all(_is_plain_tensor(type(p)) for p in module._parameters.values())


def _has_its_kinds(module: nn.Module) -> bool:
    """Whether the parts of one of our modules have the classes that it was constructed with."""
    constructed = vars(module).get("_constructed")
    return constructed is None or constructed == _kinds(module)


def _hides_nothing(module: nn.Module, name: str) -> bool:
    """Whether an attribute of the instance is its class's method of that name, as after a patch, or observes it."""
    value = vars(module)[name]
    own = getattr(value, "__self__", None) is module and value.__func__ is getattr(type(module), name)
    return own or getattr(value, "keeps_standard", False)


def _is_plain_tensor(kind: type) -> bool:
    """Whether it is not a tensor with operations of its own, as of quantised weights; fake ones have a tensor's."""
    return kind in (nn.Parameter, torch.Tensor, type(None)) or kind.__module__.startswith("torch._subclasses.")


def _has_no_global_hooks() -> bool:
    return not any(_GLOBAL_HOOKS)


def _are_pristine(classes: Iterable[type]) -> bool:
    """Whether these classes still have the attributes that they were defined with."""
    for cls in classes:
        defined, attributes = _CLASSES.get(cls), vars(cls)
        if defined is None:
            continue
        if not defined.items() <= attributes.items():
            return False
        if len(attributes) != _COUNTS[cls] and not _METHODS[cls].isdisjoint(attributes.keys() - defined.keys()):
            return False
    return True


class _Classes:
    """Classes whose attributes are looked at one by one only where they are not those of the last time."""

    def __init__(self, classes: Iterable[type]) -> None:
        self._classes = {cls for cls in classes if cls in _CLASSES}
        self._attributes = get_referents(*map(vars, self._classes))  # dicts, which vars() hides behind proxies
        self._seen: list[Any] = []  # when they were pristine

    def are_pristine(self) -> bool:
        found = get_referents(*self._attributes)
        if found != self._seen:
            if not _are_pristine(self._classes):
                return False
            self._seen = found
        return True
