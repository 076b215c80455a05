"""The training model against the official one: plans, predictions and gradients for the same prompts."""

from typing import Any

import numpy as np
import official_data
import pytest
import torch
from double_precision import double_precision
from training_pair import batch_of_discs, build_training_pair, injected_prompts, official_batch

from sam2fast.modeling import official_steps, sam2_base
from sam2fast.modeling.memory_selection import select_memories
from sam2fast.modeling.position_encoding import sine_1d
from sam2fast.training.losses import MultiStepMultiMasksAndIous
from sam2fast.training.model import SAM2Train
from sam2fast.utils.testing import relative_error

# Number of frames, and the settings, without "_for_train".
CLICKS: dict[str, Any] = {"prob_to_use_pt_input": 1.0, "num_correction_pt_per_frame": 2}
RANDOM = {"rand_frames_to_correct": True, "rand_init_cond_frames": True, "prob_to_use_box_input": 0.5}
SCENARIOS: dict[str, tuple[int, dict[str, Any]]] = {
    "two masks": (5, dict(num_init_cond_frames=2)),
    "clicks": (4, dict(CLICKS, prob_to_sample_from_gt=0.5)),
    "boxes": (3, dict(CLICKS, prob_to_use_box_input=1.0)),
    "corrected later": (
        5,
        dict(CLICKS, num_frames_to_correct=3, num_init_cond_frames=2, add_all_frames_to_correct_as_cond=True),
    ),
    "corrected, no conditioning": (4, dict(CLICKS, num_frames_to_correct=2)),
    "random": (5, dict(CLICKS, **RANDOM, num_frames_to_correct=4, num_init_cond_frames=3)),
    "nine frames": (9, {}),
    "few conditioning frames": (6, dict(num_init_cond_frames=4, num_frames_to_correct=4, max_cond_frames_in_attn=2)),
    "image": (1, CLICKS),
    "checkpointed": (2, dict(CLICKS, use_act_ckpt_iterative_pt_sampling=True)),
}
# Defaults of the keys that scenarios change.
NEUTRAL = {
    **dict.fromkeys(("prob_to_use_pt_input", "prob_to_use_box_input", "prob_to_sample_from_gt"), 0.0),
    **dict.fromkeys(("rand_frames_to_correct", "rand_init_cond_frames", "add_all_frames_to_correct_as_cond"), False),
    **dict.fromkeys(("num_frames_to_correct", "num_init_cond_frames"), 1),
    "num_correction_pt_per_frame": 2,
    "use_act_ckpt_iterative_pt_sampling": False,
    "max_cond_frames_in_attn": -1,
}


def configure(official, ours, settings):
    """Sets these keys in both models."""
    for key, value in {**NEUTRAL, **settings}.items():
        name = f"{key}_for_train" if hasattr(official, f"{key}_for_train") else key
        assert hasattr(official, name)
        setattr(official, name, value)
        if hasattr(ours.train_settings, key):
            # Not by the constructor, which would check each change separately.
            object.__setattr__(ours.train_settings, key, value)
        else:
            assert hasattr(ours, name)
            setattr(ours, name, value)


LOSS = dict(
    weight_dict={"loss_mask": 20.0, "loss_dice": 1.0, "loss_iou": 1.0, "loss_class": 1.0},
    supervise_all_iou=True,
    iou_use_l1_loss=True,
    pred_obj_scores=True,
)
STEPS = ("multistep_pred_multimasks_high_res", "multistep_pred_ious", "multistep_object_score_logits")


def official_outputs(model, batch):
    # The plan is drawn from the same generator state.
    model.rng = np.random.default_rng(batch.plan_seed)
    return model(official_batch(batch))


def gradients(model, losses):
    model.zero_grad(set_to_none=True)
    losses["core_loss"].backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def pair():
    with double_precision():
        return build_training_pair()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_predictions_and_gradients_equal_the_official(pair, scenario):
    num_frames, settings = SCENARIOS[scenario]
    assert_pair_agrees(*pair, settings, num_frames)


