"""Custom ops: where they run, in which thread, in graphs and recordings, and what is refused."""

import threading

import pytest
import torch
from mini_model import mini_predictor
from parity import random_map
from recorded_ops import RecordedOps
from small_video import track

from sam2fast.deploy.compilation import compile_model
from sam2fast.kernels import _custom_ops
from sam2fast.kernels._dispatch import backend_key, current_backend, implementation_of, use_triton
from sam2fast.kernels.memory_attention import memory_attention_reference, rope_attention_reference
from sam2fast.kernels.window_attention import window_attention, window_attention_reference
from sam2fast.research import backend, register_op, unregister_op
from sam2fast.utils.testing import relative_error


@pytest.fixture(autouse=True)
def clean():
    yield
    for name, ops in _custom_ops.registered.items():
        for op in ops:
            unregister_op(op, name)


class Counted:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *arguments):
        self.calls += 1
        return self.function(*arguments)


def rope(d=8, positions=16):
    return random_map(1, 2, positions, d), random_map(positions, d // 2, seed=1), random_map(positions, d // 2, seed=2)


def test_a_video_with_custom_ops(predictor, frames):
    """Each is called wherever the model computes the op, with arguments of its reference implementation."""
    expected = track(predictor, frames[:3])
    own = {
        "memory_attention": Counted(memory_attention_reference),
        "rope_attention": Counted(rope_attention_reference),
        "window_attention": Counted(window_attention_reference),
    }
    for op, implementation in own.items():
        register_op(op, implementation, "mine")
    assert track(predictor, frames[:1]) and not any(o.calls for o in own.values())
    with backend("mine"):
        found = track(predictor, frames[:3])
    layers, blocks = len(predictor.memory_attention.layers), len(predictor.image_encoder.trunk.blocks)
    assert own["memory_attention"].calls == own["rope_attention"].calls == 2 * layers
    assert own["window_attention"].calls >= 3 * blocks
    assert all(relative_error(a, b) < 1e-4 for a, b in zip(expected, found, strict=True))


def test_other_ops_are_as_under_auto(monkeypatch):
    register_op("rope_attention", rope_attention_reference, "mine")
    qkv, bias = random_map(1, 8, 8, 24), random_map(24, seed=1)
    with backend("mine"):
        assert implementation_of("window_attention") is None and not use_triton("window_attention", qkv)
        assert torch.equal(window_attention(qkv, bias, 1, 4), window_attention_reference(qkv, bias, 1, 4, None))


def test_blocks_threads_and_the_variable(monkeypatch):
    """The registration holds for all threads, the block for its own."""
    monkeypatch.delenv("SAM2FAST_BACKEND", raising=False)
    register_op("rope_attention", rope_attention_reference, "mine")
    seen = []

    def look():
        seen.append(current_backend())
        with backend("mine"):
            seen.append(implementation_of("rope_attention"))

    with backend("mine"):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        with backend("torch"):
            assert implementation_of("rope_attention") is None
        assert implementation_of("rope_attention") is rope_attention_reference
    assert seen == ["auto", rope_attention_reference]
    monkeypatch.setenv("SAM2FAST_BACKEND", "mine")
    assert implementation_of("rope_attention") is rope_attention_reference
    unregister_op("rope_attention", "mine")
    with pytest.raises(ValueError, match="SAM2FAST_BACKEND is 'mine'; expected one of auto, torch, triton$"):
        current_backend()


@pytest.mark.parametrize(
    ("op", "implementation", "name", "word"),
    [
        ("attention", rope_attention_reference, "mine", "'attention' .* memory_attention, rope"),
        ("rope_attention", rope_attention_reference, "triton", "'triton' cannot name"),
        ("rope_attention", rope_attention_reference, "", "'' cannot name"),
        ("rope_attention", lambda q, k, v: q, "mine", r"must accept \(query, key, value, cos, sin, num_.* by position"),
        ("rope_attention", lambda *, query, **rest: query, "mine", "must accept"),
        ("rope_attention", "function", "mine", "str"),
        ("rope_attention", rope_attention_reference, "taken", "unregister_op"),
    ],
    ids=["op", "built-in name", "no name", "too few", "by name", "no function", "taken"],
)
def test_refused(op, implementation, name, word):
    register_op("rope_attention", rope_attention_reference, "taken")
    before = _custom_ops.registered
    with pytest.raises(ValueError, match=word):
        register_op(op, implementation, name)
    assert _custom_ops.registered is before
    with pytest.raises(ValueError, match="'mine' has no"):
        unregister_op("rope_attention", "mine")


@torch.inference_mode()
def test_one_graph_with_the_op_in_it():
    """Functions are traced, operators stay one node; graphs have no breaks."""

    @torch.library.custom_op("sam2fast_tests::half_rope", mutates_args=())
    def half_rope(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor,
        num_unrotated_keys: int, dropout_p: float,
    ) -> torch.Tensor:  # fmt: skip
        return rope_attention_reference(query, key, value, cos, sin) / 2

    half_rope.register_fake(lambda query, key, value, *rest: torch.empty_like(value))
    register_op("rope_attention", half_rope, "mine")
    register_op("memory_attention", lambda *a: 2 * memory_attention_reference(*a), "mine")
    plain, model = mini_predictor(), mini_predictor()
    compile_model(model, ["memory_attention"], backend="eager")
    frames = [(random_map(128, 128, 3, seed=i).sigmoid() * 255).byte().numpy() for i in range(3)]
    runs = {}
    for name in ("auto", "mine", "auto", "mine"):
        with backend(name):
            runs[name] = track(plain, frames), track(model, frames)
        for t, (a, b) in enumerate(zip(*runs[name], strict=True)):
            assert relative_error(a, b) < 1e-5, f"{name}, frame {t}"
    assert relative_error(runs["auto"][0][2], runs["mine"][0][2]) > 1e-3


def test_recordings_know_which_op_they_were_made_with(predictor, frames, as_recorded):
    as_recorded()
    runs = []
    for factor in (0.5, 1.0, 0.5):
        register_op("memory_attention", lambda *a, factor=factor: factor * memory_attention_reference(*a), "mine")
        with backend("mine"):
            runs.append(track(predictor, frames[:3]))
            made = RecordedOps.made
            track(predictor, frames[:3])
            assert RecordedOps.made == made
        unregister_op("memory_attention", "mine")
    plain = track(predictor, frames[:3])
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[2], strict=True))
    assert relative_error(runs[1][2], plain[2]) < 1e-5 < relative_error(runs[0][2], plain[2])
    assert backend_key()[:2] == ("auto", 0)
