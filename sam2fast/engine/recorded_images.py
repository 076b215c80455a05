"""Computes images and prompts by recordings, for frequent numbers of them."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from sam2fast.engine import engine_for
from sam2fast.engine.graphs import why_eager
from sam2fast.engine.recorded import Recorded, pool_of, release_if_moved
from sam2fast.modeling.sam2_base import SAM2Base

# Numbers of images per encoding, and of prompts per decoding with one or two points each (a click, a box), that are
# recorded. Other numbers run eagerly, as padding would change the last bits of the results.
IMAGES, PROMPTS, POINTS = (1, 2, 4, 8), (1, 64, 256), (1, 2)
# Number of recordings of images and prompts per model. Later shapes run eagerly. Each recording stores its results.
MOST_RECORDINGS = 11

Levels = list[Tensor]

_recorded: "WeakKeyDictionary[Any, Recorded]" = WeakKeyDictionary()


def encode(model: Any, fast: bool | None, images: Tensor) -> list[Tensor]:
    """Computes :meth:`~sam2fast.engine.Engine.encode`, by a recording if possible.

    Args:
        model: The network, or an object that replaces it in a predictor.
        fast: Use of CUDA graphs, see :func:`~sam2fast.engine.graphs.why_eager`.
        images: Images ``(B, 3, S, S)``.

    Raises:
        RuntimeError: If ``fast`` is True, and graphs cannot be recorded on this GPU.
    """
    engine, found = engine_for(model), None
    if _may_record(model, fast) and len(images) in IMAGES:
        what, state = f"encodings of {len(images)} images", engine.state_of_image(images)
        found = _call(model, "image", state, (), what, lambda inputs: engine.encode(inputs[0]), [images])
    return engine.encode(images) if found is None else found


def decode(
    model: Any,
    fast: bool | None,
    embedding: Tensor,
    high_res: Sequence[Tensor],
    points: tuple[Tensor, Tensor] | None,
    prompts: Tensor | None,
    multimask: bool,
) -> tuple[Tensor, Tensor]:
    """Computes masks and IoUs of :meth:`~sam2fast.engine.Engine.decode`. See :func:`encode`."""
    engine, given = engine_for(model), (embedding, high_res, points, prompts, multimask)
    found: list[Tensor] | None = None
    may_record = _may_record(model, fast)
    if may_record and points is not None and len(points[0]) in PROMPTS and points[0].shape[1] in POINTS:
        levels = len(high_res)

        def function(inputs: list[Tensor]) -> list[Tensor]:
            coords, labels, own, *others = inputs
            masks = others[levels] if len(others) > levels else None
            return list(engine.decode(own, others[:levels], (coords, labels), masks, multimask)[:2])

        tensors = [*points, embedding, *high_res, *([] if prompts is None else [prompts])]
        what, state = f"decodings of {len(points[0])} prompts", engine.state_of_masks(embedding)
        found = _call(model, "masks", state, (multimask, levels), what, function, tensors)
    masks, ious = engine.decode(*given)[:2] if found is None else found
    return masks, ious


def _may_record(model: Any, fast: bool | None) -> bool:
    if not isinstance(model, SAM2Base):
        return False
    release_if_moved(model)
    return why_eager(model.device, fast) is None


def _call(
    model: SAM2Base,
    part: str,
    state: Hashable | None,
    kind: Hashable,
    what: str,
    function: Callable[[Levels], Levels],
    given: Levels,
) -> list[Tensor] | None:
    """Returns copies of the results of a function by its recording, or None if it is not recorded.

    Args:
        part, state: Name and state of the part of the model that it computes. Nothing is recorded if the state is None.
        kind, what, function, given: See :meth:`Recorded.call`.
    """
    if state is None or any(x.device != model.device for x in given):
        return None
    pool = pool_of(model)
    with pool.turn():
        pool.keep_for(part, state)
        recorded = _recorded.get(model)
        if recorded is None or recorded.pool is not pool:
            recorded = _recorded[model] = Recorded(pool, MOST_RECORDINGS)
        return recorded.call((part, kind), what, function, given, lambda found: [x.clone() for x in found])
