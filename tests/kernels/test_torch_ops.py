"""Tests ops that the environment variable SAM2FAST_TORCH_OPS leaves to torch."""

from collections import Counter

import fake_cuda
import pytest
import torch
from fake_cuda import steady_frames

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.kernels import _op
from sam2fast.kernels._dispatch import backend, backend_key, why_no_triton
from sam2fast.kernels.layer_norm import layer_norm
from sam2fast.kernels.mlp import mlp

NANO = "configs/nano/sam2fast_nano.yaml"
GIVEN = torch.zeros(1, 8), torch.zeros(8), torch.zeros(8), 1e-6


@pytest.mark.parametrize("names", ["layer_norm", " mlp , layer_norm,"])
def test_listed_ops_use_no_kernel(monkeypatch, names):
    monkeypatch.setattr(_op._dispatch, "KERNEL_DEVICES", ("cpu",))
    monkeypatch.setattr(_op._dispatch, "_unsupported_reason", lambda tensors, interpreter: None)
    before = backend_key()
    assert layer_norm.uses_kernel(*GIVEN)
    monkeypatch.setenv("SAM2FAST_TORCH_OPS", names)
    assert not layer_norm.uses_kernel(*GIVEN) and backend_key() != before
    with backend("triton"), pytest.raises(RuntimeError, match="layer_norm is in SAM2FAST_TORCH_OPS; use 'auto'"):
        layer_norm(*GIVEN)


def test_ops_of_one_kernel_share_its_name(monkeypatch):
    monkeypatch.setenv("SAM2FAST_TORCH_OPS", "layer_norm")
    with backend("triton"), pytest.raises(RuntimeError, match="is in SAM2FAST_TORCH_OPS"):
        _op.OPS["add_layer_norm"].uses_kernel(GIVEN[0], *GIVEN)


def test_unknown_names_raise_an_error(monkeypatch):
    monkeypatch.setenv("SAM2FAST_TORCH_OPS", "mlp,layernorm")
    with pytest.raises(ValueError, match="SAM2FAST_TORCH_OPS has layernorm; expected names of ops.*: add_layer_norm, "):
        layer_norm(*GIVEN)
    assert mlp.name == "mlp"


def kernels_of(names, monkeypatch, **options):
    """Returns the kernels that track four frames, and the number of graph replays."""
    monkeypatch.setenv("SAM2FAST_TORCH_OPS", names)
    with fake_cuda.fake_cuda() as cuda:
        shallow = {"hydra_overrides_extra": fake_cuda.SHALLOW}
        predictor = fake_cuda.build(build_sam2_video_predictor, NANO, **shallow, **options)
        frames = steady_frames(cuda, predictor, 1, 4)
        why = why_no_triton(fake_cuda.GPU)
    parts = [seen.launches for frame in frames for seen in (frame, *frame.replayed)]
    found = {name for name in sum(parts, Counter()) if name.endswith("_kernel")}
    return found, sum(frame.replays for frame in frames), why


def test_graphs_remain_without_some_kernels(monkeypatch):
    every, replays, _ = kernels_of("", monkeypatch)
    fewer, same, why = kernels_of("window_attention,layer_norm", monkeypatch)
    assert replays == same > 0 and why is None
    assert every - fewer == {"_window_attention_kernel", "_add_layer_norm_kernel"} and not fewer - every


def test_graphs_need_the_kernel_that_fills_holes(monkeypatch):
    kernels, replays, why = kernels_of("fill_holes_in_mask_scores", monkeypatch, fill_hole_area=8)
    assert replays == 0 and "connected components wait for the device" in why and "_attend_kernel" in kernels
