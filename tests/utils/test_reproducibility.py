"""Reproducible results, and settings that are restored."""

import hashlib
import os
import random
import subprocess
import sys
import warnings

import click.testing
import moving_shapes
import numpy as np
import pytest
import torch
from mini_model import mini_predictor

from sam2fast.cli import main
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.utils.reproducibility import WORKSPACE, WORKSPACE_VARIABLE, deterministic, seed_everything


def draws() -> tuple:
    return random.random(), np.random.rand(), torch.rand(1).item(), np.random.standard_normal(), torch.randn(1).item()


def switches() -> dict:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return {
        "benchmark": cudnn.benchmark,
        "deterministic": cudnn.deterministic,
        "cudnn tf32": cudnn.allow_tf32,
        "tf32": torch.get_float32_matmul_precision(),
        "bf16 sums": matmul.allow_bf16_reduced_precision_reduction,
        "fp16 sums": matmul.allow_fp16_reduced_precision_reduction,
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "workspace": os.environ.get(WORKSPACE_VARIABLE),
    }


INSIDE = dict.fromkeys(("benchmark", "cudnn tf32", "bf16 sums", "fp16 sums", "warn only", "fill"), False)
INSIDE |= {"deterministic": True, "algorithms": True, "tf32": "highest", "workspace": WORKSPACE}


def test_seeds():
    seed_everything(7)
    first = draws()
    assert draws() != first
    seed_everything(7)
    assert draws() == first
    seed_everything(8)
    assert all(a != b for a, b in zip(draws(), first, strict=True))
    seed_everything(2**63)  # NumPy's are shorter
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match=f"the seed is {seed}; expected 0"):
            seed_everything(seed)


@pytest.fixture
def others(monkeypatch):
    """Settings that all differ from those inside the block."""
    monkeypatch.delenv(WORKSPACE_VARIABLE, raising=False)
    before = switches()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = True, True
    torch.set_float32_matmul_precision("high")
    yield switches()
    torch.set_float32_matmul_precision(before["tf32"])
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = before["benchmark"], before["cudnn tf32"]


def test_settings_are_restored(others):
    assert not any(others[name] == value for name, value in INSIDE.items() if name != "algorithms")
    with deterministic():
        assert switches() == INSIDE
        with deterministic(warn_only=True):
            assert switches() == INSIDE | {"warn only": True}
        assert switches() == INSIDE
    assert switches() == others
    with pytest.raises(KeyError), deterministic():
        raise KeyError
    assert switches() == others


def test_the_users_workspace_stays(monkeypatch):
    monkeypatch.setenv(WORKSPACE_VARIABLE, ":16:8")
    with deterministic():
        assert os.environ[WORKSPACE_VARIABLE] == ":16:8"
    assert os.environ[WORKSPACE_VARIABLE] == ":16:8"


def test_cuda_initialised_without_a_workspace(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.delenv(WORKSPACE_VARIABLE, raising=False)
    with pytest.warns(UserWarning, match="before Python starts"), deterministic():
        pass
    monkeypatch.setenv(WORKSPACE_VARIABLE, WORKSPACE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with deterministic():
            pass


IN_A_NEW_PROCESS = """
import os, sys
before = dict(os.environ)
from sam2fast.utils.reproducibility import deterministic, seed_everything
assert "torch" not in sys.modules and "numpy" not in sys.modules and dict(os.environ) == before
seed_everything(1)
import torch
assert not torch.cuda.is_initialized() and not torch.are_deterministic_algorithms_enabled()
matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
if hasattr(matmul, "fp32_precision"):  # this version of torch has switches of another name
    matmul.fp32_precision = "tf32"
    before = matmul.fp32_precision, conv.fp32_precision
    with deterministic():
        assert (matmul.fp32_precision, conv.fp32_precision) == ("ieee", "ieee")
    assert (matmul.fp32_precision, conv.fp32_precision) == before == ("tf32", "tf32")
"""


def test_the_commands_option():
    """It holds for the whole command."""
    seen = []

    @click.command()
    def look() -> None:
        seen.append(switches())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sam2fast.cli._CommandGroup.get_command", lambda self, ctx, name: look)
        before = switches()
        for arguments, expected in ((["--deterministic", "look"], INSIDE), (["look"], before)):
            assert click.testing.CliRunner().invoke(main, arguments).exit_code == 0
            assert seen.pop() == expected
        assert switches() == before


def digest() -> str:
    """Logits and scores of an image and of a tracked video, by a model with random weights."""
    found = hashlib.sha256()
    with deterministic():
        predictor, frames = mini_predictor(), moving_shapes.make_frames(4)
        images = SAM2ImagePredictor(predictor)
        images.set_image(frames[0])
        for part in images.predict(np.array([[16, 19]]), np.array([1]), return_logits=True):
            found.update(np.ascontiguousarray(part).tobytes())
        state = predictor.init_state(frames)
        predictor.add_new_points_or_box(state, 0, 1, points=[[16, 19]], labels=[1])
        predictor.add_new_points_or_box(state, 1, 2, box=[42, 26, 58, 42])
        for _, _, masks, scores in predictor.propagate_in_video(state, progress=False, return_scores=True):
            for part in (masks, *scores):
                found.update(part.numpy().tobytes())
    return found.hexdigest()


def test_the_same_bits_in_two_processes():
    """No operation lacks a deterministic algorithm, and no random number is used.

    In the other process, imports have no side effects, and torch's new settings work; torch does not allow mixing its
    old and new ones.
    """
    before = torch.get_rng_state()
    first = digest()
    torch.set_rng_state(before)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "12345"}
    code = f"""{IN_A_NEW_PROCESS}
import importlib.util
torch.rand(3)
torch.set_num_threads({torch.get_num_threads()})
spec = importlib.util.spec_from_file_location("bits", {__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.digest())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.split() == [first], done.stderr
