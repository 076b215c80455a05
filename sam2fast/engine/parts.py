"""The four parts of a model: which modules each consists of, whether these are as built, and their plan if they are."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from gc import get_referents  # of dicts: the values of many in one call
from operator import is_
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.nn.modules import module as nn_module
from torch.utils.hooks import RemovableHandle

from sam2fast.engine.plan import PlanOfPart
from sam2fast.modeling import ORIGINAL, child_types
from sam2fast.modeling.compiled import CompiledMethod
from sam2fast.modeling.sam2_base import SAM2Base

Plan = TypeVar("Plan", bound=PlanOfPart)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS: list[dict[int, Any]] = [getattr(nn_module, f"_global{name}") for name in _HOOKS]


# ---- checks of unmodified modules ----


def is_as_built(modules: Sequence[nn.Module]) -> bool:
    """Returns True if the modules are unmodified: in evaluation mode, without hooks, and with their original classes,
    methods, types of parts and types of tensors. Methods may be compiled."""
    classes = {base for module in modules for base in type(module).__mro__ if base in ORIGINAL}
    return not any(_GLOBAL_HOOKS) and all(map(_is_as_defined, classes)) and all(map(_is_as_constructed, modules))


def _is_as_defined(cls: type[nn.Module]) -> bool:
    """Returns True if the class has its original attributes, and no others that hide attributes of its bases."""
    defined, now = ORIGINAL[cls], vars(cls)
    changed = {name for name in defined.keys() | now.keys() if defined.get(name) is not now.get(name)}
    changed = {name for name in changed if name == "__call__" or name[:2] != "__"}  # torch's compiler patches __init__
    return not any(name in defined or hasattr(cls.__base__, name) for name in changed)


def _is_as_constructed(module: nn.Module) -> bool:
    """Returns True if a module with an unmodified class is unmodified; see :func:`is_as_built`."""
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
    """Names of the methods of a class, and of what :meth:`torch.nn.Module.compile` sets."""
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
        """Returns True if the modules are the same as before, and have no hooks."""
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
    """Returns True if the objects are identical or equal."""
    try:
        return now == then
    except Exception:  # of something that cannot be compared, which was not there before
        return False


# ---- the parts, and their plans ----


@dataclass(frozen=True)
class Found(Generic[Plan]):
    """A part that is as built, and its plan if it is of a kind that has one."""

    roots: tuple[nn.Module, ...]
    modules: list[nn.Module]  # the roots, and all below them
    watch: Watch
    plan: Plan | None


class PlannedPart(Generic[Plan]):
    """The plan of a part, which is made when it is first asked for, and again after a change.

    Args:
        roots: the modules that the part consists of, with all below them.
        make: its plan, if there is one.
        methods: of the model, which call the modules; there is no plan where one is replaced.
    """

    def __init__(
        self,
        roots: Callable[[SAM2Base], tuple[nn.Module, ...]],
        make: Callable[[SAM2Base], Plan | None],
        methods: Sequence[str] = (),
    ) -> None:
        self._roots, self._make, self._methods = roots, make, methods
        self._found: Found[Plan] | None = None  # one attribute, so that other threads see what belongs together

    def plan(self, model: Any, trusts_last: bool = False) -> Plan | None:
        """The plan of the part as it is now, or was at the last look; None where its modules have to be called."""
        found = self._found if trusts_last else self.found(model)
        return None if found is None or model._replaces(*self._methods) else found.plan

    def found(self, model: Any) -> Found[Plan] | None:
        """The part as it is now; None where it was changed."""
        if not isinstance(model, SAM2Base):
            return None
        roots, found = self._roots(model), self._found
        if found is None or found.roots != roots or not found.watch.is_unchanged():
            found = self._found = self._look(model, roots)
        return found

    @property
    def watch(self) -> Watch | None:
        """The watch of the last look; None if the part was changed."""
        return None if self._found is None else self._found.watch

    def state(self) -> Hashable:
        """The last plan, and where the weights of its part are now."""
        found = self._found
        weights = () if found is None else found.watch.weights
        return found and found.plan, tuple((x.data_ptr(), x.dtype) for x in weights if x is not None)

    def _look(self, model: SAM2Base, roots: tuple[nn.Module, ...]) -> Found[Plan] | None:
        below = [module for root in roots for module in root.modules()]
        watch = Watch(below)  # first, so that it notices changes during the next check
        if not (watch.is_unchanged() and is_as_built(below)):
            return None
        plan = self._make(model)
        if plan is not None:
            plan.compiled = next((x for x in map(_compiled_forward, roots) if x), None)
        return Found(roots, below, watch, plan)


def _compiled_forward(module: nn.Module) -> CompiledMethod | None:
    forward = vars(module).get("forward")
    return forward if isinstance(forward, CompiledMethod) else None


def image_roots(model: SAM2Base) -> tuple[nn.Module, ...]:
    return (model.image_encoder, *model._level_heads().values())


def mask_roots(model: SAM2Base) -> tuple[nn.Module, ...]:
    return model.sam_prompt_encoder, model.sam_mask_decoder


def attention_roots(model: SAM2Base) -> tuple[nn.Module, ...]:
    return (model.memory_attention,)


def memory_roots(model: SAM2Base) -> tuple[nn.Module, ...]:
    given = [model.mask_downsample] if model.use_obj_ptrs_in_encoder else []
    perceiver = [] if model.spatial_perceiver is None else [model.spatial_perceiver]
    return model.memory_encoder, model.obj_ptr_proj, model.obj_ptr_tpos_proj, *given, *perceiver
