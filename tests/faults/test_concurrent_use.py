"""Two threads use one object at once: the second gets an error, and the first is not affected."""

import copy

import pytest
import torch
from at_once import Held, at_once
from comparable import plain
from disturbed_calls import make_images
from thread_work import answers, session, stream

from sam2fast.engine import Engine
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.utils.thread_guard import CallGuard, ConcurrentUseError, GuardedCall


def test_set_image_during_set_image_of_another_thread(image_model, monkeypatch):
    predictor = SAM2ImagePredictor(image_model)
    first, second = make_images(2)
    predictor.set_image(first[:30])
    predictor.set_image(second)
    expected = plain([predictor._features, predictor.predict([[20, 15]], [1])])
    predictor.set_image(first[:30])
    held = Held(lambda: predictor.set_image(second))
    with held.within(monkeypatch, Engine, "encode"):
        for call in (
            lambda: predictor.set_image(first),
            lambda: predictor.set_image_batch([first]),
            lambda: predictor.predict([[20, 15]], [1]),
            lambda: predictor._predict(None, None),
            lambda: predictor._predict_low_res(None, None),
            predictor.reset_predictor,
        ):
            with pytest.raises(ConcurrentUseError, match="SAM2ImagePredictor is being used"):
                call()
        assert predictor._orig_hw == [(30, 60)]
        clone = copy.copy(predictor)  # has its own guard
        clone.predict([[20, 15]], [1])
    found = at_once(lambda: plain([predictor._features, predictor.predict([[20, 15]], [1])]))
    assert found == [expected]


def test_predictions_for_another_threads_image(image_model, monkeypatch):
    """Threads that take turns may use each other's image, except one that was refused while it was set."""
    predictor = SAM2ImagePredictor(image_model)
    first, second = make_images(2)
    predictor.set_image(second)
    expected = plain(predictor.predict([[20, 15]], [1]))
    predictor.set_image(first[:30])
    at_once(lambda: predictor.set_image(second))
    assert plain(predictor.predict([[20, 15]], [1])) == expected
    held = Held(lambda: predictor.set_image(second))
    with held.within(monkeypatch, Engine, "encode"), pytest.raises(ConcurrentUseError):
        predictor.predict([[20, 15]], [1])
    for call in (lambda: predictor.predict([[20, 15]], [1]), predictor.get_image_embedding):
        with pytest.raises(ConcurrentUseError, match="has replaced the image"):
            call()
    with pytest.raises(FileNotFoundError):
        predictor.set_image("missing.png")
    with pytest.raises(ConcurrentUseError, match="set the image again"):
        predictor.predict([[20, 15]], [1])
    assert at_once(lambda: plain(predictor.predict([[20, 15]], [1]))) == [expected]  # a thread that was not refused
    features = predictor.encode(second)
    assert plain(predictor.predict([[20, 15]], [1], features=features)) == expected


@pytest.mark.parametrize("setter", ["this thread", "the other", "a third"])
def test_the_next_image_ends_a_collision(image_model, monkeypatch, setter):
    """Then threads take turns as before: each may predict for the image that another has set."""
    predictor, (image,) = SAM2ImagePredictor(image_model), make_images(1)
    predictor.set_image(image)
    expected = plain(predictor.predict([[20, 15]], [1]))

    def other() -> None:
        predictor.set_image(image)  # collides
        if setter == "the other":
            predictor.set_image(image)

    held = Held(other)
    with held.within(monkeypatch, Engine, "encode"), pytest.raises(ConcurrentUseError):
        predictor.predict([[20, 15]], [1])
    if setter == "this thread":
        predictor.set_image(image)
    elif setter == "a third":
        at_once(lambda: predictor.set_image(image))
    for _ in range(2):
        assert plain(predictor.predict([[20, 15]], [1])) == expected
        at_once(lambda: predictor.set_image(image))


