"""The four parts of a model: which modules each consists of, and its plan as long as nobody changed them."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import nn

from sam2fast.engine.eligible import Watch, is_as_built
from sam2fast.engine.plan import PlanOfPart
from sam2fast.modeling.compiled import CompiledMethod
from sam2fast.modeling.sam2_base import SAM2Base

Plan = TypeVar("Plan", bound=PlanOfPart)


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
