"""Finds the modules of the four parts of a model, detects modifications, and makes plans of unmodified parts."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from gc import get_referents  # returns the values of many dicts in one call
from operator import is_
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as nn_module
from torch.utils.hooks import RemovableHandle

from sam2fast.engine.plans import PlanOfPart
from sam2fast.modeling import ORIGINAL, child_types
from sam2fast.modeling.compiled import CompiledMethod
from sam2fast.modeling.sam2_base import METHODS, SAM2Base

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS: list[dict[int, Any]] = [getattr(nn_module, f"_global{name}") for name in _HOOKS]


def is_unmodified(*parts: nn.Module) -> bool:
    """Returns True if the modules and all their submodules are unmodified.

    Unmodified modules are in evaluation mode, have no hooks, and have their original classes, methods, types of child
    modules and types of tensors. Methods may be compiled.
    """
    modules = [module for part in parts for module in part.modules()]
    classes = {base for module in modules for base in type(module).__mro__ if base in ORIGINAL}
    return not any(_GLOBAL_HOOKS) and all(map(_is_as_defined, classes)) and all(map(_is_as_constructed, modules))


def _is_as_defined(cls: type[nn.Module]) -> bool:
    """Returns True if original attributes of a class are unchanged, and no new attribute overrides a base class."""
    defined, now = ORIGINAL[cls], vars(cls)
    changed = {name for name in defined.keys() | now.keys() if defined.get(name) is not now.get(name)}
    changed = {name for name in changed if name == "__call__" or name[:2] != "__"}  # torch's compiler patches __init__
    return not any(name in defined or hasattr(cls.__base__, name) for name in changed)


def _is_as_constructed(module: nn.Module) -> bool:
    """Returns True if an instance is unmodified, see :func:`is_unmodified`. Assumes that its class is unmodified."""
    attributes, types = vars(module), child_types(module)
    return (
        type(module) in ORIGINAL
        and not module.training
        and not any(attributes[name] for name in _HOOKS)
        and attributes.get("_constructed", types) == types
        and all(_is_original(module, name) for name in _methods(type(module)) & attributes.keys())  # type: ignore[arg-type]
        and all(_is_plain_tensor(type(parameter)) for parameter in module._parameters.values())
    )


@cache
def _methods(cls: type[nn.Module]) -> frozenset[str]:
    """Returns the names of a class's methods, and the attribute that :meth:`torch.nn.Module.compile` sets."""
    # Reading __annotations__ may add an empty dict to a class. A Watch would report the dict as a change.
    names = set(dir(cls)) - {"__annotations__"}
    return frozenset({name for name in names if callable(getattr(cls, name))} | {"_compiled_call_impl"})


def _is_original(module: nn.Module, name: str) -> bool:
    """Returns True if the instance attribute shadowing a method is that method or its compiled version."""
    value = vars(module)[name]
    is_bound = getattr(value, "__self__", None) is module and value.__func__ is getattr(type(module), name)
    return is_bound or isinstance(value, CompiledMethod)


def _is_plain_tensor(tensor_type: type) -> bool:
    """Returns True for tensor types with standard operations, including fake tensors, but not quantised weights."""
    return tensor_type in (nn.Parameter, Tensor, type(None)) or tensor_type.__module__.startswith("torch._subclasses.")


