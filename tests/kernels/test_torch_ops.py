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
from sam2fast.tracking.propagation import FRAMES_AT_ONCE_ON_CUDA

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


def test_compiled_functions_use_no_listed_kernel(monkeypatch):
    monkeypatch.setenv("SAM2FAST_TORCH_OPS", "layer_norm")
    compiled = torch.compile(layer_norm, backend="eager", fullgraph=True)
    assert torch.equal(compiled(*GIVEN), layer_norm(*GIVEN))


@pytest.fixture(scope="module")
def made():
    """Returns a fake GPU and a small predictor on it."""
    with fake_cuda.fake_cuda() as mode:
        shallow = {"hydra_overrides_extra": fake_cuda.SHALLOW}
        return mode, fake_cuda.build(build_sam2_video_predictor, NANO, **shallow)


@pytest.fixture
def kernels_of(made, monkeypatch):
    """Returns a function that tracks frames. The function returns the kernels and the number of graph replays."""
    with fake_cuda.fake_cuda(made[0]) as cuda:

        def track(names):
            monkeypatch.setenv("SAM2FAST_TORCH_OPS", names)
            frames = steady_frames(cuda, made[1], 1, FRAMES_AT_ONCE_ON_CUDA)
            parts = [seen.launches for frame in frames for seen in (frame, *frame.replayed)]
            kernels = {name for name in sum(parts, Counter()) if name.endswith("_kernel")}
            return kernels, sum(frame.replays for frame in frames)

        yield track
        made[1].release_recordings()


def test_graphs_remain_without_some_kernels(kernels_of):
    """Recordings with these kernels are not replayed."""
    every, replays = kernels_of("")
    fewer, same = kernels_of("window_attention,layer_norm")
    assert replays == same > 0 and why_no_triton(fake_cuda.GPU) is None
    assert every - fewer == {"_window_attention_kernel", "_add_layer_norm_kernel"} and not fewer - every


def test_graphs_need_the_kernel_that_fills_holes(kernels_of):
    kernels, replays = kernels_of("fill_holes_in_mask_scores")
    assert replays == 0 and "connected components wait for the device" in why_no_triton(fake_cuda.GPU)
    assert "_attend_kernel" in kernels