def test_a_refused_image_keeps_the_one_before(image_model, monkeypatch):
    """Also when the other thread's image cannot be set."""
    predictor, (image,) = SAM2ImagePredictor(image_model), make_images(1)
    predictor.set_image(image)
    expected = plain(predictor.predict([[20, 15]], [1]))

    def fail() -> None:
        with pytest.raises(MemoryError):
            predictor.set_image(image[:20])

    def encode(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(image_model, "encode_image", encode)
    held = Held(fail)
    with held.within(monkeypatch, Engine, "encode"), pytest.raises(ConcurrentUseError):
        predictor.set_image(image[:30])
    assert plain(predictor.predict([[20, 15]], [1])) == expected


def test_set_image_during_predict_of_another_thread(image_model, monkeypatch):
    predictor = SAM2ImagePredictor(image_model)
    predictor.set_image(make_images(1)[0])
    expected = plain(predictor.predict([[20, 15]], [1]))
    held = Held(lambda: plain(predictor.predict([[20, 15]], [1])))
    with held.within(monkeypatch, predictor, "_decode"):
        with pytest.raises(ConcurrentUseError):
            predictor.set_image(make_images(2)[1][:20])
        assert plain(predictor.predict([[20, 15]], [1])) == expected
    assert held.result == expected


def test_a_session_belongs_to_one_thread_at_a_time(video_predictor, monkeypatch, tmp_path):
    expected = answers(video_predictor, session(video_predictor))
    state, other = session(video_predictor), session(video_predictor)
    passing = video_predictor.propagate_in_video(state, progress=False)
    found = [plain(next(passing))]
    held = Held(lambda: plain(next(passing)))
    with held.within(monkeypatch, Engine, "encode"):
        for call in (
            lambda: video_predictor.add_new_points_or_box(state, 2, "b", [[15, 18]], [1]),
            lambda: video_predictor.add_new_mask(state, 2, "b", make_images(1)[0][..., 0] > 100),
            lambda: video_predictor.clear_all_prompts_in_frame(state, 0, "a"),
            lambda: video_predictor.remove_object(state, "a"),
            lambda: video_predictor.remove_object(inference_state=state, obj_id="a"),
            lambda: video_predictor.reset_state(inference_state=state),
            lambda: video_predictor.propagate_in_video_preflight(state),
            lambda: next(video_predictor.propagate_in_video(state, progress=False)),
            lambda: video_predictor.save_state(state, tmp_path / "state"),
            lambda: video_predictor.move_state(state),
        ):
            with pytest.raises(ConcurrentUseError, match="VideoState is being used"):
                call()
        with pytest.raises(ValueError, match="already executing"):
            next(passing)
        assert answers(video_predictor, other) == expected  # another session of the same predictor
    found.append(held.result)
    found += [plain(answer) for answer in passing]
    assert found == expected
    assert answers(video_predictor, state, 0) == expected


def test_a_stream_belongs_to_one_thread_at_a_time(video_predictor, monkeypatch, tmp_path):
    expected = stream(video_predictor, 0)
    with video_predictor.open_stream() as opened:
        found = [plain(opened.step(make_images(4)[0]))]
        found.append(plain(opened.add_new_points_or_box("a", [[15, 18]], [1])))
        held = Held(lambda: plain(opened.step(make_images(4)[1])))
        with held.within(monkeypatch, Engine, "encode"):
            for call in (
                lambda: opened.step(make_images(4)[2]),
                lambda: opened.add_new_points_or_box("b", [[15, 18]], [1]),
                lambda: opened.add_new_mask("b", make_images(1)[0][..., 0] > 100),
                lambda: opened.clear_prompts("a"),
                lambda: opened.remove_object("a"),
                lambda: opened.save(tmp_path / "stream"),
                opened.close,
            ):
                with pytest.raises(ConcurrentUseError, match="VideoStream is being used"):
                    call()
        found.append(held.result)
        found += [plain(opened.step(image)) for image in make_images(3)[2:]]
    assert found == expected


def test_errors_of_a_stream_are_raised_while_another_thread_uses_it(video_predictor, monkeypatch):
    opened, pixels = video_predictor.open_stream(), make_images(2)
    opened.step(pixels[0])
    opened.add_new_points_or_box("a", [[15, 18]], [1])
    held = Held(lambda: opened.step(pixels[1]).frame)
    with held.within(monkeypatch, Engine, "encode"):
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
    with held.within(monkeypatch, Engine, "encode"), pytest.raises(ConcurrentUseError):
        video_predictor.approximations = ["still_frames"]
    assert held.result == video_predictor.approximations


def test_a_call_changes_the_image_within_one_that_reads_it(image_model, monkeypatch):
    """It is refused while another thread reads."""
    predictor, images = SAM2ImagePredictor(image_model), make_images(2)
    predictor.set_image(images[0])
    custom = predictor._decode

    def changes(*args):
        predictor.set_image(images[1])
        return custom(*args)

    held = Held(lambda: predictor.predict([[20, 15]], [1]))
    with held.within(monkeypatch, Engine, "decode"):
        monkeypatch.setattr(predictor, "_decode", changes)
        with pytest.raises(ConcurrentUseError):
            predictor.predict([[20, 15]], [1])
    predictor.predict([[20, 15]], [1])


def test_calls_are_tracked_once(image_model, monkeypatch):
    predictor, begun = SAM2ImagePredictor(image_model), []
    begin = CallGuard.begin_call
    monkeypatch.setattr(
        CallGuard, "begin_call", lambda guard, owner, changes: begun.append(changes) or begin(guard, owner, changes)
    )
    predictor.set_image_batch(make_images(2))
    predictor.predict_batch([[[20, 15]]] * 2, [[1]] * 2)
    predictor.set_image(make_images(1)[0])
    predictor.predict([[20, 15]], [1])
    predictor.predict([[20, 15]], [1], output_mode="coco_rle")
    predictor._predict(torch.ones(1, 1, 2), torch.ones(1, 1))
    predictor._predict_low_res(torch.ones(1, 1, 2), torch.ones(1, 1))
    assert begun == [True, False, True, False, False, False, False]


def test_nested_calls_are_tracked_once(image_model, monkeypatch):
    """A replacement of ``_predict`` that calls the replaced method is one call."""
    predictor, entered = SAM2ImagePredictor(image_model), []
    enter, predict = GuardedCall.__enter__, predictor._predict
    monkeypatch.setattr(GuardedCall, "__enter__", lambda call: entered.append(call.changes) or enter(call))
    predictor.set_image(make_images(1)[0])
    expected = plain(predictor.predict([[20, 15]], [1]))
    predictor._predict = lambda *args: predict(*args)
    assert plain(predictor.predict([[20, 15]], [1])) == expected
    assert entered == [True, False, False]


def test_a_call_interrupted_by_a_signal_is_finished():
    """When it is freed; a call that has begun before then still excludes other threads."""
    guard = CallGuard()

    def is_refused() -> bool:
        try:
            with guard.begin_call(guard, changes=True):
                return False
        except ConcurrentUseError:
            return True

    def cut_off() -> None:
        interrupted = guard.begin_call(guard, changes=True)
        interrupted.__enter__()
        assert at_once(is_refused) == [True]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        cut_off()
    del caught
    assert at_once(is_refused) == [False]
    with pytest.raises(KeyboardInterrupt) as caught:
        cut_off()
    with guard.begin_call(guard, changes=True):
        del caught  # the interrupted call ends here
        assert at_once(is_refused) == [True]
    assert at_once(is_refused) == [False]
