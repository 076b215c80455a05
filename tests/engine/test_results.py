"""What is computed from plans equals what the modules compute: other configurations, sizes, dtypes and prompts."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import tame_weights
import torch
from mini_model import mini_model
from parity import NARROW, random_image, random_map
from planned import (
    ALL,
    assert_as_near,
    assert_same,
    away_from_the_cpu,
    by_modules,
    difference,
    everywhere,
    parts_of,
    results,
    without_plans,
)
from planned_masks import CASES, B, levels_of, prompts

from sam2fast.build_sam import build_sam2
from sam2fast.engine import common, engine_for
from sam2fast.engine.cpu import masks, ops
from sam2fast.engine.plans import projections_of
from sam2fast.kernels import _cpu
from sam2fast.modeling.attention import Attention
from sam2fast.sam2_image_predictor import SAM2ImagePredictor

TRUNK, NECK = "++model.image_encoder.trunk", "++model.image_encoder.neck"
IS_EMULATED = _cpu.EMULATES_BFLOAT16  # on this processor
DECODER = "++model.sam_mask_decoder_extra_args.dynamic_multimask"
CONFIGURATIONS = {
    "nano, narrow": (),
    "biases are added to the map twice": (f"{TRUNK}.stages=[1,2,5,2]", f"{TRUNK}.global_att_blocks=[4]"),
    "another size": ("++model.image_size=160",),
    "windows that do not fit": (f"{TRUNK}.window_spec=[8,6,14,3]", f"{TRUNK}.stages=[1,2,2,2]"),
    "all windows global": (f"{TRUNK}.global_att_blocks=[0,1,2,3]",),
    "all levels summed": (f"{NECK}.fpn_top_down_levels=null",),
    "bilinear sums": (f"{NECK}.fpn_interp_model=bilinear",),
    "no level summed": (f"{NECK}.fpn_top_down_levels=[]",),
    "without high-resolution features": ("++model.use_high_res_features_in_sam=false",),
    "without object scores": ("++model.pred_obj_scores=false", "++model.fixed_no_obj_ptr=false"),
    "linear object scores": ("++model.pred_obj_scores_mlp=false",),
    "logits as IoUs": ("++model.iou_prediction_use_sigmoid=false",),
    "one pointer for three masks": ("++model.use_multimask_token_for_obj_ptr=false",),
    "choice by stability": (f"{DECODER}_via_stability=true", f"{DECODER}_stability_thresh=0.9"),
}
NAMES = ("sam2/sam2_hiera_t", "sam2.1/sam2.1_hiera_b+", "medsam2/sam2.1_hiera_t512")


@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_configurations(changes):
    assert_as_by_modules(mini_model(changes))


def assert_as_by_modules(model):
    """Features and masks of a click, and of several prompts."""
    assert parts_of(model) == ALL
    assert_same(by_modules(model) * 2, everywhere(results)(model))
    mask = prompts(2, 3, 3, 4 * model.sam_image_embedding_size)
    for case, multimask in ((prompts(2, 3), True), (mask, False), (CASES["nothing"], True)):
        assert_same_masks(model, (*levels_of(model, 1), *case, multimask))


@pytest.mark.parametrize("name", NAMES)
def test_models(name):
    overrides = ["++model.image_size=256", *NARROW]
    given = {"device": "cpu", "hydra_overrides_extra": overrides}
    assert_as_by_modules(tame_weights.built(build_sam2, f"configs/{name}.yaml", **given))


LAST_MAP = (
    f"{TRUNK}.return_interm_layers=false",
    f"{NECK}.backbone_channel_list=[128]",
    "++model.image_encoder.scalp=0",
    "++model.use_high_res_features_in_sam=false",
)


@pytest.mark.parametrize("changes", [(), LAST_MAP], ids=["all maps", "the last map alone"])
@torch.no_grad()
def test_features_of_several_images(changes):
    """Maps that are computed in chunks are equal bit by bit to those that are computed at once."""
    model, images, found = mini_model(changes), random_map(2, 3, 128, 128), []
    assert parts_of(model).image
    for elements in (2**12, ops.CHUNK):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ops, "CHUNK", elements)
            found.append(engine_for(model).encode(images))
    assert all(map(torch.equal, *found))
    with away_from_the_cpu():
        found.append(engine_for(model).encode(images))
    for each in found[1:]:
        assert_same(model.encode_image(images), each)


@torch.no_grad()
def assert_same_masks(model, given, where=everywhere):
    assert engine_for(model).parts().masks
    with without_plans():
        expected = engine_for(model).decode(*given)
    found = where(engine_for(model).decode)(*given)
    assert_same([*expected] * (len(found) // len(expected)), found)


def on_the_cpu(compute):
    return compute


@pytest.mark.parametrize(("images", "multimask"), [(1, True), ("each", False)])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_prompts(model, case, images, multimask):
    points, mask = case
    count = len(points[0]) if points is not None else 1 if mask is None else len(mask)
    assert_same_masks(model, (*levels_of(model, 1 if images == 1 else count), points, mask, multimask))


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        *((("masks", "AT_ONCE"), 8 * 8 * 128 * prompts_at_once) for prompts_at_once in (1, 4, 5)),
        *((("masks", "_folds"), lambda *given, folds=folds: folds) for folds in (True, False)),
        (("ops", "LARGE"), 0),
        (("ops", "SAFE_EXPONENT"), 0.0),
        (("_cpu", "_LARGE_PRODUCT"), 0),
        (("_cpu", "_ONEDNN_IS_FASTER"), False),
    ],
)
@pytest.mark.parametrize("case", ["many prompts", "20 points", "a mask for each"])
def test_ways_to_compute_it(model, case, changed, value, monkeypatch):
    """Each gives the same masks as the modules."""
    owner, name = changed
    monkeypatch.setattr({"masks": masks, "ops": ops, "_cpu": _cpu}[owner], name, value)
    for images in (1, B) if "20" not in case else (1,):
        assert_same_masks(model, (*levels_of(model, images), *CASES[case], True), on_the_cpu)


def test_few_tokens_are_folded():
    """At SAM 2's widths up to 17, where both ways need as many multiplications."""
    projections = projections_of(Attention(256, 8, 2))
    assert [tokens for tokens in range(1, 40) if masks._folds(projections, tokens)] == list(range(1, 18))