@pytest.mark.parametrize("overlap", [False, True])
def test_evaluation_equals_the_official(pair, monkeypatch, overlap):
    """Without gradients, and with the settings for evaluation; objects may take pixels from each other's memory."""
    official, ours = pair
    for model in pair:
        monkeypatch.setattr(model, "non_overlap_masks_for_mem_enc", overlap)
        monkeypatch.setattr(model, "training", False)
    configure(official, ours, {})
    with double_precision(), torch.no_grad():
        batch = batch_of_discs(4, objects=(3,))
        mine = ours(batch)
        with injected_prompts(mine):
            theirs = official_outputs(official, batch)
        assert_predictions_equal(mine, theirs, 1e-9)


def test_the_published_architecture_too():
    with double_precision():
        pair = build_training_pair("sam2.1/sam2.1_hiera_t")
    assert_pair_agrees(*pair, SCENARIOS["clicks"][1], num_frames=2)


def assert_pair_agrees(official, ours, settings, num_frames):
    configure(official, ours, settings)
    with double_precision():
        batch = batch_of_discs(num_frames, (2,) if num_frames > 4 else (2, 1), absent=1)  # long clips alone, for speed
        mine = ours(batch)
        with injected_prompts(mine):
            theirs = official_outputs(official, batch)
        assert_predictions_equal(mine, theirs, 1e-9)
        expected = gradients(official, official_data.loss_fns.MultiStepMultiMasksAndIous(**LOSS)(theirs, batch.masks))
        found = gradients(ours, MultiStepMultiMasksAndIous(**LOSS)(mine.frames, batch.masks))
    assert expected.keys() == found.keys(), "the parameters that have a gradient differ"
    # A gradient that is zero up to rounding is compared at the scale of the others.
    floor = 1e-4 * max(float(g.abs().mean()) for g in expected.values())
    errors = {name: gradient_error(expected[name], found[name], floor) for name in expected}
    name = max(errors, key=lambda key: errors[key])
    assert errors[name] <= 1e-7, f"gradient of {name} differs by {errors[name]:.1e}"


def assert_predictions_equal(mine, theirs, tolerance):
    for t, (frame, reference) in enumerate(zip(mine.frames, theirs, strict=True)):
        for name, found in zip(STEPS, (frame.multimasks_high_res, frame.ious, frame.object_scores), strict=True):
            worst = max(relative_error(a, b) for a, b in zip(reference[name], found, strict=True))
            assert worst <= tolerance, f"{name} of frame {t} differ by {worst:.1e}"


def gradient_error(expected, found, floor):
    """As for outputs, with a scale of at least ``floor``."""
    scale = max(float(expected.abs().mean() + expected.std(correction=0)), floor)
    return float((expected - found).abs().max()) / scale


def detached_memory(monkeypatch):
    encode = SAM2Train.encode_memory
    monkeypatch.setattr(SAM2Train, "encode_memory", lambda self, *args: encode(self, *args).detach())


def unsigned_distances(monkeypatch):
    monkeypatch.setattr(sam2_base, "sine_1d", lambda position, *args: sine_1d(position.abs(), *args))


def one_memory_less(monkeypatch):
    def select(*args):
        chosen = select_memories(*args)
        return chosen._replace(memories=chosen.memories[:-1] or chosen.memories)

    monkeypatch.setattr(official_steps, "select_memories", select)


def hard_masks_remembered(monkeypatch):
    encode = SAM2Train.encode_memory

    def hard(self, features, masks, *args):
        return encode(self, features, (masks > 0) * 20.0 - 10, *args)

    monkeypatch.setattr(SAM2Train, "encode_memory", hard)


def detached_correction(monkeypatch):
    decode = SAM2Train._decode

    def blind(self, features, points, masks, *args):
        return decode(self, features, points, masks if masks is None else masks.detach(), *args)

    monkeypatch.setattr(SAM2Train, "_decode", blind)


@pytest.mark.parametrize(
    "break_it",
    [detached_memory, unsigned_distances, one_memory_less, hard_masks_remembered, detached_correction],
    ids=lambda f: f.__name__,
)
def test_a_broken_model_does_not_pass(pair, monkeypatch, break_it):
    break_it(monkeypatch)
    settings = {**CLICKS, "num_correction_pt_per_frame": 1, "num_init_cond_frames": 2, "num_frames_to_correct": 2}
    with pytest.raises(AssertionError, match="differ"):
        assert_pair_agrees(*pair, settings, 3)
