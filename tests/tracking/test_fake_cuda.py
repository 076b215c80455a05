"""The whole CUDA branch of the video predictor, on tensors that only say that they are on a GPU."""

import contextlib
import gc
import operator
from collections import Counter
from itertools import product

import fake_cuda
import numpy as np
import pytest
import torch
from fake_cuda import steady_frames, steady_steps
from frame_costs import _cost, frame_costs
from graph_sessions import failures
from torch.utils._pytree import tree_leaves

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.engine import Parts, by_modules, engine_for, static
from sam2fast.engine.graphs import AHEAD, AWAITED
from sam2fast.engine.replay import graph_calls_of
from sam2fast.tracking import step, step_runner, tracker
from sam2fast.tracking.memory_bank import StepTables
from sam2fast.tracking.propagation import FRAMES_AT_ONCE_ON_CUDA
from sam2fast.video_io import open_frames

NANO, TINY = "configs/nano/sam2fast_nano.yaml", "configs/sam2.1/sam2.1_hiera_t.yaml"
FRAME = np.zeros((90, 120, 3), np.uint8)


@pytest.fixture(scope="module")
def made():
    """A device and a small predictor on it."""
    with fake_cuda.fake_cuda() as mode:
        return mode, fake_cuda.build(build_sam2_video_predictor, NANO, hydra_overrides_extra=fake_cuda.SHALLOW)


@pytest.fixture
def cuda(made):
    with fake_cuda.fake_cuda(made[0]) as mode:
        yield mode


@pytest.fixture
def predictor(cuda, made):
    yield made[1]
    made[1].release_recordings()


def check(predictor, found, *allowed, at_once=FRAMES_AT_ONCE_ON_CUDA):
    """Each frame took a step, each ``at_once`` frames an encoding of this size, all recorded, and none waited."""
    assert found and not failures(predictor)
    encoded = [graph.encoded for seen in found for graph in seen.replayed if graph.encoded]
    assert encoded == [[at_once]] * (len(found) // at_once) and not any(seen.encoded for seen in found)
    assert sum(seen.replays for seen in found) == len(found) + len(encoded)
    for seen in found:
        seen.check(*allowed)


def check_steps(predictor, found, *allowed):
    """Frames of a stream: each took a step and an encoding."""
    check(predictor, found, *allowed, at_once=1)


def test_steady_frames(cuda, predictor):
    assert predictor._tracker.steps.why_eager() is None
    for output in ("logits", "bool", "bits", "low_res"):
        check(predictor, steady_frames(cuda, predictor, 1, 4, output=output))
    check_steps(predictor, steady_steps(cuda, predictor, 1, 2))


def test_steps_run_before_frames_that_are_encoded_ahead(cuda, predictor):
    """A lower number is a higher priority. Others use priority 0. Each fourth step is followed by an encoding."""
    replayed = [graph for seen in steady_frames(cuda, predictor, 1, 8) for graph in seen.replayed]
    assert [graph.priority for graph in replayed] == 2 * [*4 * [AWAITED], AHEAD] and AWAITED < AHEAD < 0
    assert all((graph.priority == AHEAD) == bool(graph.encoded) for graph in replayed)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("samurai", "d4sm", "confident")]


@pytest.mark.parametrize("strategy", ["together", *SLOW])
def test_strategies(cuda, predictor, strategy):
    """What they wait for was begun by the frame before."""
    predictor.strategy = strategy
    check(predictor, steady_frames(cuda, predictor, 3, 4))
    check_steps(predictor, steady_steps(cuda, predictor, 3, 1))
    predictor.strategy = "sam2"


def test_recordings_compute_from_plans(cuda, predictor, monkeypatch):
    """Of all four parts."""
    called = []
    methods = ("Attention", "attend"), ("Masks", "track"), ("Memory", "encode_memory")
    for part, name in methods:
        cls = getattr(by_modules, f"{part}ByModules")
        monkeypatch.setattr(cls, name, lambda *given, name=name: called.append(name))
    encode = static.encode
    monkeypatch.setattr(static, "encode", lambda *given: called.append("image") or encode(*given))
    predictor.release_recordings()
    check(predictor, steady_frames(cuda, predictor, 2, 4))
    assert set(called) == {"image"}
    with torch.no_grad():
        assert engine_for(predictor).parts() == Parts(True, True, True, True)


def test_hypotheses(cuda, predictor):
    """Each frame ends with the one wait for the hypotheses that go on. A pass is tracked before it is yielded."""
    predictor.strategy = "sam2long"
    check_steps(predictor, steady_steps(cuda, predictor, 3, 2), ("waits", "async_copies.py"))
    steady_frames(cuda, predictor, 3, 2)[-1].check()
    predictor.strategy = "sam2"


