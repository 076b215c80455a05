"""Batches of clips: reproducible, with bad samples replaced, and lost worker processes reported."""

import atexit
import errno
import logging
import multiprocessing
import os
import resource
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from sam2fast.datasets.clip import Clip
from sam2fast.training.data import loader as loader_module
from sam2fast.training.data.clip import DataError
from sam2fast.training.data.loader import (
    MAX_TRIES,
    ClipLoader,
    ClipSource,
    LostWorkerError,
    receive_batches,
    reporting_lost_workers,
)


@dataclass
class Noise:
    """Clips whose first pixel is their index; all others are random."""

    length: int
    num_frames: int = 2
    bad: frozenset[int] = field(default_factory=frozenset)
    error: type[BaseException] = OSError
    name: str = "noise"

    def __len__(self):
        return self.length

    def sample(self, index, rng):
        if index in self.bad:
            raise self.error(f"file {index} is broken")
        frames = rng.integers(0, 256, (self.num_frames, 8, 8, 3), dtype=np.uint8)
        frames[:, 0, 0] = index
        return Clip(frames, rng.random((self.num_frames, 1 + index % 3, 8, 8)) < 0.5, f"{self.name} {index}")


class Lengths(Noise):
    """Clips of one frame and of two."""

    def sample(self, index, rng):
        return Noise(self.length, 1 + index % 2).sample(index, rng)


class Crowded(Noise):
    """Clips whose worker has no shared memory for a batch."""

    def sample(self, index, rng):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        return super().sample(index, rng)


def bytes_of(batch):
    tensors = tuple((tuple(x.shape), x.numpy().tobytes()) for x in (batch.frames, batch.masks, batch.video))
    return (*tensors, batch.seeds, batch.names, batch.key)


def indices_of(batch):
    return batch.frames[0, :, 0, 0, 0].tolist()


def mixture(**settings):
    videos = ClipSource(Noise(11, num_frames=3, bad=frozenset({4}), name="videos"), 2, key="video")
    images = ClipSource(Noise(9, num_frames=1, name="images"), 3, key="image")
    return ClipLoader([videos, images], **{"seed": 7, **settings})


@pytest.mark.parametrize("batches_per_epoch", [None, 20])
def test_resumed_anywhere_with_any_workers(batches_per_epoch):
    whole = [bytes_of(batch) for batch in mixture(batches_per_epoch=batches_per_epoch).epoch(3)]
    for other in (mixture(batches_per_epoch=batches_per_epoch, seed=8).epoch(3), mixture().epoch(2)):
        assert [bytes_of(batch) for batch in other] != whole
    assert len(whole) == len(mixture(batches_per_epoch=batches_per_epoch)) == (batches_per_epoch or 5 + 3)
    for start, num_workers in [(0, 2), (3, 0), (5, 2), (len(whole), 0)]:
        loader = mixture(batches_per_epoch=batches_per_epoch, num_workers=num_workers)
        assert [bytes_of(batch) for batch in loader.epoch(3, start)] == whole[start:]


def test_the_global_generator_is_unchanged():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(mixture(num_workers=1, batches_per_epoch=2).epoch(0))
    assert torch.equal(torch.rand(1), expected)


def test_once_through_is_a_permutation():
    orders = []
    for epoch in range(2):
        drawn = Counter()
        for batch in ClipLoader([ClipSource(Noise(10), 2), ClipSource(Noise(9, 1), 3)]).epoch(epoch):
            drawn.update((batch.num_frames, index) for index in indices_of(batch))
        assert drawn == Counter([*((2, i) for i in range(10)), *((1, i) for i in range(9))])
        orders.append(list(drawn))
    assert orders[0] != orders[1]


def test_more_than_one_pass_permutes_anew():
    loader = ClipLoader([ClipSource(Noise(6), 2)], batches_per_epoch=7)
    order = [index for batch in loader.epoch(0) for index in indices_of(batch)]
    passes = [order[:6], order[6:12]]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(6)) and passes[0] != passes[1]
    assert len(order) == 14


def test_unshuffled_with_a_rest():
    for drop_last, rest in ((False, [[4]]), (True, [])):
        loader = ClipLoader([ClipSource(Noise(5), 2)], shuffle=False, drop_last=drop_last)
        assert [indices_of(batch) for batch in loader.epoch(0)] == [[0, 1], [2, 3], *rest]


