"""What is computed by few operations from plans equals what the modules compute, with and without kernels."""

from contextlib import nullcontext

import pytest
import tame_weights
import torch
from mini_model import mini_model
from parity import NARROW, random_map

from sam2fast.build_sam import build_sam2
from sam2fast.engine import engine_for
from sam2fast.engine.gpu import image
from sam2fast.kernels._dispatch import backend, launches
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
    "without finer levels": ("++model.use_high_res_features_in_sam=false",),
    "the last map alone": (f"{TRUNK}.return_interm_layers=false", f"{NECK}.backbone_channel_list=[128]"),
}
MODELS = ["sam2/sam2_hiera_t", "sam2.1/sam2.1_hiera_b+", "medsam2/sam2.1_hiera_t512"]


@pytest.fixture(scope="module")
def model():
    return mini_model(DEEP)


def assert_same(expected, found, tolerance=1e-5):
    for a, b in zip(expected, found, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert relative_error(a.float(), b.float()) <= tolerance


def image_plan(model):
    plan = engine_for(model)._image.plan(model)
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


def test_images_by_kernels(model, triton_device):
    """Interpreted."""
    before, expected = launches["window_attention"], assert_same_images(model)
    with backend("triton"):
        assert_same(expected, assert_same_images(model))
    assert launches["window_attention"] > before


def bfloat16():
    return torch.autocast("cpu", torch.bfloat16)


def assert_as_near(truth, expected, found):
    """``found`` is not much farther from the truth than ``expected``, in a low precision."""
    for exact, a, b in zip(truth, expected, found, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert relative_error(exact, b.float()) <= 1.5 * relative_error(exact, a.float()) + 0.005


@pytest.mark.parametrize("has_low_weights", [False, True], ids=["autocast", "weights"])
@torch.no_grad()
def test_images_in_bfloat16(has_low_weights):
    model, images = mini_model(DEEP), random_map(2, 3, 128, 128)
    truth = model.encode_image(images)
    if has_low_weights:
        model.to(torch.bfloat16)
    with nullcontext() if has_low_weights else bfloat16():
        expected, found = model.encode_image(images), image.encode(image_plan(model), images)
    assert_as_near(truth, expected, found)
    if not has_low_weights:
        assert_same_images(model)  # again without autocast


@torch.no_grad()
def test_weights_are_cast_once(model):
    images = random_map(1, 3, 128, 128)
    with bfloat16():
        plan = image_plan(model)
        image.encode(plan, images)
        kept = plan.prepared._entry[2]
        image.encode(plan, images)
    assert plan.prepared._entry[2] is kept
    assert {layer.weight.dtype for layer in image.layers_of(kept)} == {torch.bfloat16}


WEIGHTS = [
    "patch_embed.proj.bias",
    "blocks.1.attn.proj.bias",
    "blocks.3.mlp.layers.1.bias",
    "blocks.3.mlp.layers.1.weight",
    "pos_embed",
    "blocks.2.norm1.weight",
]


@pytest.mark.parametrize("context", [nullcontext, bfloat16])
@pytest.mark.parametrize("name", WEIGHTS)
@torch.no_grad()
def test_changed_weights_take_effect(name, context):
    model, images = mini_model(DEEP), random_map(1, 3, 128, 128)
    with context():
        before = image.encode(image_plan(model), images)
        model.image_encoder.trunk.get_parameter(name).mul_(3).add_(0.1)
        after = image.encode(image_plan(model), images)
        assert max(map(relative_error, before, after)) > 1e-3
        expected = model.encode_image(images)
    if context is nullcontext:
        assert_same(expected, after)
    else:
        assert_as_near(model.encode_image(images), expected, after)
