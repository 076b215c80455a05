"""Frames as a sequence, their cache and prefetching, on a source that counts reads."""

import copy
import functools
import gc
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from at_once import at_once
from PIL import Image
from suite.photographs import Repeated
from waiting import wait_until

from sam2fast.kernels.preprocess import MEAN, STD
from sam2fast.video_io import Frames, VideoError, open_frames, read_ahead
from sam2fast.video_io.frame_cache import AHEAD, CAPACITY, FrameCache, _work

SIZE, COUNT, DAMAGED = 4, 100, 57


class CountingSource:
    """Frame i is filled with i. Reading yields the frames on the way, as a video file does. Frame 57 is damaged."""

    height, width = 30, 40
    reads_in_parallel = False
    rate, truncated, choices = 10.0, "nothing after frame 99", {"bands": {"numbers": [1], "of": 2}}

    def __init__(self):
        self.reads, self.users, self.is_closed = [], 0, False

    def __len__(self):
        return COUNT

    def read(self, index, since):
        assert not self.is_closed
        self.users += 1
        assert self.users == 1, "two threads read at a time"
        self.reads.append((index, since))
        for rank in range(since, index + 1):
            if rank == index:
                self.users -= 1
            if rank != DAMAGED:
                yield rank, torch.full((SIZE, SIZE, 3), rank, dtype=torch.uint8)
            elif rank == index:
                raise VideoError(f"frame {DAMAGED} is damaged")

    def time(self, index):
        return index / self.rate

    def close(self):
        self.is_closed = True


@pytest.fixture
def source():
    return CountingSource()


@pytest.fixture(params=[False, True], ids=["alone", "prefetch"])
def frames(request, source):
    frames = Frames(source, SIZE, prefetch=request.param)
    yield frames
    frames.close()


@pytest.fixture
def alone(source):
    return Frames(source, SIZE)


@pytest.fixture
def prefetching(source):
    frames = Frames(source, SIZE, prefetch=True)
    yield frames
    frames.close()


def wait_for(frames, *indices):
    """Waits until frames were prefetched."""
    assert wait_until(lambda: frames._cache.has(indices))


def numbers(frames, indices):
    return [int(frames.pixels(index)[0, 0, 0]) for index in indices]


