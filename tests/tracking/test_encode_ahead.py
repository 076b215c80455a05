"""Frames that are encoded while others are tracked, and answers that are given while the next ones are made."""

from typing import Any

import pytest
from video import Session, clip, jpeg_folder, run

from sam2fast.engine.replay import graph_calls_of
from sam2fast.tracking.features import EncodedFrames
from sam2fast.tracking.step_runner import StepRunner
from sam2fast.utils.testing import relative_error
from sam2fast.video_io import VideoError

TOLERANCE = 1e-5


class Encodings:
    """Which frames the encoder was given, and when."""

    def __init__(self, predictor: Any, monkeypatch: Any) -> None:
        self.batches: list[tuple[list[int], bool]] = []
        right = predictor._tracker.steps.encode

        def counted(frames, indices, ahead, padded):
            self.batches.append((list(indices), ahead))
            return right(frames, indices, ahead, padded)

        monkeypatch.setattr(predictor._tracker.steps, "encode", counted)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [(1, [([t], t > 0) for t in range(7)]), (4, [([0], False), ([1, 2, 3, 4], True), ([5, 6], True)])],
)
def test_the_next_frames_are_encoded_while_one_is_tracked(fast, plain, video, batch, expected, monkeypatch):
    encodings = Encodings(fast, monkeypatch)

    def life(s: Session) -> None:
        s.points(0, 1, (60, 40, 1))
        s.propagate(max_frame_num_to_track=6, encode_ahead=batch)

    actual = run(fast, video, life)
    assert encodings.batches == expected and graph_calls_of(fast, ahead=True)._calls
    for a, b in zip(run(plain, video, life), actual, strict=True):
        assert relative_error(a.masks, b.masks) < TOLERANCE


def test_an_unreadable_frame_fails_in_its_turn(fast, tmp_path):
    folder = jpeg_folder(tmp_path / "video", clip(6))
    (folder / "00003.jpg").write_bytes(b"not an image")
    s = Session(fast, folder)
    s.points(0, 1, (60, 40, 1))
    for lag in (0, 2):
        seen = []
        with pytest.raises(VideoError, match="00003"):
            for frame, *_ in fast.propagate_in_video(s.state, lag=lag, progress=False):
                seen.append(frame)
        assert seen == [0, 1, 2]


@pytest.mark.parametrize(("lag", "output"), [(1, "bits"), (3, "logits"), (50, "low_res")])
def test_answers_that_come_later_are_the_same(fast, plain, video, lag, output):
    answers = []
    for predictor, how in ((plain, {}), (fast, {"lag": lag})):
        s = Session(predictor, video)
        s.points(0, 1, (60, 40, 1))
        s.points(2, 2, box=[20, 20, 70, 60])
        how |= {"return_scores": True, "output": output, "progress": False, "max_frame_num_to_track": 7}
        answers.append(list(predictor.propagate_in_video(s.state, **how)))
    assert len(answers[0]) == len(answers[1]) == 8
    for (frame, ids, masks, scores), (frame_, ids_, masks_, scores_) in zip(*answers, strict=True):
        assert (frame, list(ids)) == (frame_, ids_)
        assert relative_error(masks, masks_) < TOLERANCE
        for x, y in zip(scores, scores_, strict=True):
            assert relative_error(x, y) < 1e-4


def test_tracking_goes_on_before_an_answer_is_given(fast, video):
    s = Session(fast, video)
    s.points(0, 1, (60, 40, 1))
    passing = fast.propagate_in_video(s.state, lag=2, progress=False)
    assert next(passing)[0] == 0
    assert set(s.state.objects[1].reverse) == {0, 1, 2}
    with pytest.raises(ValueError, match="lag is -1"):
        next(fast.propagate_in_video(s.state, lag=-1))


def test_cached_features_are_waited_for(fast, video):
    """The features that the official dict gets may still be on their way; none are computed again."""
    s, waits = Session(fast, video), []
    fast.fast = False
    cache = s.state.features

    def encode(frames):
        encoded = StepRunner(fast).encode(s.state.frames, frames, ahead=True)
        return EncodedFrames(encoded.features, waits.append)

    cache.encode([2, 1], encode)
    order = list(cache.kept)
    assert [frame for frame, _ in order] == [0, 2, 1] and not waits
    for _ in range(2):  # each time, for it may be on another stream
        waits.clear()
        assert [frame for frame, _ in cache.awaited()] == [0, 2, 1]
        assert [id(features) for features in waits] == [id(cache.kept[key]) for key in order[1:]]
    assert list(cache.kept) == order and cache.encoded == 3

    waits.clear()
    second, first = cache.read([2, 0])
    assert [id(features) for features in waits] == [id(second)] and first is cache.kept[order[0]]
    assert [frame for frame, _ in cache.kept] == [1, 2, 0], "those used last are dropped last"
