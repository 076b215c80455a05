"""Clips of still images by a moving camera."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sam2fast.datasets.clip import Clip
from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.training.data.camera import RandomCamera

HEIGHT, WIDTH = 90, 120


@pytest.fixture
def still():
    """Brightness grows to the right; objects: a square, a speck, the whole image, nothing."""
    frame = np.broadcast_to(np.arange(WIDTH, dtype=np.uint8)[None, :, None], (HEIGHT, WIDTH, 3)).copy()
    masks = np.zeros((4, HEIGHT, WIDTH), dtype=np.bool_)
    masks[0, 30:60, 40:80] = masks[1, 5:6, 5:6] = masks[2] = True
    return Clip(frame[None], masks[None], "still", (3, 5, 7, 9), (0,))


def test_the_whole_image_is_resized(still):
    clip = RandomCamera(30, zoom=(1.0, 1.0), most_aspect=1.0)(still, np.random.default_rng(0))
    expected = Image.fromarray(still.frames[0]).resize((30, 30), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(clip.frames, np.asarray(expected)[None])
    assert clip.object_ids == (3,) and clip.masks.shape == (1, 1, 30, 30)
    assert clip.masks[0, 0, 10:20, 10:20].all() and clip.masks.sum() == 100


def test_masks_move_with_their_frames(still):
    camera, rng = RandomCamera(64, num_frames=4, motion=0.2), np.random.default_rng(1)
    moved = 0
    for _ in range(50):
        clip = camera(replace(still, masks=still.masks[:, :1]), rng)
        assert clip.frames.shape == (4, 64, 64, 3) and clip.masks.shape == (4, 1, 64, 64)
        assert clip.frame_indices == (0, 0, 0, 0) and clip.masks[0].any()
        for frame, mask in zip(clip.frames, clip.masks[:, 0], strict=True):
            columns = frame[0, :, 0].astype(int)
            # The brightness tells where a column comes from.
            inside = (columns >= 40) & (columns < 79)
            shown = mask.any(axis=0)
            if shown.any():
                assert (shown ^ inside).sum() <= 4
        moved += not (clip.frames[0] == clip.frames[-1]).all()
    assert moved > 40


def test_the_same_generator_gives_the_same_clip(still):
    camera = RandomCamera(32, num_frames=3)
    first, second = (camera(still, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first.frames, second.frames)
    np.testing.assert_array_equal(first.masks, second.masks)


def test_refusals(still):
    empty, two = replace(still, masks=still.masks[:, 3:]), replace(still, frames=np.concatenate([still.frames] * 2))
    for clip, error, message in ((empty, DatasetError, "'still': no crop"), (two, ValueError, "got 2")):
        with pytest.raises(error, match=message):
            RandomCamera(32)(clip, np.random.default_rng(0))
