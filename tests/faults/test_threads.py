"""Threads with different objects, or with one object in turn, do not affect each other."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from at_once import at_once
from comparable import plain
from disturbed_calls import make_images
from hypothesis_profiles import FACTOR
from mini_model import mini_model, mini_predictor
from thread_work import answers, find_masks, segment, session, stream, track

from sam2fast.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2fast.sam2_image_predictor import SAM2ImagePredictor


def generator_of(model: Any) -> Any:
    return SAM2AutomaticMaskGenerator(model, points_per_side=2, pred_iou_thresh=0.0, stability_score_thresh=0.0)


WORK: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Any, int], Any]]] = {
    "images": (mini_model, SAM2ImagePredictor, segment),
    "videos": (mini_predictor, lambda predictor: predictor, track),
    "streams": (mini_predictor, lambda predictor: predictor, stream),
    "masks": (mini_model, generator_of, find_masks),
}


@pytest.mark.parametrize(
    ("kind", "is_shared", "fast"),
    [
        *((kind, True, False) for kind in WORK),
        ("images", False, False),
        ("videos", False, False),
        ("videos", True, True),
    ],
)
def test_two_threads_give_the_results_of_one(kind, is_shared, fast, often):
    """With one model, a model each, and with the CUDA graphs of one model."""
    build, user_of, work = WORK[kind]

    def model() -> Any:
        built = build()
        built.fast = fast or None
        return built

    alone = user_of(model())
    expected = [work(alone, number) for number in range(2)]
    for _ in range(FACTOR):
        first = model()  # without lazily created objects
        both = [first, first if is_shared else model()]
        calls = [partial(lambda built, number: work(user_of(built), number), built, n) for n, built in enumerate(both)]
        assert at_once(*calls) == expected


def test_threads_predict_on_one_image(image_model, often):
    predictor = SAM2ImagePredictor(image_model)
    predictor.set_image(make_images(1)[0])
    prompts = [[[20, 15]], [[40, 30]], [[5, 5]]]
    expected = [plain(predictor.predict(points, [1])) for points in prompts]
    calls = [lambda points=points: plain(predictor.predict(points, [1])) for points in prompts]
    assert at_once(*calls, *calls) == expected * 2


def test_a_pass_may_continue_in_other_threads(video_predictor):
    expected = answers(video_predictor, session(video_predictor))
    state = session(video_predictor)
    passing = video_predictor.propagate_in_video(state, progress=False)
    found = []
    for _ in expected:
        found += at_once(lambda: plain(next(passing)))
    assert at_once(lambda: next(passing, None)) == [None]
    assert found == expected


def test_between_two_frames_of_a_pass_anything_may_be_called(video_predictor, tmp_path):
    """By other threads, and by the caller's own code within the pass."""
    state = session(video_predictor)

    def progress(frames: Any) -> Any:
        for frame in frames:
            video_predictor.save_state(state, tmp_path / "state")
            yield frame

    passing = video_predictor.propagate_in_video(state, progress=progress)
    next(passing)
    video_predictor.add_new_points_or_box(state, 3, "b", [[15, 18]], [1])
    at_once(lambda: video_predictor.save_state(state, tmp_path / "state"))
    at_once(lambda: video_predictor.remove_object(state, "b"))
    assert [frame for frame, *_ in passing] == [1, 2, 3, 4]
    passing = video_predictor.propagate_in_video(state, progress=False)
    next(passing)
    at_once(passing.close)
    video_predictor.reset_state(state)
