"""Worker processes that exit while they send a batch."""

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from sam2fast.training.data import loader
from sam2fast.training.data.loader import LostWorkerError, receive_batches, reporting_lost_workers

RESET = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


class Torn:
    """A batch whose connection breaks while it is received."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Callable[[Exception], None], tuple[Exception]]:
        return _fail, (self.error,)


def _fail(error: Exception) -> None:
    raise error


class TornBatches(Dataset[Any]):
    """The connection of the second batch breaks; its worker is killed a moment later, or stays alive."""

    def __init__(self, is_killed: bool, error: Exception = RESET) -> None:
        self.is_killed, self.error = is_killed, error

    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> Any:
        if number == 2 and self.is_killed:
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)
        return Torn(self.error) if number == 1 else number


def receive(batches: TornBatches) -> None:
    with reporting_lost_workers():
        list(receive_batches(DataLoader(batches, batch_size=None, num_workers=1)))


@pytest.fixture(params=["heard", "not heard"])
def signals(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whether torch's signal handler notices an exit."""
    before = signal.getsignal(signal.SIGCHLD)
    if request.param == "not heard":
        monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", True)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("signals")
def test_a_worker_killed_while_its_batch_is_received_is_named() -> None:
    """Torch raises the connection's error until the process has exited."""
    how = r"\(pid.*\) (is killed by signal: Killed|exited unexpectedly)"  # by the handler or by a check
    with pytest.raises(LostWorkerError, match=rf"lost \(DataLoader worker {how}\);"):
        receive(TornBatches(is_killed=True))


@pytest.mark.parametrize("error", [RESET, EOFError()], ids=lambda error: type(error).__name__)
def test_a_connection_that_ends_for_no_known_reason_is_a_lost_worker(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(loader, "SECONDS_TO_EXIT", 0.01)
    name = type(error).__name__
    with pytest.raises(LostWorkerError, match=rf"lost \({name} during a batch: .*\); where memory ran out"):
        receive(TornBatches(is_killed=False, error=error))


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        ("unable to open shared memory object", LostWorkerError, "lost"),
        ("another kind", RuntimeError, "^another kind$"),
    ],
)
def test_errors_of_torch(said: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message), reporting_lost_workers():
        error = RuntimeError(said)
        raise error from error  # its own cause


def test_the_first_of_several_errors_is_reported() -> None:
    with pytest.raises(LostWorkerError, match="pid 7. is killed"), reporting_lost_workers():
        try:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
        except RuntimeError as error:
            raise RuntimeError("Pin memory thread exited unexpectedly") from error