@pytest.mark.parametrize("drop_last", [True, False])
def test_ranks_share_sources_not_samples(drop_last):
    sources = [ClipSource(Noise(15), 2), ClipSource(Noise(8, 1), 2)]
    ranks = [list(ClipLoader(sources, rank=rank, world_size=2, drop_last=drop_last).epoch(1)) for rank in range(2)]
    assert [b.num_frames for b in ranks[0]] == [b.num_frames for b in ranks[1]]
    assert [b.num_videos for b in ranks[0]] == [b.num_videos for b in ranks[1]]
    drawn = Counter((b.num_frames, i) for rank in ranks for b in rank for i in indices_of(b))
    if drop_last:
        assert set(drawn.values()) == {1} and len(drawn) == 12 + 8
    else:  # 3 samples of the first source are left for 2 ranks
        assert len(drawn) == 15 + 8 and sum(drawn.values()) == 16 + 8
    seeds = [seed for rank in ranks for batch in rank for seed in batch.seeds]
    assert len(set(seeds)) == len(seeds)


def test_weights_set_how_often_a_source_is_drawn():
    sources = [ClipSource(Noise(4), 2, 3.0), ClipSource(Noise(4, 1), 2, 1.0), ClipSource(Noise(4, 5), 2, 0.0)]
    counts = Counter(batch.num_frames for batch in ClipLoader(sources, batches_per_epoch=2000).epoch(0))
    assert counts[5] == 0
    assert abs(counts[2] - 1500) < 5 * (2000 * 0.75 * 0.25) ** 0.5
    # In a single pass weights determine the order alone: all batches of each source with a weight are drawn.
    assert Counter(batch.num_frames for batch in ClipLoader(sources).epoch(0)) == {2: 2, 1: 2}


def test_workers_outlive_a_signal_to_the_process_group():
    """SIGTERM stops a run, which then saves: its workers, which get the signal, too, go on."""
    found = []
    for batch in mixture(num_workers=1).epoch(0):
        found.append(bytes_of(batch))
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGTERM)
    assert found == [bytes_of(batch) for batch in mixture().epoch(0)]


def test_workers_end_with_an_error_and_at_exit(monkeypatch):
    """Python would wait for them, since they ignore SIGTERM, as long as the error or a frame has the batches."""
    registered = []
    monkeypatch.setattr(atexit, "register", registered.append)
    broken = ClipLoader([ClipSource(Noise(4, bad=frozenset(range(4)), error=TypeError), 1)], num_workers=1).epoch(0)
    with pytest.raises(TypeError, match="is broken"):
        next(broken)
    assert not multiprocessing.active_children()
    batches = ClipLoader([ClipSource(Noise(8), 1)], num_workers=1).epoch(0)
    next(batches)
    registered[-1]()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_samples_are_reported_and_replaced(num_workers, caplog):
    loader = ClipLoader([ClipSource(Noise(6, bad=frozenset({2})), 3)], num_workers=num_workers)
    with caplog.at_level(logging.WARNING):
        drawn = [index for batch in loader.epoch(0) for index in indices_of(batch)]
    assert len(drawn) == 6 and 2 not in drawn
    assert loader.bad_samples == len(caplog.messages) >= 1
    assert "noise" in caplog.messages[0] and "clip 2" in caplog.messages[0] and "broken" in caplog.messages[0]


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("clips", "batch_size", "most", "message"),
    [
        (Noise(3, bad=frozenset(range(3))), 1, 100, f"^data set noise: {MAX_TRIES} .* file . is broken$"),
        (Noise(3, bad=frozenset({1})), 1, 0, "max_bad_samples=0.*clip 1.*file 1 is broken"),
        (Noise(50, bad=frozenset(range(30))), 5, 100, "epoch 0, more than the 50 good ones; .* broken"),
        (Lengths(4), 4, 100, r"data set noise, clips \['noise .'.*one shape"),
    ],
    ids=["hopeless", "strict", "mostly bad", "lengths"],
)
def test_unusable_data(clips, batch_size, most, message, num_workers):
    loader = ClipLoader([ClipSource(clips, batch_size)], num_workers=num_workers, max_bad_samples=most)
    with pytest.raises(DataError, match=message):
        list(loader.epoch(0))


