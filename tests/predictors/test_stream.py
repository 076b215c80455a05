"""Streams give the same bits as offline sessions that stop at every prompted frame."""

import copy
import functools
import gc
import weakref

import numpy as np
import pytest
import torch
from video import SMALL, clip

from sam2fast.sam2_video_predictor import SAM2VideoPredictor

FRAMES = 17  # more than any model's pointers


@pytest.fixture(scope="module")
def image_list():
    return clip(FRAMES)


def tracked(predictor, image_list, prompted) -> list[torch.Tensor]:
    """Masks of one object that is clicked on some frames; passes of a state end and begin there."""
    state, masks = predictor.init_state(image_list), {}
    for t in range(len(image_list)):
        if state.obj_ids:
            ((_, _, masks[t]),) = predictor.propagate_in_video(state, t, 0, progress=False)
        if t in prompted:
            masks[t] = predictor.add_new_points_or_box(state, t, 1, [[60 + 3 * t, 40]], [1])[2]
    return [masks[t] for t in range(len(image_list))]


def streamed(stream, image_list, prompted) -> list[torch.Tensor]:
    masks = []
    for t, image in enumerate(image_list):
        answer = stream.step(image)
        if t in prompted:
            answer = stream.add_new_points_or_box(1, [[60 + 3 * t, 40]], [1])
        masks.append(answer.masks)
    return masks


def test_equals_the_video_under_autocast(video_predictor, image_list):
    """Bit for bit, beyond the reach of the memory. Of other sessions: tests/sessions/test_stream_sessions.py."""
    with torch.autocast("cpu", torch.bfloat16), video_predictor.open_stream() as stream:
        expected = tracked(video_predictor, image_list, (0, 4))
        assert all(map(torch.equal, expected, streamed(stream, image_list, (0, 4))))


def test_a_short_clip_of_known_length(video_predictor, image_list):
    """Below sixteen frames, their number scales the pointers' distances."""
    expected = tracked(video_predictor, image_list[:6], (0,))
    with video_predictor.open_stream(num_frames=6) as stream:
        assert all(map(torch.equal, expected, streamed(stream, image_list[:6], (0,))))
        with pytest.raises(IndexError, match="opened for 6 frames"):
            stream.step(image_list[6])
    with video_predictor.open_stream() as stream:
        assert not torch.equal(streamed(stream, image_list[:6], (0,))[5], expected[5])


def test_few_conditioning_frames(video_predictor, image_list, monkeypatch):
    """The stream's limit acts as the model's; frames beyond it are dropped."""
    monkeypatch.setattr(video_predictor, "add_all_frames_to_correct_as_cond", True)
    with monkeypatch.context() as patch:
        patch.setattr(video_predictor, "max_cond_frames_in_attn", 2)
        expected = tracked(video_predictor, image_list, (0, 2, 3, 5))
        limited = video_predictor.open_stream()
        answers = [streamed(limited, image_list, (0, 2, 3, 5))]
    own = video_predictor.open_stream(max_cond_frames=2)
    answers.append(streamed(own, image_list, (0, 2, 3, 5)))
    for stream, actual in zip((limited, own), answers, strict=True):
        assert all(map(torch.equal, expected, actual))
        assert list(stream._opened().objects[1].conditioning) == [5, 3, 2]  # 2 is near enough to count as tracked


def test_output_formats_of_masks(video_predictor, image_list):
    with video_predictor.open_stream() as stream:
        assert stream.step(image_list[0], output="bits").masks.shape == (0, 1, 90, 15)
        stream.add_new_points_or_box("a", [[60, 40]], [1])
        with pytest.raises(ValueError, match="output is 'rle'; expected one of"):
            stream.step(image_list[1], output="rle")
        assert stream.frame == 0
        result = stream.step(image_list[1], output="low_res")
        assert torch.equal(result.masks, result.scores.low_res_logits)
        assert stream.step(image_list[2], output="bool").masks.dtype == torch.bool


def test_memory_does_not_grow(video_predictor, image_list):
    """After 22 frames with two objects no more memory is used than after 18, on the device and the host."""
    sizes = []
    with video_predictor.open_stream() as stream:
        stream.step(image_list[0])
        for i in range(2):
            stream.add_new_points_or_box(i, [[20 + 25 * i, 40]], [1])
        for t in range(1, 22):
            stream.step(image_list[t % FRAMES])
            state = stream._opened()
            known = [sum(len(entries) for entries in vars(o).values()) for o in state.objects.values()]
            sizes.append((known, len(state.features.kept), state.bank.memories.data.shape[0]))
    assert all(size == sizes[17] for size in sizes[17:])
    assert sizes[17][0] == [1 + 16 + 1] * 2  # a conditioning frame, tracked ones, and the features of the last


def test_closing_frees_everything(video_predictor, image_list):
    with video_predictor.open_stream() as stream:
        stream.step(image_list[0])
        stream.add_new_points_or_box("a", [[60, 40]], [1])
        stream.step(image_list[1])
        state = stream._opened()
        parts = [weakref.ref(x) for x in (state, state.bank, state.features)]
        assert "objects ['a']" in repr(stream)
        del state
    gc.collect()
    assert all(part() is None for part in parts)
    stream.close()
    assert repr(stream) == "VideoStream(closed)"
    for call in (lambda: stream.step(image_list[2]), lambda: stream.remove_object("a"), lambda: stream.obj_ids):
        with pytest.raises(RuntimeError, match="the stream was closed"):
            call()


def test_nothing_is_encoded_without_objects(video_predictor, image_list, monkeypatch):
    def encode(images):
        raise AssertionError("a frame was encoded")

    monkeypatch.setattr(video_predictor, "encode_image", encode)
    with video_predictor.open_stream() as stream:
        result = stream.step(image_list[0])
    assert result.obj_ids == [] and result.masks.shape == (0, 1, 90, 120) and result.scores.iou.shape == (0,)
    assert result.scores.low_res_logits.shape == (0, 1, SMALL // 4, SMALL // 4)


@pytest.mark.parametrize("where", ["subclass", "class", "instance"])
def test_overridden_methods_are_called(video_predictor, image_list, where, monkeypatch):
    """Public methods that a stream computes by functions of the tracker."""
    ours, called = copy.deepcopy(video_predictor), []
    names = ["add_new_points_or_box", "add_new_mask", "clear_all_prompts_in_frame", "remove_object"]
    names += ["propagate_in_video_preflight", "check_recordings"]
    methods = {name: _noting(getattr(SAM2VideoPredictor, name), called) for name in names}
    if where == "subclass":
        ours.__class__ = type("Custom", (SAM2VideoPredictor,), methods)
    for name, method in methods.items() if where == "class" else ():
        monkeypatch.setattr(SAM2VideoPredictor, name, method)
    stream = ours.open_stream()
    for name, method in methods.items() if where == "instance" else ():
        setattr(ours, name, method.__get__(ours))  # also of a stream that is open
    expected = video_predictor.open_stream() if where != "class" else ours.open_stream()
    for each in (stream, expected):
        each.step(image_list[0])
        each.add_new_points_or_box(1, [[30, 30]], [1])
        each.add_new_mask(2, np.eye(SMALL, dtype=bool))
        each.clear_prompts(2)
        each.remove_object(2)
    one, other = (each.step(image_list[1]).masks for each in (stream, expected))
    assert set(called) == set(names) and torch.equal(one, other)


def _noting(method, called: list[str]):
    @functools.wraps(method)
    def noting(*args, **kwargs):
        called.append(method.__name__)
        return method(*args, **kwargs)

    return noting
