"""All masks that the model proposes for clicks, without applying them."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sam2fast.engine import engine_for
from sam2fast.tracking.eager_runner import fill_holes, without_memory
from sam2fast.tracking.prompting import is_conditioning
from sam2fast.tracking.prompts import click_prompt
from sam2fast.tracking.session import TrackedObject, VideoSession
from sam2fast.tracking.tracker import Tracker


class ClickCandidates(NamedTuple):
    """Masks for the same clicks, the one with the highest predicted IoU first."""

    logits: Tensor  # (M, 1, h, w) fp32 at the model's resolution, holes filled
    ious: list[float]  # predicted
    score: float  # logit of the object's presence


@torch.inference_mode()
def predict_candidates(
    tracker: Tracker, state: VideoSession, frame: int, obj_id: Any, points: Any, labels: Any, refine: bool
) -> ClickCandidates:
    """The masks that :func:`~sam2fast.tracking.prompting.add_points_or_box` selects from; the session is unchanged.

    They are three for one click and one for more, as the model's configuration says.

    Args:
        obj_id: the object, which may be new.
        points, labels: all clicks of the object on the frame, a box's corners first, as shares of the frame.
        refine: the clicks refine the object's mask on the frame. Otherwise they replace its prompts there.

    Raises:
        ValueError: the points are invalid.
        VideoError: the frame cannot be read.
    """
    model = tracker.model
    clicks = click_prompt(points, labels, None, True, (1, 1), model.image_size, model.device)
    tracked = state.objects.get(obj_id) or TrackedObject()
    if not refine and frame in tracked.points.keys() | tracked.masks.keys():
        tracked = tracked.copy()
        tracked.remove_prompts(frame)
    previous = tracked.result_on(frame, is_conditioning(tracker, tracked, frame))
    (features,) = tracker.encode(state, [frame])
    with tracker.step(state):
        state.bank.begin_step()
        initial = tracked.is_initial(frame)
        memory = None if initial else tracker.gather(state, tracked, frame, tracked.reverse[frame])
        engine = engine_for(model)
        if memory is None:
            conditioned = without_memory(model, features)
        else:
            conditioned = engine.attend(features.embedding, memory, state.bank.fp8)
        masks, ious, _, scores = engine.propose(
            conditioned[:1],
            features.high_res,
            clicks,
            None if previous is None else tracker.as_mask_input(previous.mask),
            model._use_multimask(initial, clicks),
        )
    order = ious[0].argsort(descending=True)
    logits = fill_holes(masks[0, order, None], tracker.fill_hole_area(state))
    return ClickCandidates(logits, ious[0, order].tolist(), float(scores[0]))
