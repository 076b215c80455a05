"""What is computed by few operations from plans equals what the modules compute, with and without kernels."""

import copy
from contextlib import nullcontext

import pytest
import tame_weights
import torch
from mini_model import mini_model
from parity import NARROW, build_pair, random_map
from planned import assert_as_near, assert_same, bfloat16, in_low_precision, without_plans

from sam2fast.build_sam import build_sam2
from sam2fast.engine import engine_for
from sam2fast.engine.by_modules import ImageByModules
from sam2fast.engine.common import Pixels, normalized, tracked_prompts
from sam2fast.engine.static import image, masks, ops
from sam2fast.kernels._dispatch import backend, launches
from sam2fast.kernels.mlp import mlp
from sam2fast.kernels.preprocess import MEAN, STD
from sam2fast.utils.testing import relative_error

TRUNK, NECK = "++model.image_encoder.trunk", "++model.image_encoder.neck"
DEEP = (f"{TRUNK}.stages=[1,2,5,2]", f"{TRUNK}.global_att_blocks=[4]")  # biases are added to the map twice
IMAGES = {
    "nano, narrow": (),
    "deep": DEEP,
    "windows that do not fit": (f"{TRUNK}.window_spec=[8,6,14,3]", f"{TRUNK}.stages=[1,2,2,2]"),
    "an odd map": ("++model.image_size=160",),
    "all levels summed": (f"{NECK}.fpn_top_down_levels=null",),
    "bilinear sums": (f"{NECK}.fpn_interp_model=bilinear",),
    "no level summed": (f"{NECK}.fpn_top_down_levels=[]",),
    "without high-resolution features": ("++model.use_high_res_features_in_sam=false",),
    "the last map alone": (
        f"{TRUNK}.return_interm_layers=false",
        f"{NECK}.backbone_channel_list=[128]",
        "++model.use_high_res_features_in_sam=false",
    ),
}
MODELS = ["sam2/sam2_hiera_t", "sam2.1/sam2.1_hiera_b+", "medsam2/sam2.1_hiera_t512"]


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


@pytest.mark.parametrize("changes", IMAGES.values(), ids=IMAGES)
def test_images(changes):
    assert_same_images(mini_model(changes))


@pytest.mark.parametrize("name", MODELS)
def test_images_of_models(name):
    changes = ["++model.image_size=256", *NARROW]
    assert_same_images(
        tame_weights.fill(build_sam2(f"configs/{name}.yaml", None, device="cpu", hydra_overrides_extra=changes), 0)
    )


@pytest.mark.long
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


@pytest.mark.parametrize("name", ["torch", "triton"])
@pytest.mark.parametrize("context", [nullcontext, bfloat16])
@torch.no_grad()
def test_pixels(triton_device, name, context):
    """They give what their normalized images give, through plans and modules. A kernel reads them for 16-bit products.

    The kernel does not round normalized pixels as the reference does.
    """
    model, given = mini_model(()), Pixels(torch.randint(0, 256, (2, 64, 64, 3)).to(torch.uint8), MEAN, STD)
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
        kept = plan.prepared._kept._entry[2]
        image.encode(plan, images)
    assert plan.prepared._kept._entry[2] is kept
    assert {layer.weight.dtype for layer in ops._layers_of(kept)} == {torch.bfloat16}


WEIGHTS = [
    "patch_embed.proj.bias",
    "blocks.1.attn.proj.bias",
    "blocks.3.mlp.layers.1.bias",
    "blocks.3.mlp.layers.1.weight",
    "pos_embed",
    "blocks.2.norm1.weight",
    "{projected}.attn.qkv.weight",
    "{projected}.proj.bias",
]


def in_both(names):
    """All weights in fp32, where a list says which are read. Under autocast all are cast: two of them show it."""
    return [*((name, nullcontext) for name in names), *((name, bfloat16) for name in names[:2])]


@pytest.mark.parametrize(("name", "context"), [*in_both(WEIGHTS), ("patch_embed.proj.weight", bfloat16)])
@torch.no_grad()
def test_changed_weights_take_effect(model, name, context):
    model, images = copy.deepcopy(model), random_map(1, 3, 128, 128)
    with context():
        before = image.encode(image_plan(model), images)
        (projected, *_) = (i for i, block in enumerate(model.image_encoder.trunk.blocks) if block.dim != block.dim_out)
        name = name.format(projected=f"blocks.{projected}")
        model.image_encoder.trunk.get_parameter(name).mul_(3).add_(0.1)
        after = image.encode(image_plan(model), images)
        assert max(map(relative_error, before, after)) > 1e-3
        expected = model.encode_image(images)
    if context is nullcontext:
        assert_same(expected, after)
    else:
        assert_as_near(model.encode_image(images), expected, after)


@torch.no_grad()
def test_a_changed_bias_of_the_coarsest_level(model):
    model, images = copy.deepcopy(model), random_map(1, 3, 128, 128)
    before = image.encode(image_plan(model), images)
    model.image_encoder.neck.convs[0].conv.bias.add_(1)
    after = image.encode(image_plan(model), images)
    assert max(map(relative_error, before, after)) > 1e-3
    assert_same(model.encode_image(images), after)


@torch.no_grad()
def test_biases_that_cancel():
    """As in trained models: attention subtracts again what its biases add to the map, block after block.

    In bfloat16, if the map lacks all of them, the error is more than twice the official package's.
    """
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

