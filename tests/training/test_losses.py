"""Losses against the official ones and against values computed by hand."""

import math

import oracle  # noqa: F401
import pytest
import torch
import torch.nn.functional as F
from official_data import loss_fns as official

from sam2fast.training import losses
from sam2fast.training.losses import AtResolution, FromScratchLoss, MultiStepMultiMasksAndIous, sample_masks
from sam2fast.training.model import PredictedFrame

WEIGHTS = {"loss_mask": 20.0, "loss_dice": 1.0, "loss_iou": 1.0, "loss_class": 1.0}
MOSE = {"supervise_all_iou": True, "iou_use_l1_loss": True, "pred_obj_scores": True}
FLAGS = {
    "defaults": {},
    "mose": MOSE,
    "squared errors of the best": {"pred_obj_scores": True},
    "focal everywhere": {
        **MOSE,
        "focal_alpha": -1,
        "focal_gamma": 1,
        "focal_gamma_obj_score": 2.0,
        "focal_alpha_obj_score": 0.25,
    },
    "plain cross entropy": {"focal_alpha": 0.5, "focal_gamma": 0, "iou_use_l1_loss": True},
}
KEYS = ("multistep_pred_multimasks_high_res", "multistep_pred_ious", "multistep_object_score_logits")


def predicted(masks, ious, scores):
    """A frame with these lists, each with one entry per step."""
    return PredictedFrame(multimasks_high_res=masks, ious=ious, object_scores=scores)


def make_clip(steps=((3, 1), (3,), (1, 1, 1)), num_objects=4, size=(13, 17), seed=0):
    """Official outputs, ground-truth masks and leaf tensors; one object is never visible, one only at first."""
    g = torch.Generator().manual_seed(seed)
    T, n = len(steps), num_objects
    targets = torch.rand(T, n, *size, generator=g) > 0.7
    if n:
        targets[:, -1] = False
        targets[1:, 0] = False
    frames = [
        {
            KEYS[0]: [(5 * torch.randn(n, m, *size, generator=g)).requires_grad_() for m in numbers],
            KEYS[1]: [torch.rand(n, m, generator=g).requires_grad_() for m in numbers],
            KEYS[2]: [torch.randn(n, 1, generator=g).requires_grad_() for _ in numbers],
        }
        for numbers in steps
    ]
    return frames, targets, [leaf for frame in frames for leaf in sum(frame.values(), [])]


def gradients(loss, leaves):
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, grads, strict=True)]


