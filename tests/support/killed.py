"""Ends work by a signal or a full disk at a chosen moment, and reports how it ended.

:func:`forked` is quick: it runs a copy of this process. :func:`started` runs a new process, and sends it signals.
"""

import errno
import mmap
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest

if sys.platform != "linux":
    pytest.skip("needs fork, limits on resources and /proc", allow_module_level=True)

import resource

SECONDS_TO_END = 120.0
# Audit events of changes to files, and the position of the path among their arguments.
CHANGES = {"open": 0, "os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "os.truncate": 0, "os.link": 1}
# On a full disk these fail; names can still be changed and removed.
NEED_ROOM = ("open", "os.mkdir", "os.link")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Fault(NamedTuple):
    """A signal or a full disk in a process of :func:`forked`. One of ``change``, ``size`` and ``name`` says when."""

    change: int | None = None  # before this opening for writing, renaming, removing or making of a folder
    folder: Path = Path("/")  # changes elsewhere do not count
    number: int | None = signal.SIGKILL  # the signal that the process sends itself; None for a full disk from then on
    size: int | None = None  # when a file grows beyond this number of bytes, also in libraries in C
    name: str | None = None  # before the first change of a path that contains this


class Sent(NamedTuple):
    """A signal from outside, so many seconds after the previous one or the start."""

    number: int
    after: float
    to_group: bool = False  # also to the workers, as a terminal does; only for :func:`started`


class Ended(NamedTuple):
    """How work ended."""

    code: int  # below 0 the signal that ended it, as in subprocess
    stdout: str
    stderr: str
    changes: int = 0  # to files in the folder of the fault, counted by :func:`forked`
    pid: int = 0


def forked(work: Callable[[], Any], fault: Fault | None = None, sent: Sequence[Sent] = ()) -> Ended:
    """Calls a function, which returns an exit code, in a copy of this process. Raises TimeoutError if it goes on."""
    counter = mmap.mmap(-1, 8)  # shared, so that it can be read when the process was killed
    (out, its_out), (err, its_err) = os.pipe(), os.pipe()  # not files, which a fault may limit
    pid = os.fork()
    if pid == 0:
        _be_the_copy(work, fault, counter, its_out, its_err)
    os.close(its_out), os.close(its_err)
    deadline = time.monotonic() + sum(signal.after for signal in sent) + SECONDS_TO_END
    with ThreadPoolExecutor(2) as readers:
        texts = [readers.submit(_read, end, deadline) for end in (out, err)]
        try:
            _send(pid, sent, lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None)
            code = _wait(pid, deadline)
            said = [text.result() for text in texts]
        except BaseException:
            for kill in (os.killpg, os.kill):  # its group is made by itself, perhaps not yet
                with suppress(ProcessLookupError):
                    kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
            raise
        return Ended(code, *said, int.from_bytes(counter[:8], "little"), pid)


def started(
    arguments: Sequence[str],
    sent: Sequence[Sent] = (),
    *,
    env: Mapping[str, str] | None = None,
    seconds: float = SECONDS_TO_END,
) -> Ended:
    """Runs Python in a new session, and sends it signals; raises TimeoutError, and kills it, if it goes on."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = start(arguments, out, err, env=env)
        try:
            _send(process.pid, sent, lambda: process.poll() is None)
            code = process.wait(seconds)
        except BaseException as error:
            for pid in session_of(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise TimeoutError(f"not ended after {seconds} s: {_text(err)}") from None
            raise
        return Ended(code, _text(out), _text(err), pid=process.pid)


def start(
    arguments: Sequence[str],
    stdout: Any = subprocess.PIPE,
    stderr: Any = subprocess.PIPE,
    *,
    env: Mapping[str, str] | None = None,
) -> "subprocess.Popen[bytes]":
    """Starts Python with these arguments in a new session, with signals handled as by a shell."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=stdout,
        stderr=stderr,
        env=dict(env or os.environ),
        start_new_session=True,
        preexec_fn=_as_by_a_shell,  # noqa: PLW1509
    )


