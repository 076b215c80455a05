"""Frames that are encoded once, for any number of streams: the bits of streams that encode each frame themselves."""

import numpy as np
import pytest
import torch
from video import clip, narrow_predictor

from sam2fast.video_io import VideoError


@pytest.fixture(scope="module")
def image_list():
    return clip(5)


@pytest.fixture
def encoded_frames(video_predictor, monkeypatch) -> list[int]:
    """The batch sizes that the encoder gets."""
    encode, sizes = video_predictor._tracker.steps.encode, []

    def counted(frames, indices, *how):
        sizes.append(len(indices))
        return encode(frames, indices, *how)

    monkeypatch.setattr(video_predictor._tracker.steps, "encode", counted)
    return sizes


def tracked(predictor, frames, first) -> list[torch.Tensor]:
    """Masks of one object, which is clicked on the first frame of its stream and corrected two frames later."""
    with predictor.open_stream() as stream:
        masks = []
        for t, frame in enumerate(frames[first:]):
            masks.append(stream.step(frame).masks)
            if t in (0, 2):
                masks.append(stream.add_new_points_or_box("a", [[60 + 9 * first, 40]], [1]).masks)
    return masks


def test_streams_share_features(video_predictor, image_list, encoded_frames):
    expected = [tracked(video_predictor, image_list, first) for first in (0, 1)]
    encoded_frames.clear()
    encoded = [video_predictor.encode_frame(image) for image in image_list]
    actual = [tracked(video_predictor, encoded, first) for first in (0, 1)]
    assert encoded_frames == [1] * len(image_list)
    for one, other in zip(expected, actual, strict=True):
        assert len(one) == len(other) > 4 and all(map(torch.equal, one, other))


def test_a_stream_may_mix_frames(video_predictor, image_list):
    mixed = [video_predictor.encode_frame(image) if t % 2 else image for t, image in enumerate(image_list)]
    assert all(map(torch.equal, tracked(video_predictor, image_list, 0), tracked(video_predictor, mixed, 0)))


def test_features_of_another_precision_are_not_used(video_predictor, image_list, encoded_frames):
    encoded = [video_predictor.encode_frame(image) for image in image_list]
    with torch.autocast("cpu", torch.bfloat16):
        expected = tracked(video_predictor, image_list, 0)
        encoded_frames.clear()
        assert all(map(torch.equal, expected, tracked(video_predictor, encoded, 0)))
    assert encoded_frames == [1] * len(image_list)


def test_features_from_before_a_hook_are_not_used(video_predictor, image_list):
    encoded = [video_predictor.encode_frame(image) for image in image_list]
    handle = video_predictor.image_encoder.register_forward_hook(
        lambda module, given, output: {**output, "vision_features": output["vision_features"] * 0.5}
    )
    try:
        expected = tracked(video_predictor, image_list, 0)
        assert all(map(torch.equal, expected, tracked(video_predictor, encoded, 0)))
    finally:
        handle.remove()


def test_pixels_and_errors(video_predictor, image_list):
    encoded = video_predictor.encode_frame(image_list[0])
    assert np.array_equal(encoded.rgb, np.asarray(image_list[0]))
    assert encoded.rgb.shape == (encoded.height, encoded.width, 3)
    again = video_predictor.encode_frame(encoded)
    assert torch.equal(again._features.embedding, encoded._features.embedding)
    with narrow_predictor().open_stream() as other, pytest.raises(ValueError, match="encoded by another model"):
        other.step(encoded)
    assert other.frame is None
    with video_predictor.open_stream() as stream:
        stream.step(encoded)
        with pytest.raises(VideoError, match="resize the frame"):
            stream.step(video_predictor.encode_frame(encoded.rgb[:-5]))
        assert stream.frame == 0
    with pytest.raises(FileNotFoundError):
        video_predictor.encode_frame("missing.jpg")