class Watch:
    """Detects changes of unmodified modules. A check takes some microseconds for hundreds of modules.

    Detects replaced modules, parameters, attributes and methods. Does not detect new values in a parameter.

    Attributes:
        weights: Parameters and buffers of the modules.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._hooks = [getattr(module, name) for module in modules for name in _HOOKS]
        self._handles = -1  # number of hooks registered in the process, when the modules were last without hooks
        # Modules reference their class. Dicts of modules, and modules since Python 3.13, reference module attributes.
        self._owners = [owner for module in modules for owner in (module, vars(module), module._modules)]
        self._owned = get_referents(*self._owners)
        self._tensors = [tensors for module in modules for tensors in (module._parameters, module._buffers) if tensors]
        self.weights = get_referents(*self._tensors)
        classes = {base for module in modules for base in type(module).__mro__ if base is not object}
        self._classes = get_referents(*map(vars, classes))  # dicts of the classes; vars() returns proxies of the dicts
        self._methods = get_referents(*self._classes)

    def is_unchanged(self) -> bool:
        """Returns True if the modules are unchanged and have no hooks."""
        handles = RemovableHandle.next_id
        if any(_GLOBAL_HOOKS) or handles != self._handles and any(self._hooks):
            return False
        self._handles = handles  # hooks are only checked again after a new hook was registered
        weights = get_referents(*self._tensors)
        try:
            has_same_owned = get_referents(*self._owners) == self._owned
        except Exception:  # an attribute value that does not support comparison
            return False
        return (
            has_same_owned
            and len(weights) == len(self.weights)
            and all(map(is_, weights, self.weights))
            and get_referents(*self._classes) == self._methods
        )


@dataclass(frozen=True)
class UnmodifiedPart:
    """Modules, watch and plan of an unmodified part."""

    roots: tuple[nn.Module, ...]
    watch: Watch
    plan: Any  # None if plans do not support the part's layers


@dataclass(eq=False)
class PlannedPart:
    """Makes the plan of a part at first use. Makes a new plan after a change of the modules."""

    roots: Callable[[SAM2Base], tuple[nn.Module, ...]]  # the part consists of these modules and their submodules
    make: Callable[[SAM2Base], PlanOfPart | None]  # returns None if plans do not support the layers
    by_plan: type  # class that computes the part from its plan
    by_modules: type  # class that calls the modules; has the methods of by_plan
    methods: Sequence[str] = ()  # methods of the model that call the modules; a replaced method disables the plan
    unmodified: UnmodifiedPart | None = None  # result of the last look(); None if the modules were modified

    def look(self, model: Any) -> UnmodifiedPart | None:
        """Checks the modules for changes. Returns None if a module is modified."""
        if not isinstance(model, SAM2Base):
            return None
        roots, part = self.roots(model), self.unmodified
        if part is None or part.roots != roots or not part.watch.is_unchanged():
            # The watch is created before the check, so that changes during the check are detected.
            watch = Watch([module for root in roots for module in root.modules()])
            is_plain = watch.is_unchanged() and is_unmodified(*roots)
            part = self.unmodified = UnmodifiedPart(roots, watch, self._make_plan(model, roots)) if is_plain else None
        return part

    def state(self) -> Hashable:
        """Returns the last plan, and the current addresses and dtypes of the plan's weights."""
        plan, weights = (None, ()) if (part := self.unmodified) is None else (part.plan, part.watch.weights)
        return plan, tuple((x.data_ptr(), x.dtype) for x in weights if x is not None)

    def _make_plan(self, model: SAM2Base, roots: tuple[nn.Module, ...]) -> PlanOfPart | None:
        plan = self.make(model)
        if plan is not None:
            forwards = (vars(root).get("forward") for root in roots)
            plan.compiled = next((x for x in forwards if isinstance(x, CompiledMethod)), None)
        return plan


def replaced_methods(model: Any) -> set[str]:
    """Returns the names in :data:`METHODS` that a subclass, or a patch of the class or the instance, replaced."""
    cls, attributes = type(model), vars(model)
    return {name for name, method in METHODS.items() if name in attributes or getattr(cls, name, None) is not method}


def image_roots(model: SAM2Base) -> tuple[nn.Module, ...]:
    return (model.image_encoder, *model._level_heads().values())


def mask_roots(model: SAM2Base) -> tuple[nn.Module, ...]:
    downsample = [model.mask_downsample] if model.use_obj_ptrs_in_encoder else []
    return model.sam_prompt_encoder, model.sam_mask_decoder, model.obj_ptr_proj, *downsample


def attention_roots(model: SAM2Base) -> tuple[nn.Module, ...]:
    return (model.memory_attention,)


def memory_roots(model: SAM2Base) -> tuple[nn.Module, ...]:
    perceiver = [] if model.spatial_perceiver is None else [model.spatial_perceiver]
    return model.memory_encoder, model.obj_ptr_tpos_proj, *perceiver
