"""One thread for the model, in which sessions take turns."""

from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import ParamSpec, TypeVar

import torch

from sam2fast.demo.server.errors import BusyError
from sam2fast.utils.amp import autocast_dtype_for

P = ParamSpec("P")
T = TypeVar("T")
CLOSING = "the server is shutting down"


class ModelThread:
    """Does calls one at a time, in the order in which they were asked for.

    A call is one click, one frame of a track or the preparation of one, or the opening of a video; never a whole track.
    So whoever asks waits for the calls that were asked for before, of which a track has one at a time, and what a
    client does with its answer, however slowly, keeps nobody waiting. One thread for all calls also means one set of
    torch's own threads.

    Args:
        device: of the model; on CUDA calls run under autocast, see :func:`sam2fast.utils.amp.autocast_dtype_for`.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns or raises, when its turn has come. Not to be used within a call.

        Raises:
            BusyError: the thread was closed.
        """
        try:
            return self._executor.submit(lambda: self._run(function, *args, **kwargs)).result()
        except CancelledError as error:
            raise BusyError(CLOSING) from error
        except RuntimeError as error:
            if "after shutdown" in str(error):
                raise BusyError(CLOSING) from error
            raise

    def close(self) -> None:
        """Lets the call at hand end; those that wait for their turn are refused."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self._autocast():
            return function(*args, **kwargs)

    def _autocast(self) -> AbstractContextManager[object]:
        if self._device.type == "cuda":
            return torch.autocast("cuda", autocast_dtype_for(self._device))
        return nullcontext()
