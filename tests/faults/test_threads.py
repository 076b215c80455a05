"""Several threads: with different things they do not disturb each other, with the same one they are told so."""

import asyncio
import copy
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import parallel_jobs
import pytest
import torch
from disturbed_calls import pictures
from hypothesis_profiles import FACTOR
from injected_memory import plain
from mini_model import mini_model, mini_predictor
from thread_workers import ThreadWorker, instead_of_processes

from sam2fast.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2fast.exclusive import ConcurrentUseError, ThreadGuard
from sam2fast.kernels._dispatch import backend, current_backend
from sam2fast.parallel import SpreadPredictor, objects
from sam2fast.reproducibility import deterministic, is_deterministic
from sam2fast.sam2_image_predictor import SAM2ImagePredictor

LONGEST = 60  # seconds that anything here may take


@pytest.fixture(scope="module")
def image_model() -> Any:
    return mini_model()


@pytest.fixture(scope="module")
def video_predictor() -> Any:
    return mini_predictor()


@pytest.fixture
def often() -> Iterator[None]:
    """Threads take turns a thousand times as often as usually."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """The results of calls that begin together, each in a thread of its own."""
    barrier, results, errors = threading.Barrier(len(calls)), {}, []

    def work(number: int, call: Callable[[], Any]) -> None:
        try:
            barrier.wait(LONGEST)
            results[number] = call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=item, daemon=True) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONGEST)
        assert not thread.is_alive()
    if errors:
        raise errors[0]
    return [results[number] for number in range(len(calls))]


class Held:
    """A call in another thread that waits within ``module``'s method until it is let go on."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._reached, self._go_on = threading.Event(), threading.Event()
        self._call, self.result = call, None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        self.result = self._call()

    @contextmanager
    def within(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> Iterator[None]:
        real = getattr(owner, name)

        def waits(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is self._thread:
                self._reached.set()
                assert self._go_on.wait(LONGEST)
            return real(*args, **kwargs)

        with patch.context() as inside:
            inside.setattr(owner, name, waits)
            self._thread.start()
            assert self._reached.wait(LONGEST)
            try:
                yield
            finally:
                self._go_on.set()
                self._thread.join(LONGEST)
        assert not self._thread.is_alive()


# ---- different things at once ----


def segment(predictor: Any, number: int) -> Any:
    predictor.set_image(pictures(4)[number][: 30 + number])
    return plain(predictor.predict([[20, 15]], [1], box=[5, 5, 40, 28]))


def track(predictor: Any, number: int) -> Any:
    state = predictor.init_state(pictures(3), async_loading_frames=True)
    predictor.add_new_points_or_box(state, number, "a", [[15, 18]], [1])
    predictor.add_new_points_or_box(state, 0, "b", box=[30, 5, 55, 35])
    return [plain([t, list(ids), masks]) for t, ids, masks in predictor.propagate_in_video(state, 0, progress=False)]


def stream(predictor: Any, number: int) -> Any:
    answers = []
    with predictor.open_stream() as opened:
        for t, picture in enumerate(pictures(3)):
            answers.append(plain(opened.step(picture)))
            if t == number:
                answers.append(plain(opened.add_new_points_or_box("a", [[15, 18]], [1])))
    return answers


def find_masks(generator: Any, number: int) -> Any:
    return plain(generator.generate(pictures(4)[number]))


def generator_of(model: Any) -> Any:
    return SAM2AutomaticMaskGenerator(model, points_per_side=2, pred_iou_thresh=0.0, stability_score_thresh=0.0)


WORK: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Any, int], Any]]] = {
    "images": (mini_model, SAM2ImagePredictor, segment),
    "videos": (mini_predictor, lambda predictor: predictor, track),
    "streams": (mini_predictor, lambda predictor: predictor, stream),
    "masks": (mini_model, generator_of, find_masks),
}


def assert_threads_answer_as_one(kind: str, is_shared: bool = True, fast: bool = False) -> None:
    build, user_of, work = WORK[kind]

    def model() -> Any:
        built = build()
        built.fast = fast or None
        return built

    alone = user_of(model())
    expected = [work(alone, number) for number in range(2)]
    for _ in range(FACTOR):
        first = model()  # nothing that is made when first needed has been made
        both = [first, first if is_shared else model()]
        calls = [partial(lambda built, number: work(user_of(built), number), built, n) for n, built in enumerate(both)]
        assert at_once(*calls) == expected


@pytest.mark.parametrize("kind", WORK)
def test_two_threads_with_one_model_answer_as_one(kind, often):
    assert_threads_answer_as_one(kind)


