"""Attention maps against the op: its weights, its memories by name, and no side effects."""

import pytest
import torch
from mini_model import OVERRIDES
from recorded_ops import CalledAgain, recorded_by
from small_video import track
from tame_weights import fill

from sam2fast import nano
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.deploy.compilation import compile_model
from sam2fast.engine import engine_for
from sam2fast.kernels.memory_attention import memory_attention
from sam2fast.kernels.memory_attention.reference import project_values
from sam2fast.modeling.compiled import CompiledMethod
from sam2fast.research import attention_maps, backend, register_op, unregister_op
from sam2fast.research.attention_maps import attention_operands
from sam2fast.utils.testing import relative_error


@pytest.fixture(scope="module")
def two_heads():
    heads = "++model.memory_attention.layer.cross_attention.num_heads=2"
    built = build_sam2_video_predictor(nano.CONFIG, None, device="cpu", hydra_overrides_extra=[*OVERRIDES, heads])
    return fill(built, 0)


@pytest.fixture
def spied():
    """Arguments and result of each call of the op, as it runs."""
    calls = []

    def spy(*arguments):
        with backend("auto"):
            calls.append((arguments, memory_attention(*arguments)))
        return calls[-1][1]

    register_op("memory_attention", spy, "spy")
    with backend("spy"):
        yield calls
    unregister_op("memory_attention", "spy")


@pytest.mark.parametrize("model", ["nano", "two heads"])
@torch.inference_mode()
def test_weights_times_values_are_the_ops_result(model, predictor, two_heads, frames, spied):
    tracker = two_heads if model == "two heads" else predictor
    heads = tracker.memory_attention.layers[0].cross_attn_image.num_heads
    found = []
    for head in range(heads):
        spied.clear()
        with attention_maps(tracker, head=head, per_token=True) as maps:
            track(tracker, frames[:4])
        found.append(maps)
    layers = len(tracker.memory_attention.layers)
    assert len(found[0]) == 2 * layers * 3 and len(spied) == layers * 3
    for call, (arguments, expected) in enumerate(spied):
        for b in range(2):
            value = attention_operands(b, *arguments).value
            attended = torch.cat([arguments[1].page_table[b] >= 0, arguments[1].pointer_valid[b]])
            tokens = attended[: -len(arguments[1].pointer_valid[b])].repeat_interleave(arguments[1].pages.shape[1])
            tokens = torch.cat([tokens, arguments[1].pointer_valid[b]])
            means = []
            for head, maps in enumerate(found):
                m = maps[2 * call + b]
                assert (m.obj_id, m.layer, m.frame) == (("disc", "square")[b], call % layers, 1 + call // layers)
                torch.testing.assert_close(m.weights.sum(dim=1), torch.ones(len(m.weights)))
                means.append(m.weights @ value[head, tokens])
            result = project_values(torch.stack(means)[None], *arguments[4:6])[0]
            assert relative_error(expected[b], result) < 1e-5


def test_memories_are_named(predictor, frames):
    with attention_maps(predictor, layers=[1]) as maps:
        track(predictor, frames)
    last = maps[-1]
    assert (last.frame, last.obj_id, last.layer, last.head) == (9, "square", 1, 0)
    assert [(c.kind, c.frame, c.distance) for c in last.columns] == [
        ("conditioning", 0, 9),
        *(("tracked", t, 9 - t) for t in range(3, 9)),
        ("pointer", 0, 9),
        *(("pointer", t, 9 - t) for t in (8, 7, 6, 5)),
    ]
    ends = [c.tokens.stop for c in last.columns]
    assert ends == [64 * (i + 1) for i in range(7)] + [64 * 7 + 2 * (i + 1) for i in range(5)]
    assert last.weights.shape == (64, 12) and last.queries.tolist()[9] == [1, 1]
    assert sum(last.shares()) == pytest.approx(1)


def test_sums_and_single_queries_are_of_the_same_weights(predictor, frames):
    found = []
    for arguments in ({}, {"per_token": True}, {"queries": [(2, 3), (0, 0)]}):
        with attention_maps(predictor, layers=[2], frames=[3], obj_ids=["square"], **arguments) as maps:
            track(predictor, frames[:5])
        found += maps
    summed, whole, two = found
    sums = torch.stack([whole.weights[:, c.tokens].sum(dim=1) for c in whole.columns], dim=1)
    torch.testing.assert_close(summed.weights, sums)
    torch.testing.assert_close(two.weights, summed.weights[[2 * 8 + 3, 0]])
    assert whole.shares() == pytest.approx(summed.shares(), abs=1e-6)
    whole.weights.mul_(2)  # a normal tensor


def test_nothing_else_changes(predictor, frames, expected):
    with attention_maps(predictor) as maps:
        found = track(predictor, frames, max_frame_num_to_track=3)
    assert maps and all(torch.equal(a, b) for a, b in zip(expected[:4], found, strict=True))
    count = len(maps)
    track(predictor, frames[:2])
    assert len(maps) == count


def test_recorded_steps_are_bypassed_and_kept(predictor, frames, monkeypatch):
    expected = track(predictor, frames[:4])
    recorded_by(monkeypatch, CalledAgain)
    predictor.fast = True
    track(predictor, frames[:4])
    (steps,) = predictor._tracker.steps._idle
    calls = {**steps._calls}
    with pytest.raises(RuntimeError, match="enough"), attention_maps(predictor) as maps:
        assert not predictor._tracker.uses_recordings
        found = track(predictor, frames[:4])
        raise RuntimeError("enough")
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True)) and len(maps) == 2 * 3 * 3
    assert predictor.fast is True and predictor.selection_watch is None
    assert engine_for(predictor).attend_hook is None
    track(predictor, frames[:4])
    assert (
        steps._calls == calls != {}
        and [*predictor._tracker.steps._idle] == [steps]
        and predictor._tracker.uses_recordings
    )


