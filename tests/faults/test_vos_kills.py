"""``sam2fast vos`` killed and stopped, with and without workers: only complete folders, and the next run continues."""

import os
import signal
from contextlib import closing

import pytest
from command_kills import VosKills
from disturbed import after_signal, left_whole
from file_contents import files_of
from killed import Fault, forked, session_of, started
from waiting import wait_until

# A worker that starts while its process group is interrupted.
INTERRUPTED_AT_ONCE = """
import os, signal, sys, time
from sam2fast.deploy.parallel.process import WorkerProcess, end_all
from sam2fast.deploy.parallel.worker import setup_of
worker = WorkerProcess(setup_of(dict, dict, "cpu", 1))
time.sleep(float(sys.argv[1]))
try:
    os.killpg(0, signal.SIGINT)
    time.sleep(20)
except KeyboardInterrupt:
    end_all([worker])
"""


@pytest.fixture(scope="module")
def kills(tmp_path_factory):
    with closing(VosKills(tmp_path_factory.mktemp("vos"), {"a": 3, "b": 1})) as subject:
        yield subject


def test_stopped(kills, out):
    """No partial files stay, even without a further run."""
    kills.whole("whole")
    ended = forked(kills.command(out, "whole"), Fault(kills.changes["whole"] // 2, out, signal.SIGTERM))
    after_signal(ended, [signal.SIGTERM])
    assert ended.code == 143 and "run the same command again to continue" in ended.stderr
    assert not [name for name in os.listdir(out) if name.endswith(".part")]
    left_whole(out)


def test_a_full_disk_leaves_what_was_to_be_overwritten(kills, out):
    """Each video is reported, and the previous folders stay unchanged."""
    kills.whole("overwrite")
    kills.before(out, "overwrite")
    before = files_of(out)
    ended = forked(kills.command(out, "overwrite"), Fault(size=100, number=None))
    assert ended.code == 1 and "Traceback" not in ended.stderr
    assert ended.stderr.count("00000.png: File too large") == 2 * 2  # immediately, and again at the end
    assert files_of(out) == before
    kills.goes_on(out, "overwrite")


def test_workers_that_are_interrupted_while_they_load():
    """A terminal interrupts workers too; they leave it to their parent, without tracebacks."""
    ended = started(["-c", INTERRUPTED_AT_ONCE, "0.1"])
    assert (ended.code, ended.stderr) == (0, "")
    assert wait_until(lambda: not session_of(ended.pid))