@pytest.mark.parametrize("kind", ["images", "videos"])
def test_two_threads_with_a_model_each_answer_as_one(kind, often):
    assert_threads_answer_as_one(kind, is_shared=False)


def test_two_threads_track_by_the_recorded_steps_of_one_model(often):
    assert_threads_answer_as_one("videos", fast=True)


def test_threads_predict_on_one_image(image_model, often):
    predictor = SAM2ImagePredictor(image_model)
    predictor.set_image(pictures(1)[0])
    prompts = [[[20, 15]], [[40, 30]], [[5, 5]]]
    expected = [plain(predictor.predict(points, [1])) for points in prompts]
    calls = [lambda points=points: plain(predictor.predict(points, [1])) for points in prompts]
    assert at_once(*calls, *calls) == expected * 2


# ---- the same thing at once ----


def test_a_picture_is_not_set_while_another_is(image_model, monkeypatch):
    predictor = SAM2ImagePredictor(image_model)
    first, second = pictures(2)
    predictor.set_image(first[:30])
    predictor.set_image(second)
    expected = plain([predictor._features, predictor.predict([[20, 15]], [1])])
    predictor.set_image(first[:30])
    held = Held(lambda: predictor.set_image(second))
    with held.within(monkeypatch, image_model, "encode_image"):
        for call in (
            lambda: predictor.set_image(first),
            lambda: predictor.set_image_batch([first]),
            lambda: predictor.predict([[20, 15]], [1]),
            lambda: predictor._predict_low_res(None, None),
            predictor.reset_predictor,
        ):
            with pytest.raises(ConcurrentUseError, match="SAM2ImagePredictor is being used by another thread"):
                call()
        assert predictor._orig_hw == [(30, 60)]
        twin = copy.copy(predictor)  # with a guard of its own
        twin.predict([[20, 15]], [1])
    assert plain([predictor._features, predictor.predict([[20, 15]], [1])]) == expected


def test_a_picture_is_not_set_while_another_thread_predicts(image_model, monkeypatch):
    predictor = SAM2ImagePredictor(image_model)
    predictor.set_image(pictures(1)[0])
    expected = plain(predictor.predict([[20, 15]], [1]))
    held = Held(lambda: plain(predictor.predict([[20, 15]], [1])))
    with held.within(monkeypatch, image_model.sam_prompt_encoder, "get_dense_pe"):
        with pytest.raises(ConcurrentUseError):
            predictor.set_image(pictures(2)[1][:20])
        assert plain(predictor.predict([[20, 15]], [1])) == expected
    assert held.result == expected


def session(predictor: Any) -> Any:
    state = predictor.init_state(pictures(5))
    predictor.add_new_points_or_box(state, 0, "a", [[15, 18]], [1])
    return state


def answers(predictor: Any, state: Any, start: int | None = None) -> list[Any]:
    return [plain(answer) for answer in predictor.propagate_in_video(state, start, progress=False)]


def test_a_session_is_one_threads_at_a_time(video_predictor, monkeypatch, tmp_path):
    expected = answers(video_predictor, session(video_predictor))
    state, other = session(video_predictor), session(video_predictor)
    passing = video_predictor.propagate_in_video(state, progress=False)
    found = [plain(next(passing))]
    held = Held(lambda: plain(next(passing)))
    with held.within(monkeypatch, video_predictor, "encode_image"):
        for call in (
            lambda: video_predictor.add_new_points_or_box(state, 2, "b", [[15, 18]], [1]),
            lambda: video_predictor.add_new_mask(state, 2, "b", pictures(1)[0][..., 0] > 100),
            lambda: video_predictor.clear_all_prompts_in_frame(state, 0, "a"),
            lambda: video_predictor.remove_object(state, "a"),
            lambda: video_predictor.remove_object(inference_state=state, obj_id="a"),
            lambda: video_predictor.reset_state(inference_state=state),
            lambda: video_predictor.propagate_in_video_preflight(state),
            lambda: next(video_predictor.propagate_in_video(state, progress=False)),
            lambda: video_predictor.save_state(state, tmp_path / "state"),
            lambda: video_predictor.move_state(state),
        ):
            with pytest.raises(ConcurrentUseError, match="VideoState is being used by another thread"):
                call()
        with pytest.raises(ValueError, match="already executing"):
            next(passing)
        assert answers(video_predictor, other) == expected  # another session of the same predictor
    found.append(held.result)
    found += [plain(answer) for answer in passing]
    assert found == expected
    assert answers(video_predictor, state, 0) == expected


