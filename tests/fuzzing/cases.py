"""Mutated files by number, and the readers' verdicts. One process reads many files, and writes the number of each."""

import json
import os
import resource
import signal
import site
import sys
import time
import traceback
import warnings
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import IO, Any, NamedTuple

from expected_refusals import is_accepted
from mutators import mutate
from pickles import CANARY
from targets import TARGETS, Target, mutators_of

MOST_MEMORY = 1 << 30  # allowed growth of the process for one file
ADDRESS_SPACE = 4 << 30  # limit of a single allocation, which protects the machine
ACCEPTED, REFUSED, FINDING = "accepted", "refused", "finding"
# Forbidden for all readers.
FORBIDDEN = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.spawn", "subprocess.Popen"),
    *("socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto"),
)
# Forbidden outside of the work folder, with the indices of the changed paths.
CHANGES = {
    **dict.fromkeys(("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.chown", "os.utime"), (0,)),
    **dict.fromkeys(("shutil.rmtree", "shutil.make_archive", "shutil.chown"), (0,)),
    **dict.fromkeys(("os.rename", "shutil.move"), (0, 1)),
    **dict.fromkeys(("os.link", "os.symlink", "shutil.unpack_archive"), (1,)),
    **dict.fromkeys(("shutil.copyfile", "shutil.copymode", "shutil.copystat", "shutil.copytree"), (1,)),
}
# Readable besides the work folder: Python and its packages, this repository, system settings.
READABLE = (
    *(sys.prefix, sys.base_prefix, sys.exec_prefix, *site.getsitepackages(), str(Path(__file__).parents[2])),
    *("/proc", "/sys", "/dev", "/usr/lib", "/usr/share", "/lib", "/etc/localtime", "/etc/mime.types"),
)


class Case(NamedTuple):
    """A mutated file and its reader."""

    number: int
    target: str
    data: bytes


class Verdict(NamedTuple):
    """The outcome for a file: accepted, refused as documented, or a finding with its reason."""

    number: int
    target: str
    outcome: str
    what: str = ""
    seconds: float = 0.0


def make_case(seed: int, number: int, seeds: Path) -> Case:
    """Deterministic for each number, independent of other cases; negative numbers are the valid files themselves."""
    rng = Random(f"{seed}:{number}")
    if number < 0:
        name, path = sound_files(seeds)[number]
        return Case(number, name, path.read_bytes())
    name = rng.choices(list(TARGETS), [target.share for target in TARGETS.values()])[0]
    kind = TARGETS[name].kind
    sound = [path.read_bytes() for path in sorted((seeds / kind).iterdir())]
    chosen = rng.randrange(len(sound))
    others = [data for place, data in enumerate(sound) if place != chosen]
    return Case(number, name, mutate(sound[chosen], rng, others, mutators_of(kind)))


def sound_files(seeds: Path) -> list[tuple[str, Path]]:
    """All pairs of a target and a valid file of its kind."""
    return [(name, path) for name, target in TARGETS.items() for path in sorted((seeds / target.kind).iterdir())]