def as_objects(frames):
    return [predicted(*(frame[key] for key in KEYS)) for frame in frames]


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS.keys())
@pytest.mark.parametrize("weights", [WEIGHTS, {"loss_mask": 2, "loss_dice": 5, "loss_iou": 0.0}])
def test_official_terms_and_gradients(flags, weights):
    frames, targets, leaves = make_clip()
    expected = official.MultiStepMultiMasksAndIous(dict(weights), **flags)(frames, targets)
    given = dict(weights)
    loss = MultiStepMultiMasksAndIous(given, **flags)
    got = loss(as_objects(frames), targets)
    torch.testing.assert_close(loss(frames, targets.float()), got, rtol=0, atol=0)
    assert given == weights, "the caller's weights were changed"
    assert set(got) == set(expected)
    torch.testing.assert_close(got, dict(expected), rtol=2e-6, atol=0)
    for ours, theirs in zip(gradients(got["core_loss"], leaves), gradients(expected["core_loss"], leaves), strict=True):
        assert (ours - theirs).abs().max() <= 2e-6 * theirs.abs().max()


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2), (-1, 0), (0.6, 1.5)])
def test_functions_are_the_official_ones(multimask, alpha, gamma):
    frames, targets, _ = make_clip()
    x, y = frames[0][KEYS[0]][0], targets[0][:, None].float().expand(-1, 3, -1, -1)
    if not multimask:
        x, y = x.flatten(2)[:, 0], y.flatten(2)[:, 0]
    for name, args in (("dice_loss", (multimask,)), ("sigmoid_focal_loss", (alpha, gamma, multimask))):
        expected = getattr(official, name)(x, y, 2.5, *args)
        torch.testing.assert_close(getattr(losses, name)(x, y, 2.5, *args), expected, rtol=2e-6, atol=1e-8)
    for l1 in (False, True):
        args = frames[0][KEYS[0]][0], targets[0][:, None].expand(-1, 3, -1, -1), frames[0][KEYS[1]][0], 2.5
        expected = official.iou_loss(*args, multimask, l1)
        torch.testing.assert_close(losses.iou_loss(*args, multimask, l1), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
def test_gradients_in_float64(gamma):
    g = torch.Generator().manual_seed(1)
    masks = (2 * torch.randn(2, 3, 3, 2, generator=g)).double().requires_grad_()
    ious = torch.rand(2, 3, generator=g).double().requires_grad_()
    scores = torch.randn(2, 1, generator=g).double().requires_grad_()
    targets = torch.rand(1, 2, 3, 2, generator=g) > 0.5
    flags = {"bce_weight": 3.0, "balanced_bce_weight": 2.0, "pred_obj_scores": True}
    loss = FromScratchLoss(WEIGHTS, focal_gamma=gamma, focal_gamma_obj_score=gamma, **flags)
    assert torch.autograd.gradcheck(
        lambda m, i, s: loss([predicted([m], [i], [s])], targets)["core_loss"], (masks, ious, scores)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_fp32(dtype):
    frames, targets, _ = make_clip()
    rounded = [{key: [x.detach().to(dtype) for x in values] for key, values in frame.items()} for frame in frames]
    exact = [{key: [x.float() for x in values] for key, values in frame.items()} for frame in rounded]
    loss = FromScratchLoss(WEIGHTS, bce_weight=1.0, **MOSE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = loss(rounded, targets)
    torch.testing.assert_close(got, loss(exact, targets), rtol=0, atol=0)
    assert all(value.dtype == torch.float32 for value in got.values())


def test_large_logits_stay_finite():
    targets = torch.rand(1, 1, 8, 8) > 0.5
    masks = torch.where(targets, -1e4, 1e4).requires_grad_()
    core = MultiStepMultiMasksAndIous(WEIGHTS)([predicted([masks], [torch.ones(1, 1)], [torch.ones(1, 1)])], targets)
    assert core["loss_mask"].item() == pytest.approx(1e4 * (0.25 * targets + 0.75 * ~targets).mean().item(), rel=1e-5)
    assert gradients(core["core_loss"], [masks])[0].isfinite().all()


def test_nothing_full_size_is_kept_for_backward_but_the_logits():
    frames, targets, _ = make_clip(steps=((1,),), size=(64, 64))
    kept: dict[int, int] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: (kept.update({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()}), x)[1], lambda x: x
    ):
        MultiStepMultiMasksAndIous(WEIGHTS)(frames, targets)
    assert frames[0][KEYS[0]][0].data_ptr() in kept
    assert sum(kept.values()) < frames[0][KEYS[0]][0].nbytes + targets.nbytes + 4096


def test_no_objects():
    frames, targets, leaves = make_clip(steps=((3,), (1,)), num_objects=0)
    got = MultiStepMultiMasksAndIous(WEIGHTS, **MOSE)(frames, targets)
    assert all(value == 0 for value in got.values())
    gradients(got["core_loss"], leaves)


def test_objects_are_averaged_over_ranks(monkeypatch):
    frames, targets, _ = make_clip()
    loss = MultiStepMultiMasksAndIous(WEIGHTS, **MOSE)
    alone = loss(frames, targets)["core_loss"]
    distributed = torch.distributed
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    for others, average in ((2, 3.0), (-4, 1.0)):
        monkeypatch.setattr(distributed, "all_reduce", lambda count, n=others: count.add_(n))
        assert loss(frames, targets)["core_loss"].item() == pytest.approx((alone * 4 / average).item())


def unequal_steps(frames):
    return [{**frames[0], KEYS[1]: frames[0][KEYS[1]][:1]}, *frames[1:]]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda *_: MultiStepMultiMasksAndIous({"loss_mask": 1}), "loss_dice, loss_iou"),
        (lambda *_: MultiStepMultiMasksAndIous({**WEIGHTS, "loss_slot": 1}), "loss_slot"),
        (lambda loss, frames, targets: loss(frames, targets[:2]), "3 predicted frames.* 2"),
        (lambda loss, frames, targets: loss(frames, targets[..., :16]), r"\(4, 3, 13, 17\).*\(4, 13, 16\)"),
        (lambda loss, frames, targets: loss(frames, targets * 255), "0 and 1"),
        (lambda loss, frames, targets: loss(unequal_steps(frames), targets), "2 steps of masks, 1 of IoUs"),
        (lambda *_: losses.dice_loss(torch.zeros(2, 3), torch.zeros(2, 3), 1, True), "loss_on_multimask"),
        (lambda *_: FromScratchLoss(WEIGHTS, balanced_bce_until=0), "balanced_bce_until"),
        (lambda loss, *_: AtResolution(loss, 12)([], torch.zeros(1, 1, 32, 32)), "32 pixels.* 12"),
    ],
)
def test_refusals(call, words):
    frames, targets, _ = make_clip()
    with pytest.raises(ValueError, match=words):
        call(MultiStepMultiMasksAndIous(WEIGHTS), frames, targets)