def test_late_answers(cuda, predictor):
    check(predictor, steady_frames(cuda, predictor, 3, 4, lag=2, return_scores=True))


def encoded_in_pass(predictor, monkeypatch, length, reverse, prompted=(), correct=lambda state, frame: None, **options):
    """Returns the frames of each batch that a pass encodes, without frames that corrections between them encode."""
    state, start = predictor.init_state(fake_cuda.frames(1) * length), length - 1 if reverse else 0
    for t in {start, *prompted}:
        predictor.add_new_points_or_box(state, t, 1, [[20.0, 40.0]], [1])
    batches, encode = [], predictor._tracker.steps.encode

    def noted(frames, indices, *how):
        batches.append(list(indices))
        return encode(frames, indices, *how)

    monkeypatch.setattr(predictor._tracker.steps, "encode", noted)
    state.features.clear()
    for frame, *_ in predictor.propagate_in_video(state, start, reverse=reverse, progress=False, **options):
        before = len(batches)
        correct(state, frame)
        del batches[before:]
    monkeypatch.undo()
    return batches


PROMPTED = (3, 4, 5, 13)


@pytest.mark.parametrize(
    ("ahead", "reverse", "prompts"),
    [(None, False, PROMPTED), (None, True, ()), *product((1, 2, 4, 8), (0, 1), ((), PROMPTED))],
)
def test_a_pass_encodes_each_frame_once(cuda, predictor, monkeypatch, ahead, reverse, prompts):
    """In full batches until the end, in short videos, over prompted frames, and between corrections."""

    def correct(state, frame):
        done = [t for t in range(20) if frame in (6, 12) and t != frame and (t > frame) == reverse]
        for t in (*done[:5], *([frame] if done else [])):
            predictor.add_new_points_or_box(state, t, 1, [[30.0, 40.0]], [1], clear_old_points=False)

    options = {} if ahead is None else {"encode_ahead": ahead}
    for length, prompted, change in ((20, prompts, correct), (3, (), None)):
        given = {"correct": change} if change else {}
        found = encoded_in_pass(predictor, monkeypatch, length, reverse, prompted, **given, **options)
        tracked = {*range(length)} - {length - 1 if reverse else 0, *prompted}
        batches = [batch for batch in found if tracked & {*batch}]  # others encode memories of prompts
        assert sorted(t for batch in batches for t in batch) == sorted(tracked)
        # All batches are full, except at the end of the video.
        assert len(batches) <= len(tracked) / (ahead or 4) + 2


def rows_of_pass(cuda, predictor, length, **options):
    """Returns the number of images in each encoding of a pass, with rows that pad a batch."""
    state = predictor.init_state([FRAME] * length)
    predictor.add_new_points_or_box(state, 0, 1, [[20.0, 40.0]], [1])
    with cuda.watched() as seen:
        for _ in predictor.propagate_in_video(state, progress=False, **options):
            pass
    return [rows for graph in seen.replayed for rows in graph.encoded]


def test_the_last_frames_record_no_other_batch(cuda, predictor):
    """They are padded to the size of the batches before, unless their own size is recorded: one, by prompts."""
    predictor.release_recordings()
    for length, rows in ((6, [4, 1]), (7, [4, 4]), (3, [4])):
        assert rows_of_pass(cuda, predictor, length) == rows
    assert {batch for (_, batch), *_ in graph_calls_of(predictor, ahead=True)._calls} == {1, 4}
    for rows in ([2, 2, 1], [2, 2, 2]):  # smaller batches are not padded to the larger ones of earlier passes
        assert rows_of_pass(cuda, predictor, 1 + sum(rows), encode_ahead=2) == rows


