"""Processes that make batches and end while they hand one over."""

import errno
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from sam2fast.training.data import workers
from sam2fast.training.data.workers import LostWorkerError, lost_workers_named, received

RESET = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


class Torn:
    """A batch whose connection ends where it is received."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Callable[[Exception], None], tuple[Exception]]:
        return _fail, (self.error,)


def _fail(error: Exception) -> None:
    raise error


class TornBatches(Dataset[Any]):
    """The second batch is torn; the process that made it is killed a moment later, or lives on."""

    def __init__(self, is_killed: bool, error: Exception = RESET) -> None:
        self.is_killed, self.error = is_killed, error

    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> Any:
        if number == 2 and self.is_killed:
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)
        return Torn(self.error) if number == 1 else number


def receive(batches: TornBatches) -> list[int]:
    made = []
    with lost_workers_named():
        for number in received(DataLoader(batches, batch_size=None, num_workers=1)):
            made.append(number)
    return made


@pytest.fixture(params=["heard", "not heard"])
def signals(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whether torch hears of a process that ends."""
    before = signal.getsignal(signal.SIGCHLD)
    if request.param == "not heard":
        monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", True)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("signals")
def test_a_worker_killed_while_its_batch_is_received_is_named() -> None:
    """Torch raises the connection's error as long as the process is not gone."""
    how = r"\(pid.*\) (is killed by signal: Killed|exited unexpectedly)"  # by the signal, or as torch looks for itself
    with pytest.raises(LostWorkerError, match=rf"lost \(DataLoader worker {how}\);"):
        receive(TornBatches(is_killed=True))


@pytest.mark.parametrize(
    "error",
    [RESET, EOFError(), OSError("got end of file during message"), FileNotFoundError(errno.ENOENT, "listener")],
    ids=lambda error: type(error).__name__,
)
def test_a_connection_that_ends_for_no_known_reason_is_a_lost_worker(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(workers, "SECONDS_TO_END", 0.01)
    before = set(multiprocessing.active_children())
    name = type(error).__name__
    with pytest.raises(LostWorkerError, match=rf"lost \({name} amid a batch: .*\); where memory ran out") as raised:
        receive(TornBatches(is_killed=False, error=error))
    # As long as the error is there, too.
    assert set(multiprocessing.active_children()) <= before and raised.value.__cause__ is not None


def test_shared_memory_whose_name_is_gone_is_a_lost_worker() -> None:
    said = "unable to open shared memory object </torch_7> in read-write mode: No such file or directory (2)"
    with (
        pytest.raises(LostWorkerError, match="lost .unable to open shared memory object </torch_7>"),
        lost_workers_named(),
    ):
        raise RuntimeError(said)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="^of another kind$"), lost_workers_named():
        raise RuntimeError("of another kind")


def test_an_error_raised_from_itself_passes() -> None:
    """It is its own cause."""
    error = RuntimeError("of another kind")
    with pytest.raises(RuntimeError, match="^of another kind$"), lost_workers_named():
        list(received(raising_from_itself(error)))


def raising_from_itself(error: Exception) -> Iterator[int]:
    yield 1
    raise error from error
