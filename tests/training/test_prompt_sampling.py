"""Plans against the official ones, and sampled prompts; test_official_sampling.py compares those, too."""

from types import SimpleNamespace

import numpy as np
import official_data
import pytest
import torch
from random_blobs import random_blobs

from sam2fast.training.prompt_sampling import (
    ObjectGenerators,
    PromptPlan,
    PromptSettings,
    plan_prompts,
    sample_box,
    sample_error_point,
)


class TestPlans:
    @staticmethod
    def official(num_frames, settings, rng):
        names = PromptSettings.__dataclass_fields__
        model = SimpleNamespace(
            training=True, rng=rng, **{f"{name}_for_train": getattr(settings, name) for name in names}
        )
        video = SimpleNamespace(num_frames=num_frames, masks=torch.zeros(num_frames, 1, 2, 2, dtype=torch.bool))
        out = official_data.sam2.SAM2Train.prepare_prompt_inputs(model, {}, video)
        prompts = out["point_inputs_per_frame"]
        initial = out["init_cond_frames"]
        boxes = [bool(t in prompts and prompts[t]["point_labels"].shape[1] == 2) for t in initial]
        return PromptPlan(bool(out["use_pt_input"]), initial, boxes, out["frames_to_add_correction_pt"])

    def test_plans_equal_the_official(self):
        draw = np.random.default_rng(0)
        seen = set()
        for seed in range(400):
            initial = int(draw.integers(1, 4))
            settings = PromptSettings(
                prob_to_use_pt_input=float(draw.choice([0.0, 0.5, 1.0])),
                prob_to_use_box_input=float(draw.choice([0.0, 0.5, 1.0])),
                num_frames_to_correct=initial + int(draw.integers(0, 4)),
                rand_frames_to_correct=bool(draw.integers(2)),
                num_init_cond_frames=initial,
                rand_init_cond_frames=bool(draw.integers(2)),
            )
            num_frames = 1 if seed % 10 == 0 else int(draw.integers(6, 10))
            expected = self.official(num_frames, settings, np.random.default_rng(seed))
            plan = plan_prompts(num_frames, settings, np.random.default_rng(seed))
            assert plan == expected, (seed, settings)
            seen.add((plan.use_points, len(plan.initial), len(plan.corrected), any(plan.boxes)))
        assert len(seen) > 20

    def test_clips_that_are_too_short(self):
        with pytest.raises(ValueError, match="clips of 2 frames cannot have 3 initial"):
            plan_prompts(2, PromptSettings(num_init_cond_frames=3), np.random.default_rng(0))


def test_the_noise_of_boxes_is_bounded():
    masks = torch.zeros(1, 1, 1024, 1024, dtype=torch.bool)
    masks[..., 100:900, 400:420] = True
    for edge in (0.0, 1.0 - 1e-9):
        found = sample_box(masks, torch.full((1, 4), edge))["point_coords"].flatten()
        assert ((found - torch.tensor([400.0, 100.0, 419.0, 899.0])).abs() <= torch.tensor([1.9, 20, 1.9, 20])).all()


def test_every_wrong_pixel_is_as_likely_as_another():
    truth = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    truth[0, 0, 2, 3:6] = True
    predicted = truth.roll(1, dims=3)  # wrong at both ends of the line
    uniform = (torch.arange(1000)[:, None] + 0.5) / 1000
    found = sample_error_point(truth.expand(1000, -1, -1, -1), predicted.expand(1000, -1, -1, -1), uniform)
    places = [tuple(p) for p in found["point_coords"][:, 0].long().tolist()]
    assert {place: places.count(place) for place in set(places)} == {(3, 2): 500, (6, 2): 500}
    assert found["point_labels"].sum() == 500


def test_where_nothing_is_wrong_the_background_is_clicked():
    truth = random_blobs(30, seed=4)
    truth[0] = True  # which has no background
    for largest in (torch.rand(30, 1), torch.ones(30, 1)):
        found = sample_error_point(truth, truth, largest)
        assert found["point_coords"][0].flatten().tolist() == [0, 0] and (found["point_coords"] < 24).all()
        assert (found["point_labels"] == 0)[2:].all()


def test_a_clip_s_prompts_do_not_depend_on_the_others():
    alone = ObjectGenerators((7,), torch.tensor([0, 0])).uniform(3, torch.device("cpu"))
    together = ObjectGenerators((5, 7), torch.tensor([0, 1, 1])).uniform(3, torch.device("cpu"))
    assert torch.equal(alone, together[1:]) and not torch.equal(together[0], together[1])