DECODER = "++model.sam_mask_decoder_extra_args"
MASKS = {
    "nano, narrow": (),
    "an odd map": ("++model.image_size=160",),
    "without high-resolution features": ("++model.use_high_res_features_in_sam=false",),
    "without object scores": ("++model.pred_obj_scores=false", "++model.fixed_no_obj_ptr=false"),
    "linear object scores": ("++model.pred_obj_scores_mlp=false",),
    "logits as IoUs": ("++model.iou_prediction_use_sigmoid=false",),
    "one pointer for three masks": ("++model.use_multimask_token_for_obj_ptr=false",),
    "choice by stability": tuple(
        f"{DECODER}.dynamic_multimask_{name}" for name in ("via_stability=true", "stability_thresh=0.9")
    ),
}
MANY = masks.GROUP + 3


def prompts(points, B, masks_of=0, side=32):
    """``B`` prompts of some points with all kinds of labels, and mask prompts."""
    coords, labels = 128 * random_map(B, points, 2, seed=3).sigmoid(), torch.arange(B * points).view(B, points) % 5 - 1
    prompt = (coords, labels.int()) if points else None
    return prompt, 5 * random_map(masks_of, 1, side, side, seed=4) if masks_of else None


CASES = {
    "one point": prompts(1, 1),
    "20 points": prompts(20, 1),
    "several prompts": prompts(2, 3),
    "several groups": prompts(1, MANY),
    "a mask alone": prompts(0, 0, 1),
    "masks alone": prompts(0, 0, 3),
    "masks alone, several groups": prompts(0, 0, MANY),
    "a mask for each": prompts(2, 3, 3),
    "one mask for all": prompts(2, 3, 1),
    "nothing": (None, None),
}


def levels_of(model, images):
    """An embedding, and the high-resolution features."""
    C, side = model.hidden_dim, model.sam_image_embedding_size
    high_res = [random_map(images, C // 8 * k, 4 // k * side, 4 // k * side, seed=k) for k in (1, 2)]
    dtype = model.no_mem_embed.dtype
    high_res = [x.to(dtype) for x in high_res] if model.use_high_res_features_in_sam else []
    return random_map(images, C, side, side, seed=2).to(dtype), high_res


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


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("images", [1, "each"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_prompts(model, case, images, multimask):
    points, mask = case
    count = len(points[0]) if points is not None else 1 if mask is None else len(mask)
    assert_same(*both_masks(model, case, 1 if images == 1 else count, multimask))


@pytest.mark.parametrize("changes", MASKS.values(), ids=MASKS)
def test_masks(changes):
    model = mini_model(changes)
    mask = prompts(2, 3, 3, 4 * model.sam_image_embedding_size)
    for case, multimask in ((prompts(2, 3), True), (mask, False), (CASES["nothing"], True)):
        assert_same(*both_masks(model, case, 1, multimask))


def test_heads_of_three_layers(triton_device):
    """They are computed as a batch, padded to the widest; also by the kernel, interpreted."""
    changes = ["++model.image_size=128", *NARROW]
    model = tame_weights.fill(
        build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", None, device="cpu", hydra_overrides_extra=changes), 0
    )
    for multimask in (True, False):
        assert_same(*both_masks(model, CASES["several prompts"], 1, multimask))
    before, (expected, _) = launches["grouped_mlp"], both_masks(model, CASES["one point"], 1, True)
    with torch.no_grad(), backend("triton"):
        found = masks.decode(mask_plan(model), *levels_of(model, 1), *CASES["one point"], True)
    assert_same(expected, found)
    assert launches["grouped_mlp"] == before + 1
    for each, is_batch in ((model, True), (mini_model(), True), (mini_model(MASKS["linear object scores"]), False)):
        assert bool(masks._weights(mask_plan(each), torch.device("cpu")).heads) == is_batch


@torch.no_grad()
def test_masks_by_kernels(model, triton_device):
    """Interpreted."""
    before, (_, expected) = launches.copy(), both_masks(model, CASES["a mask for each"], 1, True)
    with backend("triton"):
        found = masks.decode(mask_plan(model), *levels_of(model, 1), *CASES["a mask for each"], True)
    assert_same(expected, found)
    assert launches["layer_norm"] > before["layer_norm"] and launches["norm_linear"] == before["norm_linear"] + 7
    assert launches["token_attention"] == before["token_attention"] + 7


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


MASK_WEIGHTS = [
    "sam_mask_decoder.transformer.layers.0.self_attn.v_proj.weight",
    "sam_mask_decoder.transformer.layers.1.self_attn.q_proj.bias",
    "sam_mask_decoder.transformer.layers.1.self_attn.v_proj.weight",
    "sam_mask_decoder.transformer.layers.0.cross_attn_image_to_token.v_proj.bias",
    "sam_mask_decoder.transformer.final_attn_token_to_image.q_proj.weight",
    "sam_mask_decoder.transformer.layers.1.cross_attn_token_to_image.k_proj.weight",
    "sam_mask_decoder.transformer.layers.0.norm1.weight",
    "sam_mask_decoder.output_upscaling.0.weight",
    "sam_mask_decoder.output_hypernetworks_mlps.1.layers.2.weight",
    "sam_mask_decoder.iou_token.weight",
    "sam_prompt_encoder.not_a_point_embed.weight",
]


@pytest.mark.parametrize(("name", "context"), in_both(MASK_WEIGHTS))
@torch.no_grad()
def test_changed_weights_of_masks_take_effect(model, name, context):
    model, given = copy.deepcopy(model), tracked_prompts
    embedding, high_res = levels_of(model, 1)
    plan = mask_plan(model)
    given = embedding, high_res, *given(plan, None, None, 1), True
    with context():
        masks.decode(plan, *given)
        values = model.get_parameter(name)
        values.add_(torch.linspace(-1, 1, values.numel()).view_as(values))
        found = masks.decode(mask_plan(model), *given)
        again = masks.decode(mask_plan(copy.deepcopy(model)), *given)
    assert all(map(torch.equal, found, again))
