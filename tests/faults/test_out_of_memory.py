"""Calls that fail at any place change nothing, and succeed when repeated. ``make inject`` tries every place."""

import gc
import itertools
import random
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from chosen_places import POINTS, SEED, some, some_asked
from disturbed_calls import CALLS, disturb, known_of_state, make_images, places, undisturbed, video_predictor
from injected_memory import Mishap, failing, tensor_bytes

from sam2fast.compat.video_state import VideoState
from sam2fast.tracking.page_pool import Page, PagePool
from sam2fast.tracking.session import TrackedObject
from sam2fast.video_io import VideoError

KINDS = ("out of memory", "signal")
MORE = 10  # maximum number of places
ON_CPU = ("points", "mask", "set_image")
WITHOUT_TORCH = ("stream clear", "stream remove")  # they have no operation that could fail
# For fast trials.
QUICK = ("clear", "remove", "remove the last", "reset", "stream clear", "stream remove")


def tried(count: int, name: str, kind: str) -> list[int]:
    """The places to try."""
    # The call reports what it has done.
    last = range(max(0, count - 25), count) if name in QUICK else ()
    return sorted({*some_asked(1, count, f"{name} {kind}"), *last})


@pytest.mark.parametrize(
    ("name", "kind"), [*itertools.product(CALLS, KINDS), *itertools.product(ON_CPU, ["allocator"])]
)
def test_a_call_that_fails_anywhere(name, kind, request):
    count = places(name, kind)
    at = tried(count, name, kind)
    failed = [disturb(name, kind, place).failed for place in at]
    # Some places are in optional optimizations; the call continues without them.
    others = some(random.Random(f"{SEED} {name} {kind} again"), MORE, count)
    while others and not any(failed):
        failed.append(disturb(name, kind, others.pop()).failed)
    assert any(failed) or (name in WITHOUT_TORCH and kind != "signal")
    if POINTS:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\n{name}, {kind}: {len(at)} of {count} places, seed {SEED}", flush=True)


@pytest.mark.parametrize("name", ["points", "step"])
def test_no_memory_is_leaked(name):
    def bytes_of(at: int | None) -> int:
        session = CALLS[name].start() if at is None else disturb(name, "out of memory", at).session
        if at is None:
            CALLS[name].call(session)
        return tensor_bytes()

    count = places(name, "out of memory")
    gc.freeze()  # earlier tests' tensors count in neither
    expected = bytes_of(None)
    assert bytes_of(int(0.9 * count)) <= expected


def test_a_video_that_cannot_be_opened_is_closed(monkeypatch):
    opened: list[Any] = []
    from sam2fast import sam2_video_predictor

    real = sam2_video_predictor.open_frames

    def open_frames(*args: Any, **kwargs: Any) -> Any:
        opened.append(real(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(sam2_video_predictor, "open_frames", open_frames)
    predictor = video_predictor()
    with pytest.raises(torch.OutOfMemoryError) as kept, failing("out of memory", 100):
        predictor.init_state(make_images(2), async_loading_frames=True)
    assert kept.value is not None and not opened[0]._prefetcher._thread.is_alive()
    with pytest.raises(VideoError, match="closed"):
        opened[0][0]


def test_a_removed_object_frees_its_memory_after_a_failure():
    predictor, state = CALLS["reset"].start()
    tracked = weakref.ref(state.objects["a"])
    with pytest.raises(torch.OutOfMemoryError), failing("out of memory", 0):
        predictor.reset_state(state)
    assert list(state.objects) == state.obj_ids == ["a", "b"]
    predictor.reset_state(state)
    gc.collect()
    assert tracked() is None and state.obj_ids == []


@pytest.mark.parametrize(
    ("owner", "name", "number", "call"),
    [
        (VideoState, "add", 1, lambda p, s: p.add_new_points_or_box(s, 0, "new", [[15, 18]], [1])),
        (TrackedObject, "keep_tracked", 4, lambda p, s: list(p.propagate_in_video(s, 2, progress=False))),
    ],
)
def test_ctrl_c_behind_an_inner_call(owner, name, number, call, monkeypatch):
    """A new object is not left without its prompts, and a new frame is stored for all objects or none."""
    predictor, state = CALLS["propagate"].start()
    before, ids, real, calls = known_of_state(state), state.obj_ids, getattr(owner, name), []
    assert len(ids) > 1

    def interrupted(*args: Any) -> None:
        real(*args)
        calls.append(args)
        if len(calls) == number:
            raise KeyboardInterrupt

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        call(predictor, state)
    stages = undisturbed("propagate").stages if name == "keep_tracked" else [before]
    assert known_of_state(state) in stages and state.obj_ids is ids


def test_an_exception_of_the_caller_between_frames():
    predictor, state = CALLS["propagate"].start()
    right = undisturbed("propagate")
    done = []

    def progress(frames: Any) -> Iterator[int]:
        for frame in frames:
            if len(done) == 2:
                raise Mishap("the caller's own")
            yield frame

    with pytest.raises(Mishap):
        for answer in predictor.propagate_in_video(state, 2, progress=progress):
            done.append(answer)
    assert known_of_state(state) == right.stages[2]
    assert CALLS["propagate"].call((predictor, state)) is not None
    assert known_of_state(state) == right.after


def pool_program(seed: int, at: int | None, kind: str) -> int:
    """Writes, reads and drops pages with one failure; returns in how many places it could fail."""
    rng, pool = random.Random(seed), PagePool((3,), torch.float32, torch.device("cpu"))
    pages: dict[Page, list[float]] = {}
    with failing(kind, at) as place:
        for step in range(30):
            try:
                pool.begin_step()
                if rng.random() < 0.5:
                    values = torch.full((rng.randint(1, 4), 3), float(step))
                    pages.update(dict.fromkeys(pool.write(values), values[0].tolist()))
                wanted = rng.sample(list(pages), min(len(pages), rng.randint(0, 10)))
                rows = pool.rows(wanted)
                assert len(set(rows)) == len(rows)
                for page, row in zip(wanted, rows, strict=True):
                    assert pool.data[row].tolist() == pages[page]
            except (torch.OutOfMemoryError, KeyboardInterrupt):
                pass
            wanted = []
            for page in rng.sample(list(pages), min(len(pages), rng.randint(0, 2))):
                del pages[page]
            page = None
    for page, expected in pages.items():
        assert pool.read(page).tolist() == expected
    held = Counter(page.row for page in pages if page.row is not None)
    assert all(count == 1 for count in held.values())
    assert not held.keys() & set(pool._free) and len(set(pool._free)) == len(pool._free)
    return int(place.count)


# Python ignores Ctrl-C in a page's destructor.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_pages_keep_their_values_when_a_step_fails(kind):
    for seed in range(2):
        count = pool_program(SEED + seed, None, kind)
        for at in some_asked(30, count, f"{kind} {seed}"):
            pool_program(SEED + seed, at, kind)