class TestSequence:
    def test_values(self, frames):
        for value in (0, 255):
            frames.pixels(3)[:] = value
            expected = (value / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
            assert frames[3].dtype == torch.float32
            assert torch.allclose(frames[3], expected[:, None, None].expand(3, SIZE, SIZE), atol=1e-6)

    def test_indices(self, frames):
        assert numbers(frames, [0, -1, -COUNT, torch.tensor(7), -30]) == [0, 99, 0, 7, 70]
        for index in (COUNT, -COUNT - 1, 10**9):
            with pytest.raises(IndexError, match=rf"frame {index} of a video of {COUNT} frames"):
                frames[index]
        assert torch.equal(frames[97::2], torch.stack([frames[97], frames[99]]))
        assert frames[5:5].shape == (0, *frames.shape[1:])
        for index in (1.0, "1", None):
            with pytest.raises(TypeError, match=type(index).__name__):
                frames[index]

    def test_iteration(self, frames, monkeypatch):
        seen = []
        with pytest.raises(VideoError, match="57"):
            for frame in frames:
                seen.append(frame)
        assert len(seen) == DAMAGED
        monkeypatch.setitem(globals(), "DAMAGED", -1)
        assert len(list(frames)) == COUNT

    @pytest.mark.gpu
    def test_the_gpu_gives_the_same_bits(self, source):
        cpu, gpu = Frames(source, SIZE), Frames(source, SIZE, device="cuda")
        for index in (0, 1, 33, 99):
            assert gpu[index].is_cuda and torch.equal(gpu[index].cpu(), cpu[index])


class TestCache:
    def test_the_furthest_behind_leaves_first(self, source):
        """Or the furthest ahead, if none is behind."""
        for order, kept in ((range(40), range(8, 40)), (range(50, 16, -1), range(32))):
            cache = FrameCache(source)
            assert [int(cache.get(index)[0, 0, 0]) for index in order] == [*order]
            assert sorted(cache._frames) == [*kept]
        cache = FrameCache(source)
        cache.get(0)
        for index in range(1, 40):
            cache.fetch(index)
        assert sorted(cache._frames) == [*range(CAPACITY)]

    def test_memory_is_bounded(self, frames):
        kept = []
        for index in [*range(50), *range(49, -1, -1), *range(10, 50, 3)]:
            frames.pixels(index)
            kept.append(len(frames._cache._frames))
        assert max(kept) == CAPACITY

    def test_going_backwards_fills_the_cache(self, alone, source):
        order = list(range(50, -1, -1))
        assert numbers(alone, order) == order
        assert source.reads == [(50, 50), (49, 49 - CAPACITY + 1), (49 - CAPACITY, 0)]

    def test_errors_are_not_cached(self, alone, source):
        for _ in range(2):
            with pytest.raises(VideoError, match="57"):
                alone[DAMAGED]
        assert len(source.reads) == 2


class OnePass:
    """Queue with one request to prefetch."""

    def __init__(self):
        self.get = iter([True, False]).__next__

    def empty(self):
        return True


class TestPrefetch:
    @pytest.mark.parametrize("order", [[20], [50, 49, 20]], ids=["forwards", "backwards"])
    def test_only_the_next_frames_are_read(self, order, prefetching, source):
        for index, step in zip(order, (1, -1, -1), strict=False):
            seen = len(source.reads)
            prefetching.pixels(index)
            expected = {index + step * k for k in range(1, AHEAD + 1)}
            wait_for(prefetching, *expected)  # before the direction changes, the thread may read the others
        time.sleep(0.05)
        assert {read for read, _ in source.reads[seen:]} <= {index, *expected}
        assert len(source.reads) - seen <= 1 + AHEAD

    def test_nothing_is_read_while_half_of_them_are_there(self, prefetching, source):
        prefetching.pixels(20)
        wait_for(prefetching, 20 + AHEAD)
        numbers(prefetching, range(21, 21 + AHEAD // 2))
        time.sleep(0.05)
        assert len(source.reads) == 1 + AHEAD
        prefetching.pixels(21 + AHEAD // 2)
        wait_for(prefetching, 21 + AHEAD // 2 + AHEAD)

    def test_a_requested_frame_is_read_before_later_frames(self, source):
        """Otherwise a decoder would go back, if the thread is faster than the caller."""
        cache = FrameCache(source)
        cache.get(5)
        cache._position = 6  # a caller has requested the frame, and is about to read it
        _work(cache, OnePass())
        cache.get(6)
        assert [index for index, _ in source.reads] == [*range(5, 7 + AHEAD)]

    def test_the_video_s_ends(self, prefetching):
        assert numbers(prefetching, [98, 99, 1, 0, 99]) == [98, 99, 1, 0, 99]

    def test_the_error_is_raised_for_its_frame(self, prefetching):
        prefetching.pixels(DAMAGED - 1)
        wait_for(prefetching, DAMAGED + AHEAD - 1)
        assert numbers(prefetching, [DAMAGED - 2, DAMAGED + 1]) == [DAMAGED - 2, DAMAGED + 1]
        with pytest.raises(VideoError, match="57"):
            prefetching[DAMAGED]

    def test_garbage_collection_ends_the_thread(self):
        gc.freeze()  # collections pass over what is older
        frames = Frames(CountingSource(), SIZE, prefetch=True)
        thread = frames._prefetcher._thread
        assert thread.daemon
        frames.pixels(3)
        other = copy.copy(frames)
        del frames
        gc.collect()
        other.pixels(4)
        wait_for(other, 5)
        del other
        gc.collect()
        assert wait_until(lambda: not thread.is_alive())


class ImagesOnDisk(CountingSource):
    """Reads the first eight frames after frame 0 four at a time."""

    reads_in_parallel = True
    together = 4

    def __init__(self):
        super().__init__()
        self.barrier = threading.Barrier(self.together)

    def read(self, index, since):
        self.reads.append(index)
        return [(index, functools.partial(self.pixels, index))]

    def pixels(self, index):
        if 0 < index <= 8:
            self.barrier.wait(10)
        if index == DAMAGED:
            raise VideoError(f"frame {DAMAGED} is damaged")
        return torch.full((SIZE, SIZE, 3), index, dtype=torch.uint8)


class TestReaders:
    @pytest.fixture(autouse=True)
    def four(self, monkeypatch):
        monkeypatch.setattr(read_ahead, "available_cores", lambda: ImagesOnDisk.together)

    @pytest.fixture
    def source(self):
        return ImagesOnDisk()

    def test_images_are_read_at_once(self, prefetching, source):
        prefetching.pixels(0)
        wait_for(prefetching, *range(1, 9))
        assert numbers(prefetching, range(9)) == [*range(9)]
        assert len(source.reads) == len(set(source.reads)), "each once"

    def test_the_error_is_raised_for_its_frame(self, prefetching, source):
        prefetching.pixels(DAMAGED - 1)
        wait_for(prefetching, DAMAGED + 7)
        with pytest.raises(VideoError, match="57"):
            prefetching[DAMAGED]

    def test_fewer_threads_decode_large_images(self, source):
        source.height, source.width = 8000, 6000  # 137 MiB each
        assert FrameCache(source).threads == 1
        source.height //= 2
        assert FrameCache(source).threads == 3

    def test_threads_end_with_the_video(self, source):
        before = set(threading.enumerate())
        frames = Frames(source, SIZE, prefetch=True)
        numbers(frames, range(8))
        threads = set(threading.enumerate()) - before
        assert len(threads) == 5  # one reads ahead, four convert
        frames.close()
        assert source.is_closed and not any(thread.is_alive() for thread in threads)

    def test_threads_that_are_behind_stop_the_reading(self, source):
        """Each conversion holds a decoded frame."""
        source.reads_in_parallel, source.barrier = False, threading.Barrier(5)
        frames = Frames(source, SIZE, prefetch=True)
        cache = frames._cache
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: [cache.fetch(index) for index in range(1, 20)])
            assert wait_until(lambda: len(source.reads) == 9)  # twice the threads, and the frame that waits
            time.sleep(0.05)
            assert len(source.reads) == 9
            source.barrier.abort()
        frames.close()


class OwnList(list):
    """Could load its items."""


class OwnArray(np.ndarray):
    """Could load its frames."""


@pytest.mark.parametrize(
    ("images", "in_parallel"),
    [
        ([np.zeros((8, 8, 3), np.uint8)] * 2, True),
        (np.zeros((2, 8, 8, 3), np.uint8), True),
        ([Image.new("RGB", (8, 8))] * 2, False),  # one object, which loads its file when it is read
        (Repeated([np.zeros((8, 8, 3), np.uint8)], 2), False),
        (OwnList([np.zeros((8, 8, 3), np.uint8)] * 2), False),
        (np.zeros((2, 8, 8, 3), np.uint8).view(OwnArray), False),
    ],
    ids=["arrays", "array", "images", "own sequence", "own list", "own array"],
)
def test_only_images_without_a_state_are_read_at_once(images, in_parallel):
    assert open_frames(images, SIZE)._source.reads_in_parallel == in_parallel


def test_a_process_ends_after_the_frames_that_it_reads():
    """A thread inside torch would abort it."""
    code = """
import threading
import time
import torch
from sam2fast.video_io import Frames
from sam2fast.video_io.sources import Source

begun = threading.Event()

class Slow(Source):
    height = width = 4

    def __len__(self):
        return 3

    def read(self, index, since):
        if index == 1:
            begun.set()
            time.sleep(0.5)
            print("read", flush=True)
        return [(index, torch.zeros(4, 4, 3, dtype=torch.uint8))]

frames = Frames(Slow(), 4, prefetch=True)
frames.pixels(0)
begun.wait()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "read\n"), done.stderr


def test_closed_frames(frames, source):
    frames.pixels(3)
    prefetcher = frames._prefetcher
    for _ in range(2):
        frames.close()
    assert source.is_closed and (prefetcher is None or not prefetcher._thread.is_alive())
    with pytest.raises(VideoError, match="closed"):
        frames[3]


def test_many_threads(frames):
    def work(seed):
        order = torch.randint(0, COUNT, (200,), generator=torch.Generator().manual_seed(seed)).tolist()
        order = [index for index in order if index != DAMAGED]
        assert numbers(frames, order) == order

    at_once(*(functools.partial(work, seed) for seed in range(8)))
