"""A worker of a cluster: a predictor in a process somewhere, and what is done with it.

Nothing heavy is imported here: the number of threads has to be set before torch is loaded.
"""

import os
import pickle
import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

from sam2fast import __version__
from sam2fast.deploy.parallel.pool import Service
from sam2fast.deploy.parallel.worker import THREAD_VARIABLES, called, failure_of, packed, settle
from sam2fast.utils.reproducibility import deterministic, is_deterministic

# Environment variables of the command that its workers heed as well.
OWN_VARIABLES = "SAM2FAST_"


class Setup(NamedTuple):
    """What a worker needs to begin."""

    factory: bytes  # pickled; makes the service from the device's name
    device: str
    threads: int  # of torch on the CPU
    version: str  # of this package where the jobs come from
    is_deterministic: bool
    folder: str  # where the jobs come from: what their relative paths begin at
    variables: dict[str, str]  # of the environment


def setup_of(build: Callable[..., Any], function: Callable[[Any, Any], Any], device: str, threads: int) -> Setup:
    """What a worker needs to do the same as a process of :func:`~sam2fast.deploy.parallel.run_jobs`.

    Raises:
        TypeError: ``build`` or ``function`` cannot be pickled.
    """
    try:
        factory = packed(partial(Service, build, function))
    except Exception as error:
        raise TypeError(
            f"what a worker is made with must be picklable, such as functools.partial of a function: {error}"
        ) from error
    variables = {name: value for name, value in os.environ.items() if name.startswith(OWN_VARIABLES)}
    return Setup(factory, device, threads, __version__, is_deterministic(), os.getcwd(), variables)


def device_of(gpus: float) -> str:
    """The device of a worker: the first GPU that it is allowed to see, if it has one."""
    return "cuda:0" if gpus else "cpu"


class Slot:
    """A predictor that is built once and does one job after the other.

    Its methods raise nothing: they answer with pickled ``(True, result)`` or ``(False, Failure)``, as processes of
    :mod:`sam2fast.deploy.parallel` do.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._service: Any = None
        self._lasting = ExitStack()

    def make(self) -> bytes:
        """Builds the predictor. The result is where: machine and device, such as ``node7/cuda:0``."""
        return _answer(self._make)

    def call(self, call: bytes) -> bytes:
        """Does what :func:`~sam2fast.deploy.parallel.process.packed_call` has packed."""
        return _answer(partial(called, self._service, call))

    def _make(self) -> str:
        setup, here = self._setup, socket.gethostname()
        if setup.version != __version__:
            raise RuntimeError(
                f"{here} has sam2fast {__version__}, the jobs come from {setup.version}; install the same on both"
            )
        os.environ.update(setup.variables, **dict.fromkeys(THREAD_VARIABLES, str(setup.threads)))
        if os.path.isdir(setup.folder):  # else full paths still work, and others are told as missing files
            os.chdir(setup.folder)
        if setup.is_deterministic:
            self._lasting.enter_context(deterministic())
        factory: Callable[[str], Any] = pickle.loads(setup.factory)  # noqa: S301  of this run's own processes
        settle(setup.device, setup.threads)
        self._service = factory(setup.device)
        settle(setup.device, setup.threads)  # whatever was imported by then
        return f"{here}/{setup.device}"


def _answer(function: Callable[[], Any]) -> bytes:
    try:
        return packed((True, function()))
    except Exception as error:
        return packed((False, failure_of(error)))