def test_from_scratch_terms():
    frames, targets, _ = make_clip(steps=((1,),))
    targets[0, 0] = True
    x, y = frames[0][KEYS[0]][0][:, 0].flatten(1), targets[0].flatten(1)
    entropy = F.binary_cross_entropy_with_logits(x, y.float(), reduction="none")
    got = FromScratchLoss({**WEIGHTS, "loss_mask": 0}, bce_weight=2, balanced_bce_weight=3)(frames, targets)
    assert got["loss_bce"].item() == pytest.approx((entropy.mean(1).sum() / 4).item())
    sides = [entropy[i][side].mean() for i in range(4) for side in (y[i], ~y[i]) if side.any()]
    assert len(sides) == 6, "one mask is full and one empty"
    assert got["loss_balanced_bce"].item() == pytest.approx((0.5 * sum(sides) / 4).item())
    expected = got["loss_dice"] + got["loss_iou"] + 2 * got["loss_bce"] + 3 * got["loss_balanced_bce"]
    assert got["core_loss"].item() == pytest.approx(expected.item())


def test_from_scratch_balance_fades_out():
    frames, targets, _ = make_clip()
    loss = FromScratchLoss(WEIGHTS, balanced_bce_weight=4, balanced_bce_until=0.5)
    for where, weight in ((0, 4), (0.125, 3), (0.5, 0), (1, 0)):
        loss.where = where
        assert loss.current_weights()["loss_balanced_bce"] == weight
    base = MultiStepMultiMasksAndIous(WEIGHTS)(frames, targets)["core_loss"]
    assert loss(frames, targets)["core_loss"] == base


def test_from_scratch_chooses_by_all_mask_terms():
    # Few foreground pixels: an empty mask has a lower plain loss than a too large one, but a higher balanced one.
    targets = torch.zeros(1, 1, 10, 10, dtype=torch.bool)
    targets[..., :1, :3] = True
    masks = torch.full((1, 2, 10, 10), -4.0)
    masks[0, 1, :4] = 4.0
    masks.requires_grad_()
    frame = predicted([masks], [torch.zeros(1, 2)], [torch.zeros(1, 1)])
    weights = {"loss_mask": 20, "loss_dice": 0, "loss_iou": 0}
    for balanced, chosen in ((0.0, 0), (50.0, 1)):
        core = FromScratchLoss(weights, balanced_bce_weight=balanced)([frame], targets)["core_loss"]
        assert gradients(core, [masks])[0].flatten(2).any(-1).tolist() == [[chosen == 0, chosen == 1]]


def test_the_entropy_of_predicted_ious_by_hand():
    masks = torch.tensor([1.0, 1, -1, -1]).view(1, 1, 2, 2).expand(1, 2, 2, 2)
    truth = torch.tensor([[[[True, True], [True, False]]]])[0]  # IoU 2/3
    frame = predicted([masks], [torch.tensor([[2 / 3, 0.1]], requires_grad=True)], [torch.zeros(1, 1)])
    weights = {"loss_mask": 0.0, "loss_dice": 0.0, "loss_iou": 1.0}
    loss = FromScratchLoss(weights, iou_entropy=True, supervise_all_iou=True)
    found = loss([frame], truth[None])
    divergence = 2 / 3 * math.log(2 / 3 / 0.1) + 1 / 3 * math.log(1 / 3 / 0.9)
    assert found["loss_iou"].item() == pytest.approx(divergence / 2, abs=1e-6)
    # By the logit the gradient is the error itself, however small the prediction.
    logit = torch.tensor([[-8.0, 8.0]], requires_grad=True)
    frame.ious = [logit.sigmoid()]
    loss([frame], truth[None])["loss_iou"].backward()
    torch.testing.assert_close(logit.grad, (logit.detach().sigmoid() - 2 / 3) / 2, rtol=1e-3, atol=1e-4)


def test_masks_sampled_at_a_lower_resolution():
    """An odd stride takes the middle pixel, and an even one shifts nothing on average."""
    assert sample_masks(torch.arange(81).view(9, 9), 3).tolist() == [[10, 13, 16], [37, 40, 43], [64, 67, 70]]
    x = torch.arange(64).expand(64, 64)
    sampled = sample_masks(x, 32).double()
    cells = torch.arange(32) * 2 + 0.5  # their centres, in pixels
    assert (sampled - cells).abs().max() == 0.5
    assert (sampled - cells).mean() == 0 and (sampled.T - sample_masks(x.T, 32).double()).abs().max() == 0


def test_the_loss_at_a_lower_resolution_is_that_of_the_smaller_masks():
    g = torch.Generator().manual_seed(0)
    logits, truth = torch.randn(2, 3, 8, 8, generator=g), torch.rand(1, 2, 32, 32, generator=g) > 0.5
    ious, scores = torch.rand(2, 3, generator=g), torch.randn(2, 1, generator=g)
    frame = PredictedFrame([logits], [torch.zeros(2, 3, 32, 32)], [ious], object_scores=[scores])
    loss = MultiStepMultiMasksAndIous(WEIGHTS, supervise_all_iou=True, pred_obj_scores=True)
    found = AtResolution(loss, 8)([frame], truth)
    frame.multimasks_high_res = frame.multimasks
    torch.testing.assert_close(found, loss([frame], sample_masks(truth, 8)), rtol=0, atol=0)
