"""What is computed by few operations from plans equals what the modules compute, with and without kernels."""

from contextlib import nullcontext

import pytest
import tame_weights
import torch
from mini_model import mini_model
from parity import NARROW, build_pair, random_map
from planned import assert_as_near, assert_same, bfloat16, in_low_precision, without_plans
from planned_masks import CASES, levels_of, prompts

from sam2fast.build_sam import build_sam2
from sam2fast.engine import engine_for
from sam2fast.engine.by_modules import ImageByModules
from sam2fast.engine.common import Pixels, normalized, tracked_prompts
from sam2fast.engine.static import image, masks, ops
from sam2fast.kernels._dispatch import backend, launches
from sam2fast.kernels.mlp import mlp
from sam2fast.kernels.preprocess import MEAN, STD
from sam2fast.utils.testing import relative_error

TRUNK = "++model.image_encoder.trunk"
DEEP = (f"{TRUNK}.stages=[1,2,5,2]", f"{TRUNK}.global_att_blocks=[4]")  # biases are added to the map twice


@pytest.fixture(scope="module")
def model():
    return mini_model(DEEP)


def image_plan(model):
    plan = engine_for(model)._image.look(model).plan
    assert plan is not None
    return plan


@torch.no_grad()
def assert_same_images(model):
    images = random_map(2, 3, model.image_size, model.image_size)
    expected = model.encode_image(images)
    found = image.encode(image_plan(model), images)[-model.num_feature_levels :]
    assert_same(expected, found)
    return found


def test_images_by_kernels(model, triton_device):
    """Interpreted."""
    before, expected = launches["window_attention"], assert_same_images(model)
    with torch.no_grad(), backend("triton"):
        found = image.encode(image_plan(model), random_map(2, 3, model.image_size, model.image_size))
    assert_same(expected, found[-model.num_feature_levels :])
    assert launches["window_attention"] > before


@pytest.mark.parametrize("widths", [(16,), (32, 64), range(1000)], ids=str)
@torch.no_grad()
def test_images_with_mlps_in_one_launch(monkeypatch, widths):
    """Of blocks of some widths. Those add all biases so far to the map, so that none are added twice."""
    seen = []

    def counted(*given):
        seen.append(given[0].shape[-1])
        return mlp(*given)

    monkeypatch.setattr(image, "is_joined", lambda device, dtype, channels: channels in widths)
    monkeypatch.setattr(image, "mlp", counted)
    model = mini_model(DEEP)
    assert_same_images(model)
    expected = [len(block.mlp[1].bias) for block in image_plan(model).blocks]
    assert seen == [channels for channels in expected if channels in widths] and seen


@pytest.mark.parametrize("has_low_weights", [False, True], ids=["autocast", "weights"])
@torch.no_grad()
def test_images_in_bfloat16(has_low_weights):
    model, images = mini_model(DEEP), random_map(2, 3, 128, 128)
    truth = model.encode_image(images)
    if has_low_weights:
        model.to(torch.bfloat16)
    with nullcontext() if has_low_weights else bfloat16():
        expected, found = ImageByModules(model).encode(images), image.encode(image_plan(model), images)
    assert_as_near(truth, expected, found)
    if not has_low_weights:
        assert_same_images(model)  # again without autocast


@pytest.mark.parametrize(
    ("name", "context"),
    [("torch", nullcontext), ("torch", bfloat16), ("triton", bfloat16), ("triton", nullcontext)],
)
@torch.no_grad()
def test_pixels(triton_device, name, context):
    """They give what their normalized images give. The kernel does not round normalized pixels as the reference."""
    model, given = mini_model(()), Pixels(torch.randint(0, 256, (1, 64, 64, 3)).to(torch.uint8), MEAN, STD)
    engine, before = engine_for(model), launches["embed_patches"]
    with backend(name), context():
        expected, found = engine.encode(normalized(given)), engine.encode(given)
        assert launches["embed_patches"] - before == (2 if name == "triton" and context is bfloat16 else 0)
        for each, right in zip(found, expected, strict=True):
            assert relative_error(right, each) <= (0.02 if launches["embed_patches"] > before else 0)
        with without_plans():
            assert all(map(torch.equal, engine.encode(given), engine.encode(normalized(given))))


@torch.no_grad()
def test_weights_are_cast_once(model):
    images = random_map(1, 3, 128, 128)
    with bfloat16():
        plan = image_plan(model)
        image.encode(plan, images)
        kept = plan.prepared._cache._entry[2]
        image.encode(plan, images)
    assert plan.prepared._cache._entry[2] is kept
    assert {layer.weight.dtype for layer in ops._layers_of(kept)} == {torch.bfloat16}


