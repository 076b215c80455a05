import gc
import os
import signal
from pathlib import Path

import pytest

# Before torch is loaded, here and in processes that tests start: sums depend on the number of threads, and a forked
# process has one, and logs it if its parent had more.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["SAM2FAST_OFFLINE"] = "1"  # no test downloads weights; tests of downloads delete it

import importable_torchvision  # noqa: F401
import torch

gc.set_threshold(1_000_000)  # until the tests begin: imported objects stay

# Before triton is imported, which reads it: without a GPU, kernels run in its interpreter.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Shells make background processes ignore interrupts, and commands respect that. Tests interrupt them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Garbage collections pass over the imported modules, which they would not free, and are rarer."""
    gc.freeze()
    gc.set_threshold(20_000)


@pytest.fixture(autouse=True)
def poison_uninitialised_memory():
    """``torch.empty`` yields NaN or the largest integer. A memory checker finds unwritten memory itself."""
    torch.use_deterministic_algorithms(os.environ.get("SAM2FAST_PARITY") != "sanitizer", warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def triton_device() -> torch.device:
    """Where Triton kernels can be run: a GPU, or the CPU under the repaired interpreter."""
    from sam2fast.kernels import _dispatch

    if obstacle := _dispatch._triton_unsupported_reason():
        pytest.skip(f"a kernel {obstacle}")
    if torch.cuda.is_available():
        return torch.device("cuda")
    import interpreter

    interpreter.install()
    return torch.device("cpu")


def _folder(variable: str) -> Path:
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set")
    return Path(os.environ[variable])


@pytest.fixture(scope="session")
def weights_folder() -> Path:
    """Folder with real checkpoints."""
    return _folder("SAM2FAST_TEST_WEIGHTS")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder with real photographs in ``images/``."""
    return _folder("SAM2FAST_TEST_DATA")


def pytest_collection_modifyitems(items):
    rehearsed = os.environ.get("SAM2FAST_PARITY") == "rehearsal"  # of `make gpu`, in Triton's interpreter
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available() and not rehearsed:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
