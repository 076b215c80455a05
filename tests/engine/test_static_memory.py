"""What a video takes besides images, by few operations from plans: kernels and dtypes."""

from contextlib import nullcontext

import pytest
import torch
from mini_model import mini_model
from planned import assert_as_near, assert_same, away_from_the_cpu, bfloat16, in_low_precision, without_plans
from planned_memory import tracked
from torch.utils._pytree import tree_leaves

from sam2fast.engine.plans.memory import plan_memory
from sam2fast.engine.static.memory import _weights
from sam2fast.kernels._dispatch import backend, launches


def both(model, *args, **kwargs):
    with without_plans():
        expected = tracked(model, *args, **kwargs)
    with away_from_the_cpu():
        return expected, tracked(model, *args, **kwargs)


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
