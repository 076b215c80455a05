"""Mutated files: each reader accepts one, or refuses it as documented. ``make fuzz`` tries more of them."""

import os
import pickle
import resource
import site
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from expected_refusals import is_accepted
from hypothesis import given
from hypothesis import strategies as st
from hypothesis_profiles import examples
from mutators import mutate
from pickles import CANARY, hostile_pickles
from seeds import write_seeds
from targets import TARGETS, Target, mutators_of

SECONDS, MEMORY = 10, 1 << 30  # of processor time, and growth of the process's peak, for one file
COMMANDS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "socket.connect")
# Readable besides the work folder: Python and its packages, this repository, system settings.
READABLE = (
    *(sys.prefix, sys.base_prefix, *site.getsitepackages(), str(Path(__file__).parents[2])),
    *("/proc", "/sys", "/dev", "/usr/lib", "/usr/share", "/lib", "/etc/localtime", "/etc/mime.types"),
)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Makes an empty folder the current one, in which torch and compilers write. Imports write no bytecode."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "dont_write_bytecode", True)
        for variable in ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
            patch.setenv(variable, str(folder))
        yield folder


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("valid")
    write_seeds(folder)
    return folder


class Acts(list[str]):
    """What a reader does besides reading, seen by an audit hook: commands, connections, files outside of ``folder``."""

    folder: Path | None = None

    def notice(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in COMMANDS:
            self.append(event)
        elif event == "open" and isinstance(arguments[0], str | bytes):
            path, writes = Path(os.path.abspath(os.fsdecode(arguments[0]))), (arguments[2] or 0) & os.O_ACCMODE
            allowed = (self.folder, Path("/dev")) if writes else (self.folder, *map(Path, READABLE))
            is_allowed = any(path.is_relative_to(f) for f in allowed) or not (writes or path.is_file())
            if "outside" in path.parts or not is_allowed:
                self.append(f"{'writes' if writes else 'reads'} {path}")


ACTS = Acts()


@pytest.fixture(scope="module", autouse=True)
def audited():
    if ACTS.folder is None:
        sys.addaudithook(ACTS.notice)  # it cannot be removed


def is_refused(name: str, target: Target, data: bytes, work: Path) -> bool:
    """Reads the file in a folder of the target's, and checks what the reader does; whether it refuses it."""
    folder = work / name.replace(" ", "_")
    path = folder / target.file
    if not path.parent.exists():
        path.parent.mkdir(parents=True)
        target.prepare(folder)
    path.write_bytes(data)
    peak, started = reset_peak(), time.process_time()
    ACTS.clear()
    ACTS.folder = work
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(path)
        error = None
    except target.allowed as caught:
        error = caught
    finally:
        ACTS.folder = None
    assert not ACTS and not (work / CANARY).exists()
    assert time.process_time() - started < SECONDS
    assert reset_peak() - peak < MEMORY, "memory grew"
    if error is not None:
        text = str(error) or str(getattr(error, "message", ""))
        assert text.strip() and (not target.is_named or path.name in text), f"{type(error).__name__}: {text}"
    return error is not None


def reset_peak() -> int:
    """The peak of the process's memory in bytes since the last call, on Linux."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) << 10
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return peak


@pytest.mark.parametrize("name", TARGETS)
def test_valid_files(name, valid, work):
    for path in sorted((valid / TARGETS[name].kind).iterdir()):
        assert is_refused(name, TARGETS[name], path.read_bytes(), work) != is_accepted(name, path.name), path.name


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files(name, valid, work):
    files = [path.read_bytes() for path in sorted((valid / TARGETS[name].kind).iterdir())]

    @examples(max(1, round(2 * TARGETS[name].share)))
    @given(st.integers(0, len(files) - 1), st.randoms(use_true_random=True))
    def read(number, rng):
        others = files[:number] + files[number + 1 :]
        data = mutate(files[number], rng, others, mutators_of(TARGETS[name].kind))
        is_refused(name, TARGETS[name], data, work)

    read()


class Documented(ValueError):
    pass


def refuse(path):
    raise Documented(f"{path} is wrong")


def refuse_namelessly(path):
    raise Documented("it is wrong")


MISBEHAVIOUR = {
    "no name": refuse_namelessly,
    "another error": lambda path: {}[path],
    "memory": lambda path: len(bytearray(b"x") * (MEMORY + (64 << 20))),
    "a command": lambda path: pickle.loads(path.read_bytes()),
    "a file beside": lambda path: Path("../beside").write_text("x", encoding="utf-8"),
    "a file of the system": lambda path: Path("/etc/passwd").read_bytes(),
}


@pytest.mark.parametrize("name", MISBEHAVIOUR)
def test_misbehaviour_is_detected(name, work, monkeypatch):
    monkeypatch.setitem(globals(), "MEMORY", 1 << 28)
    target = Target("text", "file", (Documented, OSError), MISBEHAVIOUR[name], is_named=True)
    assert is_refused("refuse", replace(target, read=refuse), b"", work)
    with pytest.raises((AssertionError, KeyError)):
        is_refused(name, target, hostile_pickles()[0], work)
    (work / CANARY).unlink(missing_ok=True)