@torch.no_grad()
def test_biases_that_cancel():
    """As in trained models. In bfloat16, a map without any bias has more than twice the official package's error."""
    torch.manual_seed(0)
    official, ours = build_pair("sam2.1_t", ["++model.image_size=256", f"{TRUNK}.stages=[1,1,24,1]"])
    for attention in (block.attn for block in official.image_encoder.trunk.blocks):
        weight, bias = attention.proj.weight.data, attention.proj.bias.data
        torch.nn.init.orthogonal_(weight)
        attention.qkv.bias.data[-len(bias) :] -= weight.sum(0)  # of the values: attention's weights add up to 1
        bias += 1
    ours.load_state_dict(official.state_dict())
    images = random_map(1, 3, 256, 256)
    exact = official.image_encoder.trunk(images)[2]
    with bfloat16():
        theirs = official.image_encoder.trunk(images)[2]
        plan = image_plan(ours)
        weights = image._weights(plan, images.device)
    mine = image.trunk(plan, weights, images)[2].permute(0, 3, 1, 2)
    assert mine.dtype == torch.bfloat16
    assert (mine - exact).norm() < 1.5 * (theirs - exact).norm()


# ---- masks ----

LINEAR_SCORES = "++model.pred_obj_scores_mlp=false"
MASKED = prompts(1, 1, 1)


def mask_plan(model):
    plan = engine_for(model)._masks.look(model).plan
    assert plan is not None
    return plan


@torch.no_grad()
def both_masks(model, case, images, multimask):
    given = (*levels_of(model, images), *case, multimask)
    with without_plans():
        expected = engine_for(model).decode(*given)
    return expected, masks.decode(mask_plan(model), *given)


def test_heads_of_three_layers(triton_device):
    """They are computed as a batch, padded to the widest; also by the kernel, interpreted."""
    changes = ["++model.image_size=128", *NARROW]
    given = {"device": "cpu", "hydra_overrides_extra": changes}
    model = tame_weights.built(build_sam2, "configs/sam2.1/sam2.1_hiera_t.yaml", **given)
    for multimask in (True, False):
        assert_same(*both_masks(model, CASES["a mask for each"], 1, multimask))
    before, (expected, _) = launches.copy(), both_masks(model, MASKED, 1, True)
    with torch.no_grad(), backend("triton"):
        found = masks.decode(mask_plan(model), *levels_of(model, 1), *MASKED, True)
    assert_same(expected, found)
    assert launches["grouped_mlp"] == before["grouped_mlp"] + 1 and launches["layer_norm"] > before["layer_norm"]
    for op in ("norm_linear", "token_attention"):
        assert launches[op] == before[op] + 7
    for each, is_batch in ((model, True), (mini_model(), True), (mini_model([LINEAR_SCORES]), False)):
        assert bool(masks._weights(mask_plan(each), torch.device("cpu")).heads) == is_batch


@pytest.mark.parametrize("has_low_weights", [False, True], ids=["autocast", "weights"])
@pytest.mark.parametrize("name", ["a mask for each", "nothing"])
def test_masks_in_bfloat16(has_low_weights, name):
    model = mini_model()
    truth, _ = both_masks(model, CASES[name], 1, True)
    if has_low_weights:
        in_low_precision(model)
    with nullcontext() if has_low_weights else bfloat16():
        expected, found = both_masks(model, CASES[name], 1, True)
    assert_as_near(truth, expected, found)
    if not has_low_weights:
        assert_same(*both_masks(model, CASES[name], 1, True))


@pytest.mark.parametrize("points", [None, 3], ids=["points", "none"])
@torch.no_grad()
def test_tracked_prompts(model, points):
    """Without points a prompt has a padding point, besides the one that is always there."""
    B, (embedding, high_res) = 3, levels_of(model, 3)
    coords, labels = prompts(1, B)[0]
    given = None if points is None else {"point_coords": coords, "point_labels": labels}
    mask = random_map(B, 1, 40, 40)
    with without_plans():
        expected = model._decode(embedding, given, mask, high_res, True)
    plan = mask_plan(model)
    found = masks.decode(plan, embedding, high_res, *tracked_prompts(plan, given, mask, B), True)
    seen = (found.scores > 0)[:, None, None]
    assert_same(expected, found._replace(masks=torch.where(seen, found.masks, -1024.0)))
