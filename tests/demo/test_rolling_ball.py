"""The film that the notebooks track: what is in it, where, and when it is hidden."""

import numpy as np
import pytest

from sam2fast.demo.rolling_ball import HEIGHT, WIDTH, draw_rolling_ball

FRAMES = 5
BALL, VASE, MUG = range(3)


@pytest.fixture(scope="module")
def films():
    return {side: draw_rolling_ball(FRAMES, mug_from=side) for side in ("left", "right")}


def middle(mask):
    rows, columns = np.nonzero(mask)
    return columns.mean(), rows.mean()


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_ball_rolls_behind_the_vase(films, side):
    film = films[side]
    assert film.frames.shape == (FRAMES, HEIGHT, WIDTH, 3) and film.frames.dtype == np.uint8
    assert film.masks.shape == (FRAMES, 3, HEIGHT, WIDTH) and film.masks.dtype == np.bool_
    assert film.masks.sum(axis=1).max() == 1  # what is seen of one is not seen of another
    assert film.masks[:, VASE].any(axis=(1, 2)).all()
    assert film.masks[:, BALL].any(axis=(1, 2)).tolist() == [True, True, False, True, True]
    ways = [middle(film.masks[frame, BALL]) for frame in (0, 4)]
    assert ways[0][0] < 0.2 * WIDTH < 0.8 * WIDTH < ways[1][0]


@pytest.mark.parametrize(("side", "comes", "near_the_ball"), [("left", 3, False), ("right", 2, True)])
def test_the_mug_comes_from_that_side(films, side, comes, near_the_ball):
    film = films[side]
    assert np.flatnonzero(film.masks[:, MUG].any(axis=(1, 2)))[0] == comes
    mug, ball = (middle(film.masks[-1, thing])[0] for thing in (MUG, BALL))
    assert (abs(mug - ball) < 0.25 * WIDTH) == near_the_ball
    assert (mug < WIDTH / 2) == (side == "left")


def test_masks_are_where_the_things_are_drawn(films):
    """Red and gold, teal, and yellow, before a grey wall and a brown table."""
    film = films["left"]
    ball, vase, mug = (film.frames[-1][film.masks[-1, thing]].mean(axis=0) for thing in (BALL, VASE, MUG))
    assert ball[0] > 1.5 * ball[1] > 1.5 * ball[2]
    assert vase[2] > vase[1] > vase[0]
    assert mug[0] > mug[1] > 2 * mug[2]
    assert (film.frames[0][film.masks[-1, MUG]].mean(axis=0) - mug).max() > 20  # where the mug will be is a table


def test_it_is_the_same_on_every_call(films):
    again = draw_rolling_ball(FRAMES, mug_from="left")
    assert np.array_equal(again.frames, films["left"].frames) and np.array_equal(again.masks, films["left"].masks)