def test_frames_that_are_not_encoded_do_not_fill_a_batch(cuda, predictor):
    """Batches of new frames keep their size."""
    predictor.release_recordings()
    noise = fake_cuda.frames(9)
    predictor.approximations = "still_frames=0.01"
    state = predictor.init_state([noise[t // 2] for t in range(17)])
    predictor.approximations = None
    predictor.add_new_points_or_box(state, 0, 1, [[20.0, 40.0]], [1])
    with cuda.watched() as seen:
        for _ in predictor.propagate_in_video(state, progress=False):
            pass
    assert [rows for graph in seen.replayed for rows in graph.encoded] == [2, 2, 2, 2]


def test_an_abandoned_pass_keeps_no_upcoming_frames(cuda, predictor):
    """The next encoding evicts them."""
    state = predictor.init_state([FRAME] * 30)
    predictor.add_new_points_or_box(state, 0, 1, [[20.0, 40.0]], [1])
    passing = predictor.propagate_in_video(state, progress=False)
    for _ in range(3):
        next(passing)
    assert len(state.features.kept) > 4
    passing.close()
    predictor.add_new_points_or_box(state, 20, 1, [[20.0, 40.0]], [1])
    assert len(state.features.kept) == 4


def test_batches_without_recordings_encode_each_frame_once(cuda, predictor, monkeypatch):
    monkeypatch.setattr(type(predictor), "fast", False)

    def correct(state, frame):
        for t in range(max(0, frame - 5), frame) if frame == 6 else ():
            predictor.add_new_points_or_box(state, t, 1, [[30.0, 40.0]], [1], clear_old_points=False)

    found = encoded_in_pass(predictor, monkeypatch, 18, False, correct=correct, encode_ahead=4)
    assert sorted(t for batch in found for t in batch) == [*range(18)] and len(found) <= 7


def test_frames_that_archive_pages(cuda, predictor, monkeypatch):
    """In small pools, which are soon full: then several pages of each pool move to the CPU by one copy."""
    monkeypatch.setattr(step_runner, "OBJECTS_AT_ONCE", 1)
    found = steady_frames(cuda, predictor, 3, 32)
    check(predictor, found)
    more = [sum(not copy.to_device for copy in seen.copies) - 1 for seen in found]
    assert max(more) == 2 and 0 in more[-8:], "one copy of memories, one of pointers, and not on every frame"


def test_frames_are_uploaded_from_the_cache(cuda, made, monkeypatch):
    """They are pinned there, and nothing copies them on the host. Others are pinned first, as of a stream."""
    pixels = open_frames([FRAME] * 2, made[1].image_size, device=fake_cuda.GPU).pixels(1)
    other, made_here = pixels.flip(0), []
    monkeypatch.setattr(
        torch, "empty_like", lambda x, empty=torch.empty_like, **k: made_here.append(x) or empty(x, **k)
    )
    for frames, copied in (([pixels], []), ([pixels, other], [other] * 3)):
        with cuda.watched() as seen:
            assert step_runner._uploaded(frames, 4, fake_cuda.GPU).shape == (4, *pixels.shape)
        seen.check()
        assert [copy.bytes for copy in seen.copies] == [pixels.numel()] * 4 and not pixels.is_cuda
        assert len(made_here) == len(copied) and all(map(operator.is_, made_here, copied))
    assert pixels.is_pinned() and not other.is_pinned()
    uploaded = step_runner._uploaded([pixels, other], 4, torch.device("cpu"))
    assert torch.equal(uploaded, torch.stack([pixels, other, other, other]))


def test_clicks_and_boxes_wait_for_their_answers_alone(cuda, predictor):
    """All that a prompt needs is begun before its mask is read, which is kept on the CPU."""
    state = predictor.init_state([FRAME] * 3)
    click, box = {"points": [[20.0, 40.0]], "labels": [1]}, {"box": [10, 10, 60, 50]}
    for t, prompt in ((0, click), (0, click), (1, click | box), (1, click)):
        if t == 1 and "box" in prompt:
            for _ in predictor.propagate_in_video(state, progress=False):
                pass
        with cuda.watched() as seen:
            predictor.add_new_points_or_box(state, t, 1, **prompt)
        first, *rest = seen.faults
        assert first.kind == "waits" and first.place.startswith("sam2fast/utils/async_copies.py:")
        assert all("/async_copies.py:" in fault.place or " masks_of: " in fault.place for fault in rest)


class RecordedCasts(fake_cuda.FakeCuda):
    """Also notes how many numbers each weight has that a recording casts to bfloat16."""

    def __init__(self):
        super().__init__()
        self.weights, self.cast = set(), []

    def _on_device(self, func, args, kwargs, tensors):
        is_cast = func is torch.ops.aten._to_copy.default and kwargs.get("dtype") == torch.bfloat16
        if self.graph is not None and is_cast and id(args[0]) in self.weights:
            self.cast.append(args[0].numel())
        return super()._on_device(func, args, kwargs, tensors)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_autocast_casts_no_weights_on_every_frame(dtype):
    """Plans keep them cast. Tiny, at its 1024 pixels."""
    mode = RecordedCasts()
    with fake_cuda.fake_cuda(mode):
        predictor = fake_cuda.build(build_sam2_video_predictor, TINY, dtype=dtype)
        mode.weights = {id(weight) for weight in predictor.parameters()}
        with torch.autocast("cuda", torch.bfloat16, enabled=dtype is None):
            check(predictor, steady_frames(mode, predictor, 1, 4))
        if dtype is not None:
            check_steps(predictor, steady_steps(mode, predictor, 3, 1))
    assert mode.cast == []


def test_tables_have_to_be_pinned(cuda, predictor, monkeypatch):
    integers = StepTables.integers
    monkeypatch.setattr(StepTables, "integers", lambda shape, tables, pinned=False: integers(shape, tables))
    seen, *_ = steady_frames(cuda, predictor, 1, 1)
    (fault,) = seen.faults
    assert fault.kind == "pageable copy" and fault.place.startswith("sam2fast/engine/replay.py:")
    with pytest.raises(AssertionError, match=r"replay\.py:\d+ _copy: x\.copy_"):
        seen.check()


def test_copies_of_frames(cuda, predictor, monkeypatch):
    """A batch of images, the tables and the results of each frame, all in buffers that earlier copies do not use."""
    hosts, check_copy = [], cuda._check_copy

    def noted(func, name, args, kwargs):
        hosts.extend(x for x in args[:2] if isinstance(x, torch.Tensor) and not x.is_cuda)  # held: no address returns
        return check_copy(func, name, args, kwargs)

    monkeypatch.setattr(cuda, "_check_copy", noted)
    found = steady_frames(cuda, predictor, 3, 8)
    copies = [copy for seen in found for copy in seen.copies]
    up = [copy.bytes for copy in copies if copy.to_device]
    image = 3 * predictor.image_size**2
    assert len(up) == 8 + 8 and up.count(image) == 8 and len(copies) - len(up) == 8
    pinned = [x.untyped_storage().data_ptr() for x in hosts if cuda.is_pinned(x)]
    assert len(pinned) > 20 and len({*pinned}) == len(pinned)


def test_a_session_on_another_stream(cuda, predictor, monkeypatch):
    """It takes over tensors that were made on the stream of the session before, and may be freed by anybody."""
    steady_frames(cuda, predictor, 1, 4)
    gc.collect()
    (place,) = predictor._tracker.steps._idle
    made = [*place._inputs.values(), *(x for x in place.tensors if x is not None)]
    used, other = [], fake_cuda.Stream()
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: used.append((self, stream)))
    with torch.cuda.stream(other):
        steady_frames(cuda, predictor, 1, 4)
    of_steps = [x for x, stream in used if stream is other and any(x is one for one in made)]
    assert len(made) > 4 and len(of_steps) == len(made), "each once"


def test_a_frame_takes_few_pinned_buffers(cuda, predictor, monkeypatch):
    """Torch 2.13 empties its cache of them at each recording: then the next frame pays for that many."""
    state = predictor.init_state([FRAME] * 8)
    predictor.add_new_points_or_box(state, 0, 1, [[20.0, 40.0]], [1])
    frames = predictor.propagate_in_video(state, progress=False)
    for _ in range(fake_cuda.SETTLING + 1):
        next(frames)
    for _ in range(3):
        before = len(cuda._pinned)
        next(frames)
        assert len(cuda._pinned) - before <= 3, "the frame, the tables and the results"


def wait_for_an_event(masks):
    event = torch.cuda.Event()
    event.record()
    event.synchronize()


def add_of_the_cpu(masks):
    return masks + torch.zeros(masks.shape, device="cpu")


# Each is given masks on the device.
FAULTS = {
    "item": ("reads a value", lambda masks: masks[0, 0, 0, 0].item()),
    "bool": ("reads a value", lambda masks: 1 if (masks > 0).any() else 0),
    "tolist": ("reads a value", lambda masks: masks[0, 0, 0, :2].tolist()),
    "equal": ("reads a value", lambda masks: torch.equal(masks, masks + 1)),
    "nonzero": ("shape by values", lambda masks: masks.nonzero()),
    "masked": ("shape by values", lambda masks: masks[masks > 0]),
    "mixed": ("mixed devices", add_of_the_cpu),
    "index": ("mixed devices", lambda masks: masks[torch.tensor([0], device="cpu")]),
    "to the CPU": ("blocking copy", lambda masks: masks.cpu()),
    "to the GPU": ("blocking copy", lambda masks: torch.zeros(3, device="cpu").to(masks.device)),
    "made there": ("blocking copy", lambda masks: torch.tensor([1.0, 2.0], device=masks.device)),
    "pageable": ("pageable copy", lambda masks: torch.zeros(3, device="cpu").to(masks.device, non_blocking=True)),
    "synchronize": ("waits", lambda masks: torch.cuda.synchronize()),
    "event": ("waits", wait_for_an_event),
}


@pytest.fixture(scope="module")
def stream(made):
    """One whose frames are steady."""
    mode, predictor = made
    with fake_cuda.fake_cuda(mode):
        stream = predictor.open_stream()
        for t in range(fake_cuda.SETTLING + 1):
            stream.step(FRAME)
            if t == 0:
                stream.add_new_points_or_box(1, [[20.0, 40.0]], [1])
    return stream


def faults_of(cuda, stream, module, function, fault, monkeypatch):
    """What a frame shows where a function of the step, which is given masks, also does something wrong with them."""
    right = getattr(module, function)

    def wrong(*args):
        fault(next(x for x in tree_leaves(args) if isinstance(x, torch.Tensor)))
        return right(*args)

    with monkeypatch.context() as patch, cuda.watched() as seen:
        patch.setattr(module, function, wrong)
        with pytest.raises(RuntimeError) if fault is add_of_the_cpu else contextlib.nullcontext():
            stream.step(FRAME)
    with pytest.raises(AssertionError, match=r"test_fake_cuda\.py"):
        seen.check()
    return [f.kind for f in seen.faults if f.place.startswith("tests/tracking/test_fake_cuda.py:")]


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_a_frame_are_found(cuda, stream, name, monkeypatch):
    kind, fault = FAULTS[name]
    assert kind in faults_of(cuda, stream, tracker, "format_masks", fault, monkeypatch)
    with cuda.watched() as seen:
        stream.step(FRAME)
    seen.check()


@pytest.mark.parametrize("name", ["masked", "to the CPU"])
def test_faults_of_what_is_recorded_are_found(cuda, predictor, stream, name, monkeypatch):
    kind, fault = FAULTS[name]
    predictor.release_recordings()
    found = faults_of(cuda, stream, step, "fill_holes", fault, monkeypatch)
    assert kind in found
    with cuda.watched() as seen:  # it is in the graph now
        stream.step(FRAME)
    assert seen.replays and [f.kind for f in seen.faults] == ["copy in a recording" if "copy" in kind else kind]


# Largest numbers of launches per frame: encoder (a batch of four frames), step, and outside of recordings. There, the
# features of a frame take two copies, as the embedding is fp32 and the finer levels are bf16. Each frame of a batch is
# uploaded from where it was decoded.
STEP = {1: 103, 4: 106}  # by the number of objects
BUDGETS = {"tiny": {"encoder": 90 / 4, "eager": 10.25}, "large": {"encoder": 382 / 4, "eager": 10.25}}


@pytest.mark.parametrize("model", ["tiny", pytest.param("large", marks=pytest.mark.slow)])
def test_launches_and_work_of_a_frame(model):
    """In a bf16 session at 1024 pixels, with the FLOPs of the formulas in docs/kernels/memory_attention.md."""
    for objects, costs in frame_costs(model, [1, 4]).items():
        launches = {name: part.launches for name, part in costs.items()}
        budget = BUDGETS[model] | {"step": STEP[objects]}
        assert all(launches[name] <= most for name, most in budget.items()), launches
        assert costs["encoder"].flops / 1e9 == pytest.approx({"tiny": 281, "large": 1815}[model], rel=0.01)
        assert costs["step"].flops / 1e9 == pytest.approx(20 + 416.5 * objects, rel=0.02)


def test_bytes_of_operations_in_place():
    """They read what they change; a copy only writes it."""
    x, y = torch.zeros(2, 8), torch.zeros(8, 8)
    for name, given, passes in (("addmm_", (x, x.clone(), y), 3), ("add_.Tensor", (x, 1), 2), ("copy_", (x, x + 1), 2)):
        others = sum(t.nbytes for t in given if t is y)
        assert _cost(name, None, (given, {}), x).bytes == passes * x.nbytes + others, name


def test_launches_are_counted(cuda, predictor):
    """What is recorded counts with each replay; views and empty tensors do not count."""
    found = steady_frames(cuda, predictor, 1, 8)
    first, second = (sum((seen.launches for seen in some), Counter()) for some in (found[:4], found[4:]))
    assert first == second
    assert first["_attend_kernel"] == 2 * 4 and first["_resize_and_normalise_kernel"] == 1
    assert not {"view", "empty.memory_format", "permute"} & set(first)
