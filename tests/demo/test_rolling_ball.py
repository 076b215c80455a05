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
