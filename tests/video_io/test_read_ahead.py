"""Frames that threads read and resize ahead."""

import threading
from functools import partial

import numpy as np
import pytest
import torch
from waiting import wait_until

from sam2fast.video_io.read_ahead import Resizer, read_ahead
from sam2fast.video_io.video_types import FramePixels, StreamFrame


def test_results_are_in_order():
    """Although the first of each pair of functions waits for the second."""
    done = [threading.Event() for _ in range(10)]

    def work(index):
        if index % 2 and index + 1 < len(done):
            assert done[index + 1].wait(10)
        done[index].set()
        return index

    assert list(read_ahead(map(partial(partial, work), range(10)), 4, 4)) == [*range(10)]


def test_only_the_next_are_read_and_none_before_the_second_is_requested():
    called = []
    items = read_ahead(map(partial(partial, called.append), range(10**9)), 3, 1)
    next(items)
    assert called == [0]
    next(items)
    assert wait_until(lambda: len(called) == 5)  # the second, and three ahead
    items.close()
    assert called == [0, 1, 2, 3, 4]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sam2fast-read")]


def test_an_error_is_raised_in_its_turn():
    items = read_ahead(iter([lambda: 1, lambda: 2, lambda: 1 // 0, lambda: 4]), 3, 1)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(ZeroDivisionError):
        next(items)
    assert list(items) == []


@pytest.mark.parametrize(
    ("resizes", "ahead"),
    [([True] * 6, [0, 0, 1, 1, 1, 1]), ([False] * 6, [0] * 6), ([True, False] * 3, [0] * 6)],
    ids=["all", "none", "every second"],
)
def test_frames_are_resized_ahead_after_two_in_a_row(resizes, ahead):
    resizer, resized, started = Resizer(2), [], []

    def resize(index):
        resized.append((index, threading.current_thread() is not threading.main_thread()))
        return torch.tensor(index)

    def frames():
        for index in range(6):
            square = resizer.start(partial(resize, index))
            started.append(square)
            yield StreamFrame(index, None, 1, 1, FramePixels(partial(np.zeros, 1), square))

    for frame, is_wanted in zip(resizer.follow(frames()), resizes, strict=True):
        if is_wanted:
            assert int(frame.square) == frame.index
    assert sorted(resized) == [(i, bool(ahead[i])) for i in range(6) if resizes[i]]
