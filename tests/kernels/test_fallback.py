"""Tests that the reference implementation runs if a kernel does not compile for a GPU, or does not fit on it."""

import logging
import subprocess
from itertools import cycle

import numpy as np
import pytest
import torch
from kernel_checks import FIRST
from video import clip

from sam2fast.kernels import _dispatch, _op
from sam2fast.kernels._dispatch import backend, launches
from sam2fast.kernels._op import OPS
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.utils.testing import relative_error

pytest.importorskip("triton")


def _faults():
    from triton.compiler.errors import CompilationError
    from triton.runtime import errors

    return {
        "too little shared memory": errors.OutOfResources(262144, 101376, "shared memory"),
        "not compiled": CompilationError("def kernel(): ...", None, "unsupported"),
        # Triton 3.2 raises RuntimeError where ptxas fails.
        "not assembled": getattr(errors, "PTXASError", RuntimeError)("`ptxas` failed with error code 255"),
        "a pass of the compiler": RuntimeError("PassManager::run failed"),
        "not launched": RuntimeError("Triton Error [CUDA]: invalid argument"),
        "no launcher": subprocess.CalledProcessError(1, "gcc"),
    }


@pytest.fixture
def auto(monkeypatch, triton_device):
    """The backend ``auto`` tries all kernels, also for CPU tensors. No kernel failed before."""
    monkeypatch.setenv("SAM2FAST_BACKEND", "auto")
    monkeypatch.setattr(_dispatch, "_unsupported_reason", lambda tensors, interpreter: None)
    monkeypatch.setattr(_dispatch, "KERNEL_DEVICES", ("cpu", "cuda"))
    for op in OPS.values():
        monkeypatch.setattr(op, "prefers_torch", lambda *_: False)
    monkeypatch.setattr(_op, "refused", set())
    return triton_device


@pytest.fixture
def launching(monkeypatch):
    """Function that replaces the function that starts kernels."""
    from triton.runtime.interpreter import GridExecutor
    from triton.runtime.jit import JITFunction

    def replace(start):
        monkeypatch.setattr(GridExecutor, "__call__", start)
        monkeypatch.setattr(JITFunction, "run", start)

    return replace


class Faulty:
    """Counts launches. Every launch fails."""

    def __init__(self, error):
        self.error, self.count = error, 0

    def __get__(self, instance, owner):
        return self

    def __call__(self, *args, **kwargs):
        self.count += 1
        raise self.error


def outputs(value):
    return [x for x in torch.utils._pytree.tree_leaves(value) if isinstance(x, torch.Tensor)]


@pytest.mark.parametrize(("name", "fault"), list(zip(FIRST, cycle(_faults()), strict=False)))
@torch.no_grad()
def test_the_reference_computes_after_a_fault(name, fault, auto, launching, caplog):
    """Tests every operator with the next fault. All operators share the function that distinguishes faults."""
    sample = FIRST[name]
    with backend("torch"):
        expected = outputs(sample.function(*sample.arguments()))
    faulty = Faulty(_faults()[fault])
    launching(faulty)
    for _ in range(2):  # the kernel is tried only once
        found = outputs(sample.function(*sample.arguments()))
        for e, f in zip(expected, found, strict=True):
            assert (e.shape, e.dtype) == (f.shape, f.dtype)
            assert relative_error(e.float(), f.float()) <= 1e-5 if e.numel() else True
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert all("does not run on this GPU" in text and str(faulty.error) in text for text in warnings)
    # The reference implementations of filled holes and of the mask downsampler call another kernel.
    calls_another = sample.launches in ("fill_holes_in_mask_scores", "downsample_logits")
    assert faulty.count == len(warnings) == (2 if calls_another else 1)


# The implementation of box_nms is chosen when the operator runs.
@pytest.mark.parametrize("name", ["layer_norm", "box_nms"])
@pytest.mark.parametrize(
    ("forced", "error"),
    [
        ("triton", RuntimeError("PassManager::run failed")),
        ("auto", torch.OutOfMemoryError("no memory")),
        ("auto", RuntimeError("CUDA: out of memory")),
        ("auto", KeyError("block")),
    ],
    ids=str,
)
@torch.no_grad()
def test_other_errors_are_raised(name, forced, error, auto, launching):
    """Tests a fault of a forced kernel, and errors that are no faults of the kernel."""
    launching(Faulty(error))
    with backend(forced), pytest.raises(type(error), match=str(error)):
        FIRST[name].function(*FIRST[name].arguments())
    assert not _op.refused


@torch.no_grad()
def test_an_error_where_no_kernel_runs_is_raised_at_once(monkeypatch, caplog):
    monkeypatch.setenv("SAM2FAST_BACKEND", "auto")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    calls = []

    def fails(x):
        calls.append(x)
        raise RuntimeError("not enough memory")

    with pytest.raises(RuntimeError, match="not enough memory"):
        _op.with_fallback("op", fails)(torch.zeros(1))
    assert len(calls) == 1 and not caplog.records and not _op.refused


@torch.no_grad()
def test_a_kernel_is_refused_for_the_width_that_failed(auto, launching):
    from triton.runtime.interpreter import GridExecutor

    from sam2fast.kernels.layer_norm import layer_norm

    start = GridExecutor.__call__
    narrow, wide = (torch.randn(2, C) for C in (8, 16))

    def launch(x):
        before = launches["layer_norm"]
        layer_norm(x, torch.ones(x.shape[1]), torch.zeros(x.shape[1]), 1e-6)
        return launches["layer_norm"] - before

    launching(Faulty(RuntimeError("PassManager::run failed")))
    assert launch(narrow) == 1 and launch(narrow) == 0
    launching(start)
    assert launch(narrow) == 0 and launch(wide) == 1


SMALL = {"device": "cpu", "hydra_overrides_extra": ["++model.image_size=128"]}


def _images():
    predictor = SAM2ImagePredictor.from_pretrained("sam2fast/nano", **SMALL)
    predictor.set_image(clip(1)[0])
    return predictor.predict(np.array([[60, 40]]), np.array([1]), return_logits=True)


def _video(fast):
    predictor = SAM2VideoPredictor.from_pretrained("sam2fast/nano", **SMALL, fast=fast)
    predictor.warmup(num_objects=2, size=clip(1)[0].shape[:2])
    state = predictor.init_state(clip(3))
    predictor.add_new_points_or_box(state, 0, 1, points=[[60, 40]], labels=[1])
    predictor.add_new_points_or_box(state, 1, 2, box=[20, 20, 70, 60])
    return [logits for _, _, logits in predictor.propagate_in_video(state)]


@pytest.mark.parametrize(
    "compute", [_images, lambda: _video(None), lambda: _video(True)], ids=["image", "video", "recorded"]
)
def test_with_no_kernel_that_runs(compute, auto, launching):
    """Images, sessions, recorded steps and warm-up give what the reference implementations give."""
    with backend("torch"):
        expected = compute()
    launching(Faulty(RuntimeError("PassManager::run failed")))
    found = compute()
    assert {key[0] for key in _op.refused} >= {"window_attention", "layer_norm"}
    for e, f in zip(expected, found, strict=True):
        assert relative_error(torch.as_tensor(e), torch.as_tensor(f)) < 1e-4
