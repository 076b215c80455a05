"""Whole sessions on videos: plans compute all of it, and the masks are those of the modules."""

import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import tame_weights
import torch
from mini_model import mini_predictor
from moving_shapes import make_frames
from planned import difference, without_plans

import sam2fast.modeling
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.tracking.click_candidates import predict_candidates

MODELING = str(Path(sam2fast.modeling.__file__).parent)


def session(predictor):
    """Masks of points, a box, given masks and a correction, tracked both ways; candidates for clicks."""
    state, found = predictor.init_state(make_frames(5)), []
    given = torch.zeros(predictor.image_size, predictor.image_size, dtype=torch.bool)
    given[20:60, 30:70] = True

    def keep(answer):
        found.append(answer[2].clone())

    keep(predictor.add_new_points_or_box(state, 1, "a", [[30, 40]], [1]))
    keep(predictor.add_new_points_or_box(state, 1, "b", box=[10, 10, 50, 60]))
    keep(predictor.add_new_mask(state, 2, "c", given))
    for _ in range(2):
        for answer in predictor.propagate_in_video(state, 1, progress=False):
            keep(answer)
        keep(predictor.add_new_points_or_box(state, 3, "b", [[20, 20], [60, 60]], [1, 0]))
    for answer in predictor.propagate_in_video(state, 3, reverse=True, progress=False):
        keep(answer)
    for refine in (False, True):
        candidates = predict_candidates(predictor._tracker, state, 3, "a", [[0.3, 0.4]], [1], refine)
        found += [candidates.logits, torch.tensor(candidates.ious)]
    return found


@contextmanager
def forwards():
    """Context manager that collects the classes whose ``forward`` is called."""
    seen = set()

    def profile(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(MODELING) and code.co_name == "forward":
            seen.add(type(frame.f_locals["self"]).__name__)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield seen
    finally:
        sys.setprofile(before)


CASES = {
    "fp32": (torch.float32, nullcontext, 1e-4),
    "bfloat16": (torch.bfloat16, nullcontext, 1e-4),
    "autocast": (torch.float32, lambda: torch.autocast("cpu", torch.bfloat16), 1e-2),
}


@pytest.mark.parametrize(("dtype", "context", "tolerance"), CASES.values(), ids=CASES)
def test_sessions(dtype, context, tolerance):
    """Results are no further from those of the modules in fp32 than those of the modules."""
    predictor = mini_predictor()
    with without_plans():
        exact = session(predictor)
    predictor.to(dtype)
    with context():
        with without_plans(), forwards() as called:
            expected = session(predictor)
        assert {"Hiera", "PromptEncoder", "MaskDecoder", "MemoryAttention", "Fuser"} < called
        with forwards() as called:
            found = session(predictor)
    assert called <= {"PositionEmbeddingSine", "PositionEmbeddingRandom"}  # which have no plan
    for x, y, z in zip(exact, expected, found, strict=True):
        assert difference([x], [z]) <= 1.5 * difference([x], [y]) + tolerance


@pytest.mark.parametrize(("name", "size"), [("edgetam", 256), ("efficienttam_ti", 128)])
def test_sessions_of_relatives(name, size):
    """Whose image encoders, and EdgeTAM's memories, are others."""
    changes = [f"++model.image_size={size}"]
    predictor = build_sam2_video_predictor(name, device="cpu", hydra_overrides_extra=changes)
    tame_weights.fill(predictor, 0)
    with without_plans():
        expected = session(predictor)
    with forwards() as called:
        found = session(predictor)
    assert called <= {"PositionEmbeddingSine", "PositionEmbeddingRandom"}  # which have no plan
    assert difference(expected, found) <= 1e-4
