"""Worker processes that exit while they send a batch."""

import errno
import os
import signal
import time
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from sam2fast.training.data import loader
from sam2fast.training.data.loader import LostWorkerError, receive_batches, reporting_lost_workers

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
