"""Changed values and settings of a model take effect in the next call, which is computed from plans."""

import copy
from functools import partial
from itertools import cycle

import pytest
import torch
from mini_model import mini_model
from planned import (
    ALL,
    VALUES,
    assert_as_near,
    assert_takes_effect,
    away_from_the_cpu,
    bfloat16,
    by_modules,
    difference,
    everywhere,
    parts_of,
    results,
    set_at,
    shift,
)
from planned_memory import tracked

from sam2fast.engine import engine_for


def optimiser_step(layer):
    with torch.enable_grad():
        layer(torch.ones(1, layer.in_features)).sum().backward()
    torch.optim.SGD([layer.weight], lr=1.0).step()


CHANGED_VALUES = VALUES | {"optimiser": optimiser_step}
LAYERS = [
    *("image_encoder.trunk.blocks.1.mlp.layers.0", "sam_mask_decoder.transformer.layers.0.self_attn.v_proj"),
    *("image_encoder.trunk.blocks.2.attn.qkv", "sam_mask_decoder.iou_prediction_head.layers.1"),
]


@pytest.mark.parametrize(("name", "layer"), list(zip([*CHANGED_VALUES] * 2, cycle(LAYERS), strict=False)))
def test_changed_values(model, layer, name):
    """Tests each change on a layer of each part, since 7 changes and 4 layers share no factor."""
    assert_takes_effect(results, model, lambda: CHANGED_VALUES[name](model.get_submodule(layer)), least=1e-3)


TRANSFORMER = "sam_mask_decoder.transformer"
DERIVED = [
    "image_encoder.trunk.pos_embed",
    "image_encoder.trunk.pos_embed_window",
    "image_encoder.trunk.patch_embed.proj.weight",
    "image_encoder.trunk.patch_embed.proj.bias",
    "image_encoder.trunk.blocks.1.attn.proj.bias",
    "image_encoder.trunk.blocks.1.attn.qkv.weight",
    "image_encoder.trunk.blocks.1.proj.bias",
    "image_encoder.trunk.blocks.2.norm1.weight",
    "image_encoder.trunk.blocks.3.mlp.layers.1.weight",
    "image_encoder.trunk.blocks.3.mlp.layers.1.bias",
    "image_encoder.neck.convs.3.conv.weight",
    "image_encoder.neck.convs.0.conv.bias",
    f"{TRANSFORMER}.layers.0.self_attn.v_proj.weight",
    f"{TRANSFORMER}.layers.1.self_attn.q_proj.bias",
    f"{TRANSFORMER}.layers.1.self_attn.v_proj.weight",
    f"{TRANSFORMER}.layers.0.cross_attn_image_to_token.v_proj.bias",
    f"{TRANSFORMER}.final_attn_token_to_image.q_proj.weight",
    f"{TRANSFORMER}.layers.1.cross_attn_token_to_image.k_proj.weight",
    f"{TRANSFORMER}.layers.0.norm1.weight",
    "sam_mask_decoder.output_hypernetworks_mlps.1.layers.2.weight",
    "sam_mask_decoder.conv_s0.weight",
    "sam_mask_decoder.output_upscaling.0.weight",
    "sam_mask_decoder.output_upscaling.3.weight",
    "sam_mask_decoder.iou_token.weight",
    "sam_prompt_encoder.point_embeddings.1.weight",
    "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    "sam_prompt_encoder.mask_downscaling.0.weight",
    "sam_prompt_encoder.not_a_point_embed.weight",
]


@pytest.mark.parametrize(("name", "through_data"), list(zip(DERIVED, cycle([False, True]), strict=False)))
def test_values_from_which_others_are_derived(model, name, through_data):
    """Written where they are, also unseen by version counters."""
    values = model.get_parameter(name) if "matrix" not in name else model.get_buffer(name)
    assert_takes_effect(everywhere(results), model, lambda: shift(values, through_data))


@pytest.mark.parametrize(
    ("compute", "name"),
    [
        (results, "image_encoder.trunk.blocks.1.attn.proj.bias"),
        (results, f"{TRANSFORMER}.layers.0.self_attn.v_proj.weight"),
        (tracked, "memory_attention.layers.0.self_attn.v_proj.weight"),
    ],
)
@torch.no_grad()
def test_values_that_are_cast(model, compute, name):
    with away_from_the_cpu(), bfloat16():
        before = compute(model)
        shift(model.get_parameter(name))
        after = compute(model)
        assert difference(before, after) > 1e-3 and all(map(torch.equal, after, compute(copy.deepcopy(model))))


@torch.no_grad()
def test_another_dtype(model):
    before = results(model)
    model.to(torch.bfloat16)
    assert parts_of(model) == ALL
    after = results(model)
    assert difference(before, after) > 1e-3
    assert_as_near(before, by_modules(model), after)
    model.float()
    assert difference(by_modules(model), results(model)) < 1e-5


SETTINGS = {
    "image_encoder.trunk.blocks.1.window_size": 4,
    "image_encoder.trunk.blocks.1.attn.num_heads": 1,
    "image_encoder.trunk.blocks.1.norm1.eps": 0.5,
    "image_encoder.scalp": 0,
    "image_encoder.neck.fpn_top_down_levels": [0, 1, 2],
    "image_encoder.neck.fpn_interp_model": "bilinear",
    "sam_mask_decoder.transformer.layers.1.self_attn.num_heads": 1,
    "sam_mask_decoder.output_upscaling.1.eps": 0.5,
    "sam_mask_decoder.iou_prediction_head.sigmoid_output": False,
    "sam_prompt_encoder.input_image_size": (64, 64),
    "num_feature_levels": 2,
}


@pytest.mark.parametrize("name", SETTINGS)
@torch.no_grad()
def test_changed_settings(model, name):
    change = partial(set_at, model, name, SETTINGS[name])
    if name in ("image_encoder.scalp", "num_feature_levels"):  # other levels, for which the decoder is not made
        results(model)
        change()
        images = torch.zeros(1, 3, 128, 128)
        expected, actual = model.encode_image(images), engine_for(model).encode(images)
        assert parts_of(model) == ALL and len(actual) == len(expected) and difference(expected, actual) < 1e-5
    else:
        assert_takes_effect(results, model, change)


def test_weights_made_in_inference_mode():
    """They have no version counters."""
    with torch.inference_mode():
        model = mini_model()
        before = results(model)
        assert parts_of(model) == ALL
        model.sam_mask_decoder.output_upscaling[0].weight.mul_(1.5)
        assert difference(before, results(model)) > 1e-4
    assert parts_of(model) == ALL and difference(by_modules(model), results(model)) < 1e-5
