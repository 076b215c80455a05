"""Whole sessions on videos: plans compute all of it, and the masks are those of the modules."""

import copy
import sys
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from mini_model import mini_predictor
from moving_shapes import make_frames
from planned import difference, without_plans
from torch.utils._pytree import tree_leaves, tree_map_only

import sam2fast.modeling
from sam2fast.engine import Engine, engine_for

WITHOUT_A_PLAN = {"PositionEmbeddingSine", "PositionEmbeddingRandom"}
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
        candidates = predictor.propose_masks(state, 3, "a", [[19.2, 19.2]], [1], refine=refine)
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


def test_sessions():
    predictor = mini_predictor()
    with without_plans(), forwards() as called:
        expected = session(predictor)
    assert {"Hiera", "PromptEncoder", "MaskDecoder", "MemoryAttention", "Fuser"} < called
    with forwards() as called:
        found = session(predictor)
    assert called <= WITHOUT_A_PLAN
    assert difference(expected, found) <= 1e-4


STEPS = "encode", "attend", "propose", "track", "use_mask", "encode_memory", "encode_distances"


@contextmanager
def compared(exact):
    """Collects of each call, by its name, the errors of modules and of plans against ``exact`` from the same inputs."""
    seen = defaultdict(list)
    inside = []

    def with_others(name):
        step = getattr(Engine, name)

        def call(self, *args, **kwargs):
            if inside:
                return step(self, *args, **kwargs)
            inside.append(name)
            inputs = tree_map_only(torch.Tensor, torch.clone, (args, kwargs))
            found = step(self, *args, **kwargs)
            with without_plans():
                expected = step(self, *inputs[0], **inputs[1])
            with torch.autocast("cpu", enabled=False):
                args, kwargs = tree_map_only(torch.Tensor, in_float32, inputs)
                right = step(engine_for(exact), *args, **kwargs)
            for x, y, z in zip(*map(tree_leaves, (right, expected, found)), strict=True):
                assert y.dtype == z.dtype
                if z.is_floating_point():
                    seen[name].append((difference([x], [y]), difference([x], [z])))
            inside.clear()
            return found

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            patch.setattr(Engine, name, with_others(name))
        yield seen


def in_float32(x):
    return x.float() if x.is_floating_point() else x


@pytest.mark.parametrize("is_autocast", [False, True], ids=["weights", "autocast"])
def test_sessions_in_bfloat16(is_autocast):
    """Each step of plans is as near to fp32 as that of modules."""
    predictor = mini_predictor()
    exact = copy.deepcopy(predictor)
    if not is_autocast:
        predictor.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast), compared(exact) as seen, forwards() as called:
        session(predictor)
    assert "Hiera" in called and seen.keys() == set(STEPS)
    for errors in seen.values():
        of_modules, of_plans = (max(x) for x in zip(*errors, strict=True))
        assert of_plans <= 2 * of_modules