def test_compiled_attention_is_bypassed(predictor, frames):
    compile_model(predictor, ["memory_attention"], backend="eager")
    compiled = predictor.memory_attention.forward
    with attention_maps(predictor) as maps:
        track(predictor, frames[:2])
    assert len(maps) == 6 and predictor.memory_attention.forward is compiled and isinstance(compiled, CompiledMethod)


def test_corrections_and_streams(predictor, frames):
    with attention_maps(predictor, layers=[0]) as maps, predictor.open_stream() as stream:
        stream.step(frames[0])
        stream.add_new_points_or_box("disc", [[30, 40]], [1])
        stream.step(frames[1])
        stream.add_new_points_or_box("disc", [[33, 41]], [1])
        stream.step(frames[2])
    assert [(m.obj_id, m.frame, [c.frame for c in m.columns if c.kind != "pointer"]) for m in maps] == [
        ("disc", 1, [0]),
        ("disc", 1, [0]),
        ("disc", 2, [0, 1]),
    ]


def test_a_changed_module_is_refused(predictor, frames):
    handle = predictor.memory_attention.layers[1].norm2.register_forward_hook(lambda *args: None)
    try:
        with pytest.raises(RuntimeError, match="a module was hooked"), attention_maps(predictor):
            track(predictor, frames)
    finally:
        handle.remove()


def test_too_much_is_refused_before_it_is_computed(predictor, frames):
    state = predictor.init_state(frames[:4])
    predictor.add_new_points_or_box(state, 0, 1, [[30, 40]], [1])
    word = "64 x 66 weights .* 16,896 bytes"
    with attention_maps(predictor, per_token=True, max_bytes=9000) as maps, pytest.raises(ValueError, match=word):
        list(predictor.propagate_in_video(state, progress=False))
    assert not maps and not state.objects[1].tracked
    list(predictor.propagate_in_video(state, progress=False))
    assert len(state.objects[1].tracked) == 3


@pytest.mark.parametrize(
    ("arguments", "word"), [({"layers": [3]}, "layer 3"), ({"head": 1}, "head 1"), ({"queries": [(0, 8)]}, "8 x 8")]
)
def test_refused(predictor, arguments, word):
    with pytest.raises(ValueError, match=word), attention_maps(predictor, **arguments):
        pass
    assert predictor.selection_watch is None
    with attention_maps(predictor), pytest.raises(RuntimeError, match="already collects"), attention_maps(predictor):
        pass