def test_a_stream_is_one_threads_at_a_time(video_predictor, monkeypatch, tmp_path):
    expected = stream(video_predictor, 0)
    with video_predictor.open_stream() as opened:
        found = [plain(opened.step(pictures(4)[0]))]
        found.append(plain(opened.add_new_points_or_box("a", [[15, 18]], [1])))
        held = Held(lambda: plain(opened.step(pictures(4)[1])))
        with held.within(monkeypatch, video_predictor, "encode_image"):
            for call in (
                lambda: opened.step(pictures(4)[2]),
                lambda: opened.add_new_points_or_box("b", [[15, 18]], [1]),
                lambda: opened.add_new_mask("b", pictures(1)[0][..., 0] > 100),
                lambda: opened.clear_prompts("a"),
                lambda: opened.remove_object("a"),
                lambda: opened.save(tmp_path / "stream"),
                opened.close,
            ):
                with pytest.raises(ConcurrentUseError, match="VideoStream is being used by another thread"):
                    call()
        found.append(held.result)
        found += [plain(opened.step(picture)) for picture in pictures(3)[2:]]
    assert found == expected


@pytest.fixture
def spread(monkeypatch) -> Iterator[SpreadPredictor]:
    instead_of_processes(monkeypatch)
    with SpreadPredictor(parallel_jobs.build_mini, ["cpu", "cpu"]) as predictor:
        yield predictor


def test_threads_take_turns_with_the_processes_that_share_a_video(spread, often):
    expected = [track(spread, number) for number in range(2)]
    assert expected[0] != expected[1]
    assert at_once(*(partial(track, spread, number) for number in range(2))) == expected


def test_a_spread_session_is_one_threads_at_a_time(spread, monkeypatch, tmp_path):
    state, other = session(spread), session(spread)
    passing = spread.propagate_in_video(state, progress=False)
    held = Held(lambda: next(passing)[0])
    with held.within(monkeypatch, objects, "returned"):
        for call in (
            lambda: spread.add_new_points_or_box(state, 2, "b", [[15, 18]], [1]),
            lambda: spread.add_new_mask(state, 2, "b", pictures(1)[0][..., 0] > 100),
            lambda: spread.clear_all_prompts_in_frame(state, 0, "a"),
            lambda: spread.remove_object(state, "a"),
            lambda: spread.reset_state(inference_state=state),
            lambda: next(spread.propagate_in_video(state, progress=False)),
            lambda: spread.save_state(state, tmp_path / "state"),
            lambda: spread.close_state(state),
        ):
            with pytest.raises(ConcurrentUseError, match="SpreadState is being used by another thread"):
                call()
        assert spread.add_new_points_or_box(other, 1, "b", [[15, 18]], [1])[1] == ["a", "b"]
    assert [held.result, *(frame for frame, *_ in passing)] == [0, 1, 2, 3, 4]


def test_a_pass_that_is_collected_amid_another_call_takes_no_answers(spread, monkeypatch):
    expected = plain(spread.add_new_points_or_box(session(spread), 1, "b", [[30, 18]], [1]))
    state = session(spread)
    passing, real = spread.propagate_in_video(session(spread), progress=False), ThreadWorker.reply
    next(passing)

    def collected(worker: Any) -> Any:
        passing.close()
        return real(worker)

    with monkeypatch.context() as patch:
        patch.setattr(ThreadWorker, "reply", collected)
        assert plain(spread.add_new_points_or_box(state, 1, "b", [[30, 18]], [1])) == expected
    assert len(answers(spread, state)) == 5


def test_what_fails_in_a_stream_is_told_though_another_thread_uses_it(video_predictor, monkeypatch):
    opened, pixels = video_predictor.open_stream(), pictures(2)
    opened.step(pixels[0])
    opened.add_new_points_or_box("a", [[15, 18]], [1])
    held = Held(lambda: opened.step(pixels[1]).frame)
    with held.within(monkeypatch, video_predictor, "encode_image"):
        with pytest.raises(ZeroDivisionError), opened:
            raise ZeroDivisionError
        with pytest.raises(ConcurrentUseError):
            opened.step(pixels[1])
    assert held.result == 1
    assert opened._state is None and opened._frames._square is None
    with pytest.raises(RuntimeError, match="the stream was closed"):
        opened.step(pixels[1])


def test_approximations_are_not_set_while_another_thread_opens_a_session(video_predictor, monkeypatch):
    held = Held(lambda: session(video_predictor).bank.approximations)
    with held.within(monkeypatch, video_predictor, "encode_image"), pytest.raises(ConcurrentUseError):
        video_predictor.approximations = ["still_frames"]
    assert held.result == video_predictor.approximations


# ---- one after the other, which is allowed ----


