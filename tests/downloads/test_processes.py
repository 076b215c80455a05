"""Two processes at the same time, and processes that are killed while downloading."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from checkpoint_faults import stall
from checkpoint_server import make_checkpoint
from waiting import wait_until

FILE = "sam2.1_hiera_tiny.pt"
DATA = make_checkpoint()
HALF = 150_000
LIMIT = 100  # seconds; processes have to start
# What starts the tests may have told its children to ignore interruptions.
SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from sam2fast.downloads import get_checkpoint
print(get_checkpoint("tiny"))
"""


@pytest.fixture
def source(server, monkeypatch) -> str:
    """The path of the file on a mirror, which the environment passes to other processes."""
    monkeypatch.setenv("SAM2FAST_MIRROR", server.url)
    server.add(f"/{FILE}", DATA)
    return f"/{FILE}"


@pytest.fixture
def start():
    """Starts a process that gets the checkpoint; killed at the end of the test."""
    started = []

    def run() -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def bytes_in(folder) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.part"))


def test_two_at_once(server, source, start, machine):
    server.files[source].faults.append(stall(HALF))
    first, second = start(), start()
    assert server.stalled.wait(LIMIT)
    notes: list[str] = []
    readers = [
        threading.Thread(target=lambda p=process: notes.extend(iter(p.stderr.readline, "")))
        for process in (first, second)
    ]
    for reader in readers:
        reader.start()
    assert wait_until(lambda: any("another process is downloading" in note for note in notes), LIMIT), notes
    server.go_on.set()
    for reader in readers:
        reader.join()
    assert first.stdout.read() == second.stdout.read() != ""
    assert first.wait() == second.wait() == 0
    assert len(server.gets(source)) == 1 and server.sent == len(DATA)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_middle(server, source, start, machine, how):
    server.files[source].faults.append(stall(HALF))
    process = start()
    assert server.stalled.wait(LIMIT)
    assert wait_until(lambda: bytes_in(machine) >= HALF, LIMIT)
    process.send_signal(how)
    process.communicate(timeout=LIMIT)
    assert process.returncode != 0
    assert not any(path.is_file() and path.stat().st_size == len(DATA) for path in machine.rglob("*"))

    out, error = start().communicate(timeout=LIMIT)
    assert Path(out.strip()).read_bytes() == DATA, error
    assert server.sent == len(DATA)
    first, second = server.gets(source)
    assert "Range" not in first.headers and second.headers["Range"] == f"bytes={HALF}-"
