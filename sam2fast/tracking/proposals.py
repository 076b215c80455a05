"""Predicts candidate masks for clicks, without a change of the session."""

from typing import Any, NamedTuple

from torch import Tensor

from sam2fast.engine import engine_for
from sam2fast.tracking.prompting import click_prompt
from sam2fast.tracking.session import TrackedObject, VideoSession
from sam2fast.tracking.step import fill_holes, without_memory
from sam2fast.tracking.tracker import Tracker


class ClickCandidates(NamedTuple):
    """Stores candidate masks for the same clicks, in descending order of predicted IoU."""

    logits: Tensor  # (M, 1, h, w) fp32 at low resolution, after hole filling
    ious: list[float]  # predicted IoU of each mask
    score: float  # object score logit


def predict_candidates(
    tracker: Tracker,
    state: VideoSession,
    frame: int,
    obj_id: Any,
    points: Any,
    labels: Any,
    refine: bool,
    normalize_coords: bool,
) -> ClickCandidates:
    """Returns candidate masks for clicks. See ``SAM2VideoPredictor.propose_masks``."""
    model, size = tracker.model, state.video_size if normalize_coords else (1, 1)
    clicks = click_prompt(points, labels, None, True, size, model.image_size, model.device)
    tracked = state.objects.get(obj_id) or TrackedObject()
    if not refine and frame in tracked.points.keys() | tracked.masks.keys():
        tracked = tracked.copy()
        tracked.remove_prompts(frame)
    previous = tracked.result_on(frame, tracker.makes_conditioning(tracked, frame))
    (features,) = tracker.encode(state, [frame])
    with tracker.steps.one_step(state.features):
        state.bank.begin_step()
        memory, engine = tracker.gather(state, tracked, frame), engine_for(model)
        if memory is None:
            conditioned = without_memory(model, features)
        else:
            conditioned = engine.attend(features.embedding, memory, state.bank.fp8)
        masks, ious, _, scores = engine.propose(
            conditioned,
            features.high_res,
            clicks,
            None if previous is None else tracker.as_mask_input(previous.mask),
            model._use_multimask(tracked.is_initial(frame), clicks),
            state.strategy.presence,
        )
    order = ious[0].argsort(descending=True)
    logits = fill_holes(masks[0, order, None], tracker.fill_hole_area(state))
    return ClickCandidates(logits, ious[0, order].tolist(), float(scores[0]))
