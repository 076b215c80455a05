"""Whether a part of a model is as built: nobody changed what its modules compute."""

from collections.abc import Sequence
from functools import cache
from gc import get_referents  # of dicts: the values of many in one call
from operator import is_
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as nn_module
from torch.utils.hooks import RemovableHandle

from sam2fast.modeling.compiled import CompiledMethod
from sam2fast.modeling.registry import DEFINED, kinds_of_parts

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS: list[dict[int, Any]] = [getattr(nn_module, f"_global{name}") for name in _HOOKS]


def is_as_built(modules: Sequence[nn.Module]) -> bool:
    """Whether these modules are in evaluation mode and without hooks, and their classes, methods, kinds of parts and
    kinds of tensors are those that they were defined with. Methods may be compiled ones."""
    classes = {base for module in modules for base in type(module).__mro__ if base in DEFINED}
    return not any(_GLOBAL_HOOKS) and all(map(_is_as_defined, classes)) and all(map(_is_as_constructed, modules))


def _is_as_defined(cls: type[nn.Module]) -> bool:
    """Whether the class has the attributes that it was defined with, and no others that hide those of its bases."""
    defined, now = DEFINED[cls], vars(cls)
    changed = {name for name in defined.keys() | now.keys() if defined.get(name) is not now.get(name)}
    changed = {name for name in changed if name == "__call__" or name[:2] != "__"}  # torch's compiler patches __init__
    return not any(name in defined or hasattr(cls.__base__, name) for name in changed)


def _is_as_constructed(module: nn.Module) -> bool:
    """Whether one module is :func:`as built <is_as_built>`, if its class is as defined."""
    attributes, kinds = vars(module), kinds_of_parts(module)
    return (
        type(module) in DEFINED
        and not module.training
        and not any(attributes[name] for name in _HOOKS)
        and attributes.get("_constructed", kinds) == kinds
        and all(_is_own(module, name) for name in _methods(type(module)) & attributes.keys())  # type: ignore[arg-type]
        and all(_is_plain_tensor(type(parameter)) for parameter in module._parameters.values())
    )


@cache
def _methods(cls: type[nn.Module]) -> frozenset[str]:
    """Names of the methods of a class, and of what :meth:`torch.nn.Module.compile` sets."""
    # Asking for annotations adds an empty dict to a class without them, which a Watch would see as a change.
    names = set(dir(cls)) - {"__annotations__"}
    return frozenset({name for name in names if callable(getattr(cls, name))} | {"_compiled_call_impl"})


def _is_own(module: nn.Module, name: str) -> bool:
    """Whether an attribute of the instance, which hides a method, is this method itself, or compiled."""
    value = vars(module)[name]
    is_own = getattr(value, "__self__", None) is module and value.__func__ is getattr(type(module), name)
    return is_own or isinstance(value, CompiledMethod)


def _is_plain_tensor(kind: type) -> bool:
    """Whether it is not a tensor with operations of its own, as of quantised weights; fake ones have a tensor's."""
    return kind in (nn.Parameter, torch.Tensor, type(None)) or kind.__module__.startswith("torch._subclasses.")


class Watch:
    """Notices whether modules that are as built were changed since, in some microseconds for hundreds of modules.

    What counts is which objects there are: modules, parameters, attributes, methods. Values of parameters do not.

    Attributes:
        weights: parameters and buffers of the modules.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._hooks = [getattr(module, name) for module in modules for name in _HOOKS]
        self._handles = -1  # number of hooks ever registered, when there were none here
        # A module refers to its class and, from Python 3.13 on, to its attributes, before that their dict does.
        self._owners = [owner for module in modules for owner in (module, vars(module), module._modules)]
        self._owned = get_referents(*self._owners)
        self._tensors = [tensors for module in modules for tensors in (module._parameters, module._buffers) if tensors]
        self.weights = get_referents(*self._tensors)
        classes = {base for module in modules for base in type(module).__mro__ if base is not object}
        self._classes = get_referents(*map(vars, classes))  # dicts, which vars() hides behind proxies
        self._methods = get_referents(*self._classes)

    def is_unchanged(self) -> bool:
        """Whether the modules are what they were, and have no hooks."""
        weights = get_referents(*self._tensors)
        return (
            self._have_no_hooks()
            and _are_equal(get_referents(*self._owners), self._owned)
            and len(weights) == len(self.weights)
            and all(map(is_, weights, self.weights))
            and get_referents(*self._classes) == self._methods
        )

    def _have_no_hooks(self) -> bool:
        """Looks at the modules only if any hook was registered since the last time, on whatever in the process."""
        handles = RemovableHandle.next_id
        if handles != self._handles:
            if any(self._hooks):
                return False
            self._handles = handles
        return not any(_GLOBAL_HOOKS)


def _are_equal(now: list[Any], then: list[Any]) -> bool:
    """Whether these are the same objects, or equal ones."""
    try:
        return now == then
    except Exception:  # of something that cannot be compared, which was not there before
        return False
