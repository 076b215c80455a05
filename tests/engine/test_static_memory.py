"""What a video takes besides images, by few operations from plans: kernels, dtypes and changed weights."""

import copy
from contextlib import nullcontext

import pytest
import torch
from mini_model import mini_model
from planned import (
    assert_as_near,
    assert_same,
    away_from_the_cpu,
    bfloat16,
    difference,
    in_low_precision,
    without_plans,
)
from planned_memory import tracked
from torch.utils._pytree import tree_leaves

from sam2fast.engine.memory_plan import plan_memory
from sam2fast.engine.static.memory import _weights
from sam2fast.kernels._dispatch import backend, launches


@pytest.fixture(scope="module")
def model():
    return mini_model()


def both(model, *args, **kwargs):
    with without_plans():
        expected = tracked(model, *args, **kwargs)
    with away_from_the_cpu():
        return expected, tracked(model, *args, **kwargs)


@pytest.mark.long
def test_by_kernels(model, triton_device):
    """Interpreted."""
    before, (expected, _) = launches["memory_attention"], both(model)
    with backend("triton"), away_from_the_cpu():
        assert_same(expected, tracked(model), 2e-5)
    assert launches["memory_attention"] > before


@pytest.mark.parametrize("has_low_weights", [False, True], ids=["autocast", "weights"])
def test_bfloat16(has_low_weights):
    model = mini_model(["++model.memory_attention.num_layers=2"])
    truth = both(model)[0][:6]
    if has_low_weights:
        in_low_precision(model)
    with nullcontext() if has_low_weights else bfloat16():
        expected, found = (each[:6] for each in both(model))
    assert_as_near(truth, expected, found)
    if not has_low_weights:
        assert_same(*both(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_no_weight_is_a_view_of_a_parameter(dtype):
    """A recording refreshes its weights in place: it would write to the parameter, and find them outdated forever."""
    model = mini_model().to(dtype)
    plan = plan_memory(model)
    assert plan is not None
    weights = [x for x in tree_leaves(_weights(plan, torch.device("cpu"))) if isinstance(x, torch.Tensor)]
    parameters = {x.data_ptr(): x for x in model.parameters()}
    assert len(weights) > 20 and all(parameters.get(x.data_ptr(), x) is x for x in weights)


WEIGHTS = [
    "memory_attention.layers.0.self_attn.v_proj.weight",
    "memory_attention.layers.0.self_attn.out_proj.weight",
    "memory_attention.layers.0.cross_attn_image.v_proj.bias",
    "memory_attention.layers.0.cross_attn_image.out_proj.weight",
    "memory_attention.layers.0.linear1.bias",
    "memory_encoder.mask_downsampler.encoder.3.weight",
    "memory_encoder.fuser.layers.0.pwconv1.weight",
    "memory_encoder.fuser.layers.0.gamma",
    "obj_ptr_proj.layers.1.weight",
]


@pytest.mark.parametrize(
    ("name", "is_autocast"), [*((name, False) for name in WEIGHTS), (WEIGHTS[0], True), (WEIGHTS[1], True)]
)
@torch.no_grad()
def test_changed_weights_take_effect(model, name, is_autocast):
    """Under autocast all are cast: two of them show it."""
    model = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast), away_from_the_cpu():
        before = tracked(model)
        values = model.get_parameter(name)
        values.add_(torch.linspace(-1, 1, values.numel()).view_as(values))
        after = tracked(model)
        assert all(map(torch.equal, after, tracked(copy.deepcopy(model)))) and difference(before, after) > 1e-4