@torch.no_grad()
def test_memory_does_not_grow_with_prompts(model, monkeypatch):
    """Never more prompts at once than a group."""
    decode, seen = masks._decode, []

    def recorded(plan, derived, prompts, images, *rest):
        seen.append((len(prompts), [image.shape for image in images]))
        return decode(plan, derived, prompts, images, *rest)

    monkeypatch.setattr(masks, "AT_ONCE", 4 * 8 * 8 * 128)
    monkeypatch.setattr(masks, "_decode", recorded)
    engine_for(model).decode(*levels_of(model, 1), *CASES["many prompts"], True)
    assert seen == [(count, [(64, 128)] * count) for count in (4, 2)]


@pytest.mark.parametrize("threshold", [0.0, 0.5, 2.0], ids=["all stable", "some", "none"])
def test_choice_by_stability(threshold):
    changes = {"dynamic_multimask_via_stability": True, "dynamic_multimask_stability_delta": 0.5}
    model = mini_model([f"++model.sam_mask_decoder_extra_args.{name}={value}" for name, value in changes.items()])
    given = (*levels_of(model, 1), *prompts(1, 30), False)
    with torch.no_grad():
        every = engine_for(model).decode(*given[:-1], True).masks
        scores = model.sam_mask_decoder._get_stability_scores(every[:, 0])
        assert scores.min() < scores.max()
    model.sam_mask_decoder.dynamic_multimask_stability_thresh = (
        float(scores.median()) if threshold == 0.5 else threshold
    )
    assert_same_masks(model, given)


def test_an_empty_mask_is_stable():
    logits = torch.full((3, 4, 2, 2), -9.0)  # of an empty mask, an uncertain mask and a certain mask
    logits[1, 0], logits[2, 0] = 0.0, 9.0
    ious = torch.tensor([[0.1, 0.2, 0.9, 0.3]] * 3)
    plan = SimpleNamespace(delta=0.05, threshold=0.98)
    chosen = common._most_stable(plan, common.Masks(logits, ious, torch.empty(3, 4, 8), torch.empty(3, 1)))
    assert torch.equal(chosen.ious, torch.tensor([[0.1], [0.9], [0.1]]))


@pytest.mark.parametrize("emulates", [True, False])
def test_bfloat16_weights(emulates, monkeypatch):
    """As near to fp32 as what the modules compute, on processors with and without instructions for it."""
    from sam2fast import nano

    monkeypatch.setattr(_cpu, "EMULATES_BFLOAT16", emulates)
    found = []
    clicks = {"point_coords": [[[60, 40]], [[20, 30]]], "point_labels": np.ones((2, 1)), "return_logits": True}
    for dtype, context in ((None, nullcontext), (torch.bfloat16, without_plans), (torch.bfloat16, nullcontext)):
        predictor = SAM2ImagePredictor(build_sam2(nano.CONFIG, nano.WEIGHTS, device="cpu", dtype=dtype))
        with context():
            predictor.set_image(random_image(90, 120))
            answers = predictor.predict(**clicks)
        found.append([predictor.get_image_embedding(), *map(torch.from_numpy, answers)])
    assert_as_near(*found)
    assert difference(found[0], found[2]) > 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("emulates", [True, False])
def test_autocast(emulates, dtype, monkeypatch):
    """Plans compute in its dtype what modules do, which round elsewhere, and are as far from fp32."""
    monkeypatch.setattr(_cpu, "EMULATES_BFLOAT16", emulates)
    model = mini_model()
    exact = results(model)
    with torch.autocast("cpu", dtype):
        assert parts_of(model) == ALL
        expected, found = by_modules(model), results(model)
        assert torch.is_autocast_enabled("cpu")
        model.image_encoder.trunk.blocks[1].mlp.layers[0].weight.data.mul_(1.5)
        changed = results(model)
    assert [x.dtype for x in expected] == [x.dtype for x in found]
    # Sums are rounded differently if torch emulates bfloat16, but the plan is for processors with its instructions.
    slack = max(1e-3, torch.finfo(dtype).eps / 4) if IS_EMULATED and not emulates else 1e-3
    for x, y, z in zip(exact, expected, found, strict=True):
        assert difference([x], [z]) <= 2 * difference([x], [y]) + slack
    assert difference(exact, found) > 1e-4 and difference(found, changed) > 1e-2
    assert difference(changed, results(model)) < difference(found, changed) / 2