def warm_up(work: Callable[[], Any]) -> None:
    """Calls a command once in this process, so that copies have all imports and models."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as err:
        try:
            work()
        except SystemExit as end:
            assert end.code in (0, None), err.getvalue()


def session_of(pid: int) -> list[int]:
    """The running processes of a session, such as the workers of a process from :func:`start`."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _session(int(entry)) == pid]


def tells_errors(work: Callable[[], Any]) -> Callable[[], int]:
    """The work for :func:`forked`, which prints errno and file of an ``OSError``."""

    def run() -> int:
        try:
            work()
        except OSError as error:
            print(error.errno, error.filename)
            return 1
        return 0

    return run


def _be_the_copy(work: Callable[[], Any], fault: Fault | None, counter: mmap.mmap, out: int, err: int) -> None:
    code: Any = 1
    try:
        os.setpgid(0, 0)
        _as_by_a_shell()
        for end, number in ((out, 1), (err, 2)):
            os.dup2(end, number)
            os.close(end)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        if fault is not None:
            _arm(fault, counter)
        code = work()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        code = code if isinstance(code, int) else int(code is not None)
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            code = 120  # Python's code for output that cannot be written
        os._exit(code)


def _as_by_a_shell() -> None:
    # A test in the background of a shell inherits ignored interrupts.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        signal.signal(number, handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _arm(fault: Fault, counter: mmap.mmap) -> None:
    if fault.size is not None:
        # Ignored, the signal lets the write fail; otherwise it ends the process.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN if fault.number is None else signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.size, resource.RLIM_INFINITY))
    folder, seen, change = os.path.realpath(fault.folder), 0, fault.change

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen, change
        if event not in CHANGES or not _is_change(event, arguments, folder):
            return
        place, seen = seen, seen + 1
        counter[:8] = seen.to_bytes(8, "little")
        if change is None and fault.name is not None and fault.name in os.fsdecode(arguments[CHANGES[event]]):
            change = place
        if change is None:
            return
        if fault.number is None:
            if place >= change and event in NEED_ROOM:
                path = arguments[CHANGES[event]]
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))
        elif place == change:
            os.kill(os.getpid(), fault.number)

    sys.addaudithook(hook)


def _is_change(event: str, arguments: tuple[Any, ...], folder: str) -> bool:
    path = arguments[CHANGES[event]]
    if isinstance(path, int) or (event == "open" and not arguments[2] & WRITING):
        return False
    name = os.fsdecode(path)
    if not os.path.isabs(name):
        # Relative to an open folder, whose number is the last argument, or to the current one (-1).
        last = arguments[-1] if event != "open" and isinstance(arguments[-1], int) else -1
        with suppress(OSError):
            name = os.path.join(os.readlink(f"/proc/self/fd/{last}") if last >= 0 else os.getcwd(), name)
    parent = os.path.realpath(os.path.dirname(name))
    return os.path.join(parent, "").startswith(os.path.join(folder, "")) or os.path.realpath(name) == folder


def _send(pid: int, sent: Sequence[Sent], is_running: Callable[[], bool]) -> None:
    for number, after, to_group in sent:
        deadline = time.monotonic() + after
        while is_running() and time.monotonic() < deadline:
            time.sleep(min(0.01, max(0.0, deadline - time.monotonic())))
        if not is_running():  # its number may be reused
            return
        (os.killpg if to_group else os.kill)(pid, number)


def _wait(pid: int, deadline: float) -> int:
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            raise TimeoutError("the process has not ended in time")
        time.sleep(0.002)


def _read(end: int, deadline: float) -> str:
    """All that is written to a pipe until its other end is closed."""
    parts, poll = [], select.poll()
    with open(end, "rb", buffering=0) as file:
        poll.register(file, select.POLLIN)
        while poll.poll(1000 * max(0.0, deadline - time.monotonic())):
            parts.append(file.read(1 << 16))
            if not parts[-1]:
                return b"".join(parts).decode(errors="replace")
    raise TimeoutError(f"a process still holds the pipe; its output: {b''.join(parts)[-2000:]!r}")


def _session(pid: int) -> int | None:
    """The session of a process; None if it has ended."""
    with suppress(OSError, ValueError):
        fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
        return int(fields[3]) if fields[0] not in "ZX" else None
    return None


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
