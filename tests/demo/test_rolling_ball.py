"""The video that the notebooks track: its objects, their motion, and when they are hidden."""

import numpy as np
import pytest

from sam2fast.demo.rolling_ball import HEIGHT, WIDTH, draw_rolling_ball

FRAMES = 5
BALL, VASE, MUG = range(3)


@pytest.fixture(scope="module")
def videos():
    return {side: draw_rolling_ball(FRAMES, mug_from=side) for side in ("left", "right")}


def centre(mask):
    rows, columns = np.nonzero(mask)
    return columns.mean(), rows.mean()


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_ball_rolls_behind_the_vase(videos, side):
    video = videos[side]
    assert video.frames.shape == (FRAMES, HEIGHT, WIDTH, 3) and video.frames.dtype == np.uint8
    assert video.masks.shape == (FRAMES, 3, HEIGHT, WIDTH) and video.masks.dtype == np.bool_
    assert video.masks.sum(axis=1).max() == 1  # visible parts do not overlap
    assert video.masks[:, VASE].any(axis=(1, 2)).all()
    assert video.masks[:, BALL].any(axis=(1, 2)).tolist() == [True, True, False, True, True]
    centres = [centre(video.masks[frame, BALL]) for frame in (0, 4)]
    assert centres[0][0] < 0.2 * WIDTH < 0.8 * WIDTH < centres[1][0]


@pytest.mark.parametrize(("side", "comes", "near_the_ball"), [("left", 3, False), ("right", 2, True)])
def test_the_mug_comes_from_that_side(videos, side, comes, near_the_ball):
    video = videos[side]
    assert np.flatnonzero(video.masks[:, MUG].any(axis=(1, 2)))[0] == comes
    mug, ball = (centre(video.masks[-1, i])[0] for i in (MUG, BALL))
    assert (abs(mug - ball) < 0.25 * WIDTH) == near_the_ball
    assert (mug < WIDTH / 2) == (side == "left")


def test_masks_are_where_the_objects_are_drawn(videos):
    """Red and gold, teal, and yellow, before a grey wall and a brown table."""
    video = videos["left"]
    ball, vase, mug = (video.frames[-1][video.masks[-1, i]].mean(axis=0) for i in (BALL, VASE, MUG))
    assert ball[0] > 1.5 * ball[1] > 1.5 * ball[2]
    assert vase[2] > vase[1] > vase[0]
    assert mug[0] > mug[1] > 2 * mug[2]
    assert (video.frames[0][video.masks[-1, MUG]].mean(axis=0) - mug).max() > 20  # the table, before the mug arrives


def test_it_is_the_same_on_every_call(videos):
    again = draw_rolling_ball(FRAMES, mug_from="left")
    assert np.array_equal(again.frames, videos["left"].frames) and np.array_equal(again.masks, videos["left"].masks)