class Reader:
    """Passes files to readers, each in the folder of its target.

    Args:
        folder: the work folder; only files in it may be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder = Path(os.path.realpath(folder))  # as returned by getcwd
        # The folders of the forbidden files, see companion_files.py.
        self._hidden = (folder / "outside", folder.parent / "outside", Path("/outside/secret"))
        self._ready: set[str] = set()
        self._acts: list[str] = []
        self._watched = False
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        sys.addaudithook(self._notice)
        warnings.simplefilter("ignore")

    def read(self, case: Case) -> Verdict:
        target = TARGETS[case.target]
        folder = self._folder / case.target.replace(" ", "_")
        path = folder / target.file
        path.parent.mkdir(parents=True, exist_ok=True)
        if case.target not in self._ready:
            target.prepare(folder)
            self._ready.add(case.target)
        path.write_bytes(case.data)
        before = _memory_peak(reset=True)
        self._acts.clear()
        self._watched = True
        try:
            outcome, what = _outcome(target, path)
        finally:
            self._watched = False
        grown = _memory_peak() - before
        if grown > MOST_MEMORY:
            outcome, what = FINDING, f"memory grew by {grown >> 20} MiB ({what})"
        if self._acts or (self._folder / CANARY).exists():
            outcome, what = FINDING, f"it acted: {', '.join(self._acts) or 'the canary is there'}"
            (self._folder / CANARY).unlink(missing_ok=True)
        return Verdict(case.number, case.target, outcome, what)

    def _notice(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook that detects commands, connections, and forbidden file accesses.

        It does not see files that FFmpeg, safetensors and torch open natively. Readers recognise those by content,
        see :func:`companion_files.secret`.
        """
        if not self._watched:
            return
        if event in FORBIDDEN:
            self._acts.append(event)
        elif event == "open" and isinstance(arguments[0], str | bytes):
            path, flags = os.path.abspath(os.fsdecode(arguments[0])), arguments[2] or 0
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not (self._is_own(path) if writes else self._is_readable(path)):
                self._acts.append(f"{'writes' if writes else 'reads'} {path}")
        for place in CHANGES.get(event, ()):
            if isinstance(arguments[place], str | bytes | os.PathLike):
                path = os.path.abspath(os.fsdecode(arguments[place]))
                if not self._is_own(path):
                    self._acts.append(f"{event} {path}")

    def _is_own(self, path: str) -> bool:
        return (_is_below(path, (self._folder,)) and not _is_below(path, self._hidden)) or path.startswith("/dev/")

    def _is_readable(self, path: str) -> bool:
        """Whether a path may be read; true for missing files."""
        if _is_below(path, self._hidden):
            return False
        return _is_below(path, (self._folder, *READABLE)) or not os.path.isfile(path)


def _is_below(path: str, folders: Iterable[str | Path]) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in folders)


def _outcome(target: Target, path: Path) -> tuple[str, str]:
    try:
        target.read(path)
    except target.allowed as error:
        text = str(error) or str(getattr(error, "message", ""))
        if not text.strip():
            return FINDING, f"a {type(error).__name__} that says nothing"
        if target.is_named and path.name not in text:
            return FINDING, f"a {type(error).__name__} that does not name the file: {text[:200]}"
        return REFUSED, type(error).__name__
    except BaseException as error:  # any other exception is a finding
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "sam2fast" in f.filename]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        return FINDING, f"{type(error).__name__} at {place}: {str(error)[:200]}"
    return ACCEPTED, ""


def judge_sound(verdict: Verdict, path: Path) -> Verdict:
    """A valid file must be accepted, except for the expected refusals."""
    expected = ACCEPTED if is_accepted(verdict.target, path.name) else REFUSED
    if verdict.outcome in (expected, FINDING):
        return verdict
    what = f"the sound file {path.parent.name}/{path.name} is {verdict.outcome}, not {expected} ({verdict.what})"
    return verdict._replace(outcome=FINDING, what=what)


def _memory_peak(reset: bool = False) -> int:
    """The peak memory of this process in bytes, since the last ``reset`` on Linux."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) << 10
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10


def limit_process(seconds: int) -> None:
    """Ends the process by SIGPROF after this CPU time, and limits its memory."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return
    limit = pages * resource.getpagesize() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def work(seed: int, first: int, end: int, seeds: Path, folder: Path, seconds: int, out: IO[str]) -> None:
    """Reads cases in turn; negative numbers are the valid files. Writes a line of JSON before and after each."""
    reader = Reader(folder)
    for number in range(max(first, -len(sound_files(seeds))), end):
        case = make_case(seed, number, seeds)
        print(json.dumps({"begins": number, "target": case.target}), file=out, flush=True)
        limit_process(seconds)
        begun = time.perf_counter()
        verdict = reader.read(case)._replace(seconds=time.perf_counter() - begun)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if number < 0:
            verdict = judge_sound(verdict, sound_files(seeds)[number][1])
        print(json.dumps(verdict._asdict()), file=out, flush=True)
