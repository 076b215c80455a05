"""Detects predictor methods that a user replaced, and calls these methods directly or through the official flow."""

from collections.abc import Callable, Collection, Iterator
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar

from sam2fast.compat.official_flow import OfficialFlow
from sam2fast.compat.video_state import VideoState, official_session
from sam2fast.modeling.image_encoder import ImageEncoder, Neck
from sam2fast.modeling.memory_encoder import MemoryEncoder
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.outputs import Output
from sam2fast.tracking.propagation import Progress, propagate
from sam2fast.tracking.tracker import Tracker

Predictor = TypeVar("Predictor", bound=SAM2Base)

# Methods that only the official flow calls.
OF_THE_FLOW = (
    "track_step",
    "forward_image",
    "_track_step",
    "_prepare_memory_conditioned_features",
    "_encode_memory_in_output",
    "_encode_new_memory",
    "_forward_sam_heads",
    "_prepare_backbone_features",
    "_get_image_feature",
    "_get_maskmem_pos_enc",
    "_run_single_frame_inference",
    "_run_memory_encoder",
    "_consolidate_temp_output_across_obj",
    "_clear_obj_non_cond_mem_around_input",
    "_obj_id_to_idx",
    "_obj_idx_to_id",
    "_get_obj_num",
    "_reset_tracking_results",
)

# Methods that streams and the tracker call if the methods are overridden.
CALLED_ELSEWHERE = (
    "add_new_points_or_box",
    "add_new_mask",
    "clear_all_prompts_in_frame",
    "remove_object",
    "propagate_in_video_preflight",
    "check_recordings",
    "_get_orig_video_res_output",
    "_apply_non_overlapping_constraints",
)

_of_the_flow = attrgetter(*OF_THE_FLOW)

# Maps a method to a method that it calls in the official package. In sam2fast, one kernel replaces caller and callee.
CALLED_BY = {"_get_orig_video_res_output": "_apply_non_overlapping_constraints"}

_originals: dict[str, Any] = {}  # sam2fast's methods by name, before any patch
_original_flow: list[Any] = []  # sam2fast's methods named in OF_THE_FLOW


def keep_originals(cls: type[Predictor]) -> type[Predictor]:
    """Class decorator that stores the predictor's methods before a user can patch them."""
    _originals.update({name: getattr(cls, name) for name in (*CALLED_ELSEWHERE, *OF_THE_FLOW)})
    _original_flow.extend(_of_the_flow(cls))
    return cls


def with_overrides(predictor: SAM2Base, tracker: Tracker) -> Tracker:
    """Makes the tracker call overridden methods of the predictor instead of its functions, and returns it."""
    tracker.override, tracker.check_stream = partial(override, predictor), partial(check_stream, predictor)
    tracker.session = partial(VideoState, as_dict=official_session(predictor))
    return tracker


def override(predictor: SAM2Base, name: str) -> Callable[..., Any] | None:
    """Returns a method if a subclass overrides it, or if a user patched it on the class or instance, else None."""
    names, cls = {name, CALLED_BY.get(name, name)}, type(predictor)
    replaced = any(n in vars(predictor) or getattr(cls, n) is not _originals[n] for n in names)
    return getattr(predictor, name) if replaced else None


def overridden(predictor: SAM2Base) -> str | None:
    """Returns the name of a custom encoder or of the first overridden method of the official flow, else None."""
    if not isinstance(_uncompiled(predictor.memory_encoder), MemoryEncoder):
        return "memory_encoder"
    encoder = _uncompiled(predictor.image_encoder)
    if not (isinstance(encoder, ImageEncoder) and isinstance(encoder.neck, Neck)):
        return "image_encoder"  # the tracker does not read a custom encoder's position encodings
    attributes, cls = vars(predictor), type(predictor)
    if [*_of_the_flow(cls)] == _original_flow and attributes.keys().isdisjoint(OF_THE_FLOW):  # fast; runs per frame
        return None
    return next((n for n in OF_THE_FLOW if n in attributes or getattr(cls, n) is not _originals[n]), None)


def _uncompiled(module: Any) -> Any:
    """Returns the module that a user wrapped by ``torch.compile``."""
    return getattr(module, "_orig_mod", module)


def flow_of(predictor: SAM2Base, state: VideoState, unsupported: str | None = None) -> OfficialFlow | None:
    """Returns the official flow if the session is the official dict, else None.

    If a private method is overridden, converts the session to the official dict first.

    Args:
        unsupported: Name of a requested option or method that the official flow lacks.

    Raises:
        RuntimeError: If the session is or would become the official dict, and ``unsupported`` is not None. The session
            is unchanged.
    """
    if state.official is None:
        name = overridden(predictor)
        if name is None:
            return None
    if unsupported is not None:
        raise RuntimeError(
            f"{unsupported} is not supported: this session is the official dict, since one of its keys was used or a "
            "private method is overridden"
        )
    if state.official is None:
        state.to_official(f"{type(predictor).__name__}.{name} is overridden")
    return OfficialFlow(predictor, state)


def check_stream(predictor: SAM2Base) -> None:
    """Raises ``TypeError`` if a method of the official flow, which streams never call, is overridden."""
    name = overridden(predictor)
    if name is not None:
        raise TypeError(
            f"{type(predictor).__name__}.{name} is overridden, but streams do not call it: track the frames so far "
            "with init_state() and propagate_in_video(), or open the stream with a Strategy (docs/strategies.md)"
        )


def answers_of(
    predictor: Any,
    state: VideoState,
    order: range,
    reverse: bool,
    return_scores: bool,
    progress: Progress,
    encode_ahead: int,
    output: Output,
    obj_ids: Collection[Any] | None = None,
) -> Iterator[tuple[Any, ...]]:
    """Yields the results of one pass. If the session is the official dict, the official flow computes results."""
    unsupported = "return_scores=True" if return_scores else None if obj_ids is None else "obj_ids"
    flow = flow_of(predictor, state, unsupported)
    if flow is None:
        arguments = order, reverse, return_scores, progress, encode_ahead, output, obj_ids
        for answer in propagate(predictor._tracker, state, *arguments):
            yield answer
            flow = flow_of(predictor, state, unsupported)
            if flow is not None:
                order = order[order.index(answer[0]) + 1 :]
                break
    if flow is not None:
        yield from flow.propagate(order, reverse, progress, output)
