"""Mutated files by number, and what the readers make of them: one process reads many, and says before each which."""

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
from typing import Any, NamedTuple

from mutators import mutate
from pickles import CANARY
from sound import is_accepted
from targets import TARGETS, Target, mutators_of

MOST_MEMORY = 1 << 30  # by which one file may make a process grow
ADDRESS_SPACE = 4 << 30  # what it may ask for at most, so that the machine survives what asks for more
ACCEPTED, REFUSED, FINDING = "accepted", "refused", "finding"
# Nothing that reads files does any of these.
FORBIDDEN = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.spawn", "subprocess.Popen"),
    *("socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto"),
)
# Nor these outside of the folder: which of the arguments are what is changed.
CHANGES = {
    **dict.fromkeys(("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.chown", "os.utime"), (0,)),
    **dict.fromkeys(("shutil.rmtree", "shutil.make_archive", "shutil.chown"), (0,)),
    **dict.fromkeys(("os.rename", "shutil.move"), (0, 1)),
    **dict.fromkeys(("os.link", "os.symlink", "shutil.unpack_archive"), (1,)),
    **dict.fromkeys(("shutil.copyfile", "shutil.copymode", "shutil.copystat", "shutil.copytree"), (1,)),
}
# What may be read beside the work folder: Python and its packages, this repository, and what says where one is.
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
    """What became of it: accepted, refused as documented, or a finding with what is wrong."""

    number: int
    target: str
    outcome: str
    what: str = ""
    seconds: float = 0.0


def make_case(seed: int, number: int, seeds: Path, only: str | None = None) -> Case:
    """The same for the same numbers, whatever was made before; below 0 they are the sound files themselves."""
    rng = Random(f"{seed}:{number}")
    names = [name for name in TARGETS if only is None or name == only]
    if number < 0:
        name, path = sound_files(seeds, only)[number]
        return Case(number, name, path.read_bytes())
    name = rng.choices(names, [TARGETS[n].share for n in names])[0]
    kind = TARGETS[name].kind
    sound = [path.read_bytes() for path in sorted((seeds / kind).iterdir())]
    chosen = rng.randrange(len(sound))
    others = [data for place, data in enumerate(sound) if place != chosen]
    return Case(number, name, mutate(sound[chosen], rng, others, mutators_of(kind)))


def sound_files(seeds: Path, only: str | None = None) -> list[tuple[str, Path]]:
    """Every target with every file of its kind."""
    names = [name for name in TARGETS if only is None or name == only]
    return [(name, path) for name in names for path in sorted((seeds / TARGETS[name].kind).iterdir())]


class Reader:
    """Gives files to readers, each in a folder of its target's.

    Args:
        folder: what is below it may be written; the process works in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder = Path(os.path.realpath(folder))  # as getcwd says it
        # Where the files that readers are tempted with lie, or would: see worlds.py.
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
        """An audit hook: commands, connections, and files where none should be read, written or changed.

        What FFmpeg, safetensors and torch open by themselves it does not hear of: readers know such files by what is in
        them, see :func:`worlds.secret`.
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
        """Also what is not there: files may name others, and those that are there are found out."""
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
    except BaseException as error:  # whatever it is, it is a finding
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "sam2fast" in f.filename]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        return FINDING, f"{type(error).__name__} at {place}: {str(error)[:200]}"
    return ACCEPTED, ""


def judge_sound(verdict: Verdict, path: Path) -> Verdict:
    """A sound file has to be accepted, but for those that have to be refused."""
    expected = ACCEPTED if is_accepted(verdict.target, path.name) else REFUSED
    if verdict.outcome in (expected, FINDING):
        return verdict
    what = f"the sound file {path.parent.name}/{path.name} is {verdict.outcome}, not {expected} ({verdict.what})"
    return verdict._replace(outcome=FINDING, what=what)


def _memory_peak(reset: bool = False) -> int:
    """The most memory that this process has had, in bytes; since the last ``reset`` where Linux can tell."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) << 10
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10


def limit_process(seconds: int) -> None:
    """Ends the process, by SIGPROF, that computes so long over one file, and refuses memory that is too much."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return
    limit = pages * resource.getpagesize() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def work(seed: int, first: int, end: int, seeds: Path, folder: Path, seconds: int, only: str | None) -> None:
    """Reads cases in turn, those below 0 being the sound files; a line of JSON goes to stdout before and after each."""
    reader = Reader(folder)
    out = sys.stdout
    for number in range(max(first, -len(sound_files(seeds, only))), end):
        case = make_case(seed, number, seeds, only)
        print(json.dumps({"begins": number, "target": case.target}), file=out, flush=True)
        limit_process(seconds)
        begun = time.perf_counter()
        verdict = reader.read(case)._replace(seconds=time.perf_counter() - begun)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if number < 0:
            verdict = judge_sound(verdict, sound_files(seeds, only)[number][1])
        print(json.dumps(verdict._asdict()), file=out, flush=True)