def test_bad_samples_are_counted_by_epoch():
    loader = ClipLoader([ClipSource(Noise(50, bad=frozenset({1})), 1)], max_bad_samples=3)
    assert [len(list(loader.epoch(epoch))) for epoch in range(4)] == [50] * 4 and loader.bad_samples >= 4


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, TypeError, DataError])
def test_errors_that_are_not_the_samples(error):
    with pytest.raises(error):
        list(ClipLoader([ClipSource(Noise(3, bad=frozenset({1}), error=error), 1)]).epoch(0))


FOUR = ClipSource(Noise(4), 1)


@pytest.mark.parametrize(
    ("sources", "settings", "message"),
    [
        ([], {}, "at least one"),
        ([FOUR, ClipSource(Noise(0, name="nothing"), 1)], {}, "nothing is empty"),
        ([ClipSource(Noise(4), 5)], {}, "less than one batch"),
        ([ClipSource(Noise(4), 1, 1.0), FOUR], {}, "weight"),
        ([ClipSource(Noise(4), 1, 0.0)], {}, "weights"),
        ([FOUR], {"seed": -1}, "seed"),
    ],
)
def test_refusals(sources, settings, message):
    with pytest.raises(ValueError, match=message):
        ClipLoader(sources, **settings)


def test_a_worker_without_shared_memory_ends_the_training():
    """Torch would drop the batch, and wait for it forever."""
    with pytest.raises(LostWorkerError, match=r"no room for one in shared memory \(.*File too large.*--shm-size$"):
        next(ClipLoader([ClipSource(Crowded(4), 2)], num_workers=1).epoch(0))


RESET = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


class Torn:
    """A batch whose connection breaks while it is received."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        return _fail, (self.error,)


def _fail(error):
    raise error


class TornBatches(Dataset[Any]):
    """The connection of the second batch breaks; its worker is killed a moment later, or stays alive."""

    def __init__(self, is_killed, error=RESET):
        self.is_killed, self.error = is_killed, error

    def __len__(self):
        return 3

    def __getitem__(self, number):
        if number == 2 and self.is_killed:
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)
        return Torn(self.error) if number == 1 else number


def receive(batches):
    with reporting_lost_workers():
        list(receive_batches(DataLoader(batches, batch_size=None, num_workers=1)))


@pytest.fixture(params=["heard", "not heard"])
def signals(request, monkeypatch):
    """Whether torch's signal handler notices an exit."""
    before = signal.getsignal(signal.SIGCHLD)
    if request.param == "not heard":
        monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", True)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("signals")
def test_a_worker_killed_while_its_batch_is_received_is_named():
    """Torch raises the connection's error until the process has exited."""
    how = r"\(pid.*\) (is killed by signal: Killed|exited unexpectedly)"  # by the handler or by a check
    with pytest.raises(LostWorkerError, match=rf"lost \(DataLoader worker {how}\);"):
        receive(TornBatches(is_killed=True))


@pytest.mark.parametrize("error", [RESET, EOFError()], ids=lambda error: type(error).__name__)
def test_a_connection_that_ends_for_no_known_reason_is_a_lost_worker(monkeypatch, error):
    monkeypatch.setattr(loader_module, "SECONDS_TO_EXIT", 0.01)
    name = type(error).__name__
    with pytest.raises(LostWorkerError, match=rf"lost \({name} during a batch: .*\); if memory ran out"):
        receive(TornBatches(is_killed=False, error=error))


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        ("unable to open shared memory object", LostWorkerError, "lost"),
        ("another kind", RuntimeError, "^another kind$"),
    ],
)
def test_errors_of_torch(said, kind, message):
    with pytest.raises(kind, match=message), reporting_lost_workers():
        error = RuntimeError(said)
        raise error from error  # its own cause


def test_the_first_of_several_errors_is_reported():
    with pytest.raises(LostWorkerError, match="pid 7. is killed"), reporting_lost_workers():
        try:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
        except RuntimeError as error:
            raise RuntimeError("Pin memory thread exited unexpectedly") from error