def test_a_pass_begun_in_one_thread_goes_on_in_others(video_predictor):
    expected = answers(video_predictor, session(video_predictor))
    state = session(video_predictor)
    passing = video_predictor.propagate_in_video(state, progress=False)
    found = []
    for _ in expected:
        found += at_once(lambda: plain(next(passing)))
    assert at_once(lambda: next(passing, None)) == [None]
    assert found == expected


def test_between_two_frames_of_a_pass_anything_may_be_called(video_predictor, tmp_path):
    state = session(video_predictor)
    passing = video_predictor.propagate_in_video(state, progress=False)
    next(passing)
    video_predictor.add_new_points_or_box(state, 3, "b", [[15, 18]], [1])
    at_once(lambda: video_predictor.save_state(state, tmp_path / "state"))
    at_once(lambda: video_predictor.remove_object(state, "b"))
    assert [frame for frame, *_ in passing] == [1, 2, 3, 4]
    passing = video_predictor.propagate_in_video(state, progress=False)
    next(passing)
    at_once(passing.close)
    video_predictor.reset_state(state)


def test_a_callers_own_code_within_a_pass_may_use_the_session(video_predictor, tmp_path):
    state = session(video_predictor)

    def progress(frames: Any) -> Any:
        for frame in frames:
            video_predictor.save_state(state, tmp_path / "state")
            yield frame

    assert len(list(video_predictor.propagate_in_video(state, progress=progress))) == 5


# ---- the guard itself ----


class Owner:
    def __init__(self) -> None:
        self.guard = ThreadGuard()


def refused(owner: Owner, changes: bool) -> bool:
    """Whether another thread is refused now."""

    def visit() -> bool:
        try:
            with owner.guard.visit(owner, changes):
                return False
        except ConcurrentUseError:
            return True

    return bool(at_once(visit)[0])


def test_who_is_refused():
    owner = Owner()
    with owner.guard.visit(owner, changes=False):
        assert not refused(owner, changes=False) and refused(owner, changes=True)
        with owner.guard.visit(owner, changes=True), owner.guard.visit(owner, changes=False):
            assert refused(owner, changes=False) and refused(owner, changes=True)
        assert not refused(owner, changes=False) and refused(owner, changes=True)
    assert not refused(owner, changes=True)


def test_a_refused_thread_is_not_counted():
    owner = Owner()
    with owner.guard.visit(owner, changes=True):
        assert refused(owner, changes=True)
    with owner.guard.visit(owner, changes=True):
        pass
    assert not refused(owner, changes=True)


def test_a_call_that_a_signal_cut_off_is_over():
    owner = Owner()

    def cut_off() -> None:
        visit = owner.guard.visit(owner, changes=True)
        visit.__enter__()
        assert refused(owner, changes=False)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        cut_off()
    del caught
    assert not refused(owner, changes=True)


def test_copies_have_a_guard_of_their_own():
    owner = Owner()
    with owner.guard.visit(owner, changes=True):
        for twin in (copy.deepcopy(owner), pickle.loads(pickle.dumps(owner))):
            assert not refused(twin, changes=True)


# ---- settings of a block ----


def test_backends_of_threads_and_tasks(monkeypatch, often):
    monkeypatch.delenv("SAM2FAST_BACKEND", raising=False)

    def work(name: str) -> bool:
        seen = set()
        for _ in range(2000):
            with backend(name):
                seen.add(current_backend())
            seen.add(current_backend())
        return seen == {name, "auto"}

    assert at_once(lambda: work("torch"), lambda: work("triton")) == [True, True]

    async def task(name: str) -> list[str]:
        with backend(name):
            seen = []
            for _ in range(5):
                await asyncio.sleep(0)
                seen += [current_backend(), await asyncio.to_thread(current_backend)]
            return seen

    async def both() -> list[list[str]]:
        return await asyncio.gather(task("torch"), task("triton"))

    assert asyncio.run(both()) == [["torch"] * 10, ["triton"] * 10]


def switches() -> list[bool]:
    return [
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        is_deterministic(),
    ]


def test_deterministic_blocks_of_threads_overlap():
    before = switches()
    first, second = deterministic(), deterministic(warn_only=True)
    inner = [True, False, True, True]
    at_once(first.__enter__)
    assert switches() == inner
    at_once(second.__enter__)
    at_once(lambda: first.__exit__(None, None, None))
    assert switches() == [True, True, True, True]  # the second block is still open
    at_once(lambda: second.__exit__(None, None, None))
    assert switches() == before


def test_deterministic_blocks_within_each_other():
    before = switches()
    with deterministic():
        with deterministic(warn_only=True):
            assert switches() == [True, True, True, True]
        assert switches() == [True, False, True, True]
    assert switches() == before
