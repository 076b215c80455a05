"""Finds the modules of each of a model's four parts, detects modified ones, and makes plans of unmodified parts."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from gc import get_referents  # of dicts: the values of many in one call
from operator import attrgetter, is_
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as nn_module
from torch.utils.hooks import RemovableHandle

from sam2fast.engine.plan import PlanOfPart
from sam2fast.modeling import ORIGINAL, child_types
from sam2fast.modeling.compiled import CompiledMethod
from sam2fast.modeling.sam2_base import METHODS, SAM2Base

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS: list[dict[int, Any]] = [getattr(nn_module, f"_global{name}") for name in _HOOKS]


def is_unmodified(*parts: nn.Module) -> bool:
    """Returns True if the modules and all below them are unmodified.

    They are in evaluation mode, without hooks, and have their original classes, methods, types of child modules and
    types of tensors. Methods may be compiled.
    """
    modules = [module for part in parts for module in part.modules()]
    classes = {base for module in modules for base in type(module).__mro__ if base in ORIGINAL}
    return not any(_GLOBAL_HOOKS) and all(map(_is_as_defined, classes)) and all(map(_is_as_constructed, modules))


def _is_as_defined(cls: type[nn.Module]) -> bool:
    """Returns True if the class has its original attributes, and no others that hide attributes of its bases."""
    defined, now = ORIGINAL[cls], vars(cls)
    changed = {name for name in defined.keys() | now.keys() if defined.get(name) is not now.get(name)}
    changed = {name for name in changed if name == "__call__" or name[:2] != "__"}  # torch's compiler patches __init__
    return not any(name in defined or hasattr(cls.__base__, name) for name in changed)


def _is_as_constructed(module: nn.Module) -> bool:
    """Returns True if a module with an unmodified class is unmodified; see :func:`is_unmodified`."""
    attributes, kinds = vars(module), child_types(module)
    return (
        type(module) in ORIGINAL
        and not module.training
        and not any(attributes[name] for name in _HOOKS)
        and attributes.get("_constructed", kinds) == kinds
        and all(_is_own(module, name) for name in _methods(type(module)) & attributes.keys())  # type: ignore[arg-type]
        and all(_is_plain_tensor(type(parameter)) for parameter in module._parameters.values())
    )


@cache
def _methods(cls: type[nn.Module]) -> frozenset[str]:
    """Returns the names of a class's methods, and of the attribute that :meth:`torch.nn.Module.compile` sets."""
    # Asking for annotations adds an empty dict to a class without them, which a Watch would see as a change.
    names = set(dir(cls)) - {"__annotations__"}
    return frozenset({name for name in names if callable(getattr(cls, name))} | {"_compiled_call_impl"})


def _is_own(module: nn.Module, name: str) -> bool:
    """Returns True if the instance attribute shadowing a method is that method or its compiled version."""
    value = vars(module)[name]
    is_own = getattr(value, "__self__", None) is module and value.__func__ is getattr(type(module), name)
    return is_own or isinstance(value, CompiledMethod)


def _is_plain_tensor(kind: type) -> bool:
    """Returns True for types with a tensor's operations, also fake tensors, and False for quantised weights."""
    return kind in (nn.Parameter, Tensor, type(None)) or kind.__module__.startswith("torch._subclasses.")


class Watch:
    """Detects changes of unmodified modules, in some microseconds for hundreds of modules.

    Detects replaced modules, parameters, attributes and methods, but no new values in a parameter.

    Attributes:
        weights: Parameters and buffers of the modules.
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
        """Returns True if the modules are the same as before, and have no hooks."""
        handles = RemovableHandle.next_id
        if any(_GLOBAL_HOOKS) or handles != self._handles and any(self._hooks):
            return False
        self._handles = handles  # the modules are asked for hooks again after another hook was registered
        weights = get_referents(*self._tensors)
        try:
            has_same_owned = get_referents(*self._owners) == self._owned
        except Exception:  # of something that cannot be compared, which was not there before
            return False
        return (
            has_same_owned
            and len(weights) == len(self.weights)
            and all(map(is_, weights, self.weights))
            and get_referents(*self._classes) == self._methods
        )


@dataclass(frozen=True)
class Found:
    """Stores an unmodified part and its plan."""

    roots: tuple[nn.Module, ...]
    watch: Watch
    plan: Any  # None if plans cannot hold its layers


@dataclass(eq=False)
class PlannedPart:
    """Makes the plan of a part when it is first needed, and again after a change."""

    roots: Callable[[SAM2Base], tuple[nn.Module, ...]]  # the part consists of these modules, and all below them
    make: Callable[[SAM2Base], PlanOfPart | None]  # returns None if plans cannot hold the layers
    by_plan: type  # class of the object that computes the part from its plan
    by_modules: type  # class of the object that calls the modules, with the same methods
    methods: Sequence[str] = ()  # of the model, that call the modules: if a user replaced one, there is no plan
    found: Found | None = None  # by the last look; None if the modules were modified

    def look(self, model: Any) -> Found | None:
        """Returns the part as it is now, or None if it was modified."""
        if not isinstance(model, SAM2Base):
            return None
        roots, found = self.roots(model), self.found
        if found is None or found.roots != roots or not found.watch.is_unchanged():
            # The watch is first, so that it notices changes during the next check.
            watch = Watch([module for root in roots for module in root.modules()])
            is_plain = watch.is_unchanged() and is_unmodified(*roots)
            found = self.found = Found(roots, watch, self._make_plan(model, roots)) if is_plain else None
        return found

    def state(self) -> Hashable:
        """Returns the last plan, and the addresses and dtypes of its weights now."""
        plan, weights = (None, ()) if (found := self.found) is None else (found.plan, found.watch.weights)
        return plan, tuple((x.data_ptr(), x.dtype) for x in weights if x is not None)

    def _make_plan(self, model: SAM2Base, roots: tuple[nn.Module, ...]) -> PlanOfPart | None:
        plan = self.make(model)
        if plan is not None:
            forwards = (vars(root).get("forward") for root in roots)
            plan.compiled = next((x for x in forwards if isinstance(x, CompiledMethod)), None)
        return plan


def replaced_methods(model: Any) -> set[str]:
    """Returns the :data:`METHODS` that a subclass, or a patch of the class or the instance, replaces."""
    cls, own = type(model), vars(model)
    return {name for name, method in METHODS.items() if name in own or getattr(cls, name, None) is not method}


def image_roots(model: SAM2Base) -> tuple[nn.Module, ...]:
    return (model.image_encoder, *model._level_heads().values())


mask_roots = attrgetter("sam_prompt_encoder", "sam_mask_decoder")


def attention_roots(model: SAM2Base) -> tuple[nn.Module, ...]:
    return (model.memory_attention,)


def memory_roots(model: SAM2Base) -> tuple[nn.Module, ...]:
    given = [model.mask_downsample] if model.use_obj_ptrs_in_encoder else []
    perceiver = [] if model.spatial_perceiver is None else [model.spatial_perceiver]
    return model.memory_encoder, model.obj_ptr_proj, model.obj_ptr_tpos_proj, *given, *perceiver
