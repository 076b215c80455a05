import gc
import itertools
import os
import shutil
import signal
from pathlib import Path

import pytest

# Before torch is loaded, here and in processes that tests start: sums depend on the number of threads, and a forked
# process has one, and logs it if its parent had more.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["SAM2FAST_OFFLINE"] = "1"  # no test downloads weights; tests of downloads delete it
# A memory checker does not notice accesses beyond a tensor's end within torch's blocks of memory.
if os.environ.get("SAM2FAST_PARITY") == "sanitizer":
    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"

import importable_torchvision  # noqa: F401
import slow_tests
import torch
from filelock import FileLock
from processor_times import ProcessorTimes

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


@pytest.fixture(scope="session")
def nano_graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with nano's ONNX graphs. One process exports them for all processes of the run."""
    from sam2fast import nano
    from sam2fast.build_sam import build_sam2_video_predictor
    from sam2fast.deploy.onnx import export

    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "graphs of nano"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            export.write_onnx(build_sam2_video_predictor(nano.CONFIG, nano.WEIGHTS, device="cpu"), folder)
    return folder


@pytest.fixture
def copied_graphs(nano_graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of nano copy these graphs, and compare them with the model as after an export."""
    from sam2fast.deploy.onnx import export

    monkeypatch.setattr(export, "export_graph", lambda graph, file: shutil.copyfile(nano_graphs / file.name, file))


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


def pytest_addoption(parser):
    text = "tests to run: fast tests, the rest, or all; see tests/slow_tests.txt. Files on the command line run whole."
    parser.addoption("--set", choices=["fast", "rest", "all"], default="fast", help=text)
    parser.addoption("--seconds", help="JSON file for the processor time of each test")
    text = f"fail if a test that is not in tests/slow_tests.txt takes more than {slow_tests.LIMIT:g} s"
    parser.addoption("--strict-seconds", action="store_true", help=text)


def pytest_configure(config):
    options = config.option
    times = ProcessorTimes(options.seconds, options.strict_seconds, is_worker=hasattr(config, "workerinput"))
    config.pluginmanager.register(times)


def _named_files(config):
    """Returns the files on the command line."""
    folder = config.invocation_params.dir
    return {path for text in config.args if (path := folder / text.partition("::")[0]).is_file()}


def pytest_ignore_collect(collection_path, config):
    """Does not import a file if the list names the whole file."""
    if config.option.set == "fast" and collection_path.suffix == ".py" and collection_path not in _named_files(config):
        name = collection_path.relative_to(Path(__file__).parent).as_posix()
        return True if name in slow_tests.read_list() else None
    return None


@pytest.hookimpl(tryfirst=True)  # before tests are left out by their marks
def pytest_collection_modifyitems(config, items):
    rehearsed = os.environ.get("SAM2FAST_PARITY") == "rehearsal"  # of `make gpu`, in Triton's interpreter
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available() and not rehearsed:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    config.stash[slow_tests.COLLECTED] = {item.nodeid for item in items}
    if config.option.set == "all":
        return
    listed, named = slow_tests.read_list(), _named_files(config)

    def is_left_out(item):
        is_slow = slow_tests.is_in(item.nodeid, listed) or "weights" in item.keywords
        return item.path not in named and is_slow == (config.option.set == "fast")

    left_out = list(filter(is_left_out, items))
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = list(itertools.filterfalse(is_left_out, items))
