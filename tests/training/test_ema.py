"""The moving average of weights."""

import pytest
import torch
from torch import nn

from sam2fast.training.ema import ExponentialMovingAverage


def make_model(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))
    model[0].bias.requires_grad_(False)
    return model.to(dtype)


def move(model, seed):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g).to(p))


def bits(model):
    return {name: value.numpy(force=True).tobytes() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("warmup", [False, True])
def test_average(warmup):
    model = make_model()
    ema = ExponentialMovingAverage(model, 0.9, warmup)
    expected = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    for step in range(100):
        move(model, step)
        ema.update(step)
        keep = min(0.9, (1 + step) / (10 + step)) if warmup else 0.9
        for name, p in model.named_parameters():
            expected[name] = keep * expected[name] + (1 - keep) * p.detach().double()
    assert set(ema.average) == set(expected)
    for name, value in ema.average.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_a_change_that_bfloat16_would_round_away():
    model = make_model(dtype=torch.bfloat16)
    ema = ExponentialMovingAverage(model, 0.9999, warmup=False)
    before = ema.average["0.weight"].clone()
    with torch.no_grad():
        model[0].weight.add_(1)
    ema.update(0)
    torch.testing.assert_close(ema.average["0.weight"] - before, torch.full((4, 3), 1e-4), rtol=0.1, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_applied_swaps_and_restores_every_bit(dtype):
    model = make_model(dtype=dtype)
    ema = ExponentialMovingAverage(model, 0.5, warmup=False)
    move(model, 1)
    ema.update(0)
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
        model[0].weight[0, 1] = -0.0
    before = {name: value.view(torch.uint8).clone() for name, value in model.named_parameters()}
    storages = [p.data_ptr() for p in model.parameters()]

    def assert_restored():
        assert all(torch.equal(p.view(torch.uint8), before[name]) for name, p in model.named_parameters())
        assert [p.data_ptr() for p in model.parameters()] == storages
        assert not model[0].bias.requires_grad

    with ema.applied(model):
        for name, p in model.named_parameters():
            assert torch.equal(p, ema.average[name].to(dtype))
    assert_restored()
    with pytest.raises(KeyError), ema.applied(model):
        move(model, 2)
        raise KeyError
    assert_restored()


def test_other_models_are_refused_unchanged():
    ema = ExponentialMovingAverage(make_model(), 0.9)
    fewer = nn.Sequential(nn.Linear(3, 4))
    wider = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 5, bias=False))
    more = nn.Sequential(*make_model(), nn.Linear(2, 2, bias=False))
    with pytest.raises(ValueError, match="decay"):
        ExponentialMovingAverage(fewer, 1.0)
    for model, words in ((more, "3.weight"), (fewer, "1.bias, 1.weight, 2.weight"), (wider, "shapes of 2.weight")):
        before = bits(model)
        with pytest.raises(ValueError, match=words):
            ema.copy_to(model)
        with pytest.raises(ValueError, match=words), ema.applied(model):
            pass
        assert bits(model) == before
        kept = {name: value.clone() for name, value in ema.average.items()}
        with pytest.raises(ValueError, match=words):
            ema.load_state_dict(ExponentialMovingAverage(model, 0.9).state_dict())
        torch.testing.assert_close(ema.average, kept, rtol=0, atol=0)
