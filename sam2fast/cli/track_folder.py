"""The folder that a run of ``sam2fast track`` writes: what was asked, how far it got, and every frame's masks."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from sam2fast.cli.errors import UserError, one_line
from sam2fast.cli.files import make_folder, remove_leftovers, write_atomically
from sam2fast.video_results.record import RecordIndex
from sam2fast.whole_files import errors_named, moved_to

MANIFEST, RECORD, PNGS, OVERLAY, COCO = "track.json", "masks.jsonl", "masks", "overlay.mp4", "masks.json"
BACKWARD = "backward.safetensors"
STATES = r"backward\.safetensors|state_\d+\.safetensors"
# What this program writes right into the folder, whole or in part.
OURS = re.compile(
    rf"(track\.json|masks\.jsonl|overlay\.mp4|masks\.json|{STATES})"
    rf"|\.(track\.json|masks\.jsonl|overlay\.mp4|masks\.json)\.\d+\.part|\.({STATES})\.(\d+\.){{1,2}}part"
)
OUR_PNG = re.compile(r"\d{5,}\.png|\.\d{5,}\.png\.\d+\.part")
CHANGE = "give another --out folder, or --overwrite it"


class RunFolder:
    """The output folder of one run, which may be continued by another process.

    ``done`` frames are on record; a new run goes on after them, from ``state`` if that is not None. The manifest, which
    names both, is written last: whatever is interrupted, it and what it names fit together. Frames recorded since then
    are recorded again.

    Args:
        path: of the folder; nothing is changed in it before :meth:`begin`.
        asked: what the results depend on, as JSON has it; a run goes on only with the same.
        overwrite: remove what another run has left.

    Raises:
        UserError: the folder has results of another run, or cannot be read.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any], overwrite: bool) -> None:
        # Through JSON and back, to be compared with what was read from a file.
        self.path, self._asked = path, json.loads(json.dumps(asked))
        self._file: BinaryIO | None = None
        with one_line(OSError):
            found = None if overwrite else self._read_manifest()
        self.is_new = found is None
        self._facts = found or {"asked": self._asked, "done": 0, "complete": False, "state": None, "files": {}}
        self.done = int(self._facts["done"])

    def begin(self) -> None:
        """Makes the folder, and removes what is in the way of a new run, or what a killed one left half-written.

        Raises:
            UserError: that fails.
        """
        if self.is_new:
            make_folder(self.path)
        for link in (self.path / name for name in (MANIFEST, RECORD, OVERLAY, COCO)):
            if link.is_symlink():
                with suppress(UserError):  # of a circle; it is told if the link is still there when it is written
                    remove_leftovers([link])
        with one_line(OSError):
            for path in [*self._pngs(), *sorted(self._ours(), key=lambda path: path.name == MANIFEST)]:
                is_spent = self.complete and re.fullmatch(STATES, path.name)  # killed before it removed these
                if self.is_new or path.name.startswith(".") or is_spent:
                    _remove(path)
        if self.is_new:
            self._write_manifest()
            self.is_new = False

    @property
    def record(self) -> Path:
        return self.path / RECORD

    @property
    def backward(self) -> Path:
        """The state that a pass backwards begins with."""
        return self.path / BACKWARD

    @property
    def complete(self) -> bool:
        return bool(self._facts["complete"])

    @property
    def state(self) -> Path | None:
        name = self._facts["state"]
        return None if name is None else self.path / name

    def has(self, file: Path, **how: Any) -> bool:
        """Whether a file derived from the record is there, shows all of it, and was made so."""
        return self._facts["files"].get(file.name) == {"frames": self.done, **how} and file.exists()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Cuts the record off after the frames that are done, and opens it for :meth:`append`.

        Raises:
            UserError: it has fewer frames than were done, or cannot be written.
        """
        with one_line(OSError), errors_named(self.record):
            file = open(self.record, "ab+", buffering=0)  # noqa: SIM115  # closed below
        with file:
            with one_line(OSError), errors_named(self.record):
                file.truncate(_end_of_line(file, self.done, self.record))
            self._file = file
            try:
                yield
            finally:
                self._file = None

    def append(self, line: str) -> None:
        """Adds a frame to the record; a line that is cut short by the end of the process is dropped by the next one.

        Raises:
            UserError: it cannot be written.
        """
        assert self._file is not None
        content = line.encode() + b"\n"
        with one_line(OSError), errors_named(self.record):
            while content:
                content = content[self._file.write(content) :]
        self.done += 1

    def checkpoint(self, save: Callable[[Path], None]) -> None:
        """Saves the state after the frames on record, so that another run can go on from here.

        Args:
            save: writes the state to a file.

        Raises:
            UserError: a file cannot be written; the checkpoint before this one stays.
        """
        self._to_disk()
        name = f"state_{self.done:05d}.safetensors"
        with one_line(OSError, ValueError):
            save(self.path / name)
        self._facts |= {"done": self.done, "state": name}
        self._write_manifest()
        self._remove_states(name)

    def finish(self) -> None:
        """Says that all frames are on record, and removes what was kept to go on.

        Raises:
            UserError: a file cannot be written; the checkpoint before stays.
        """
        self._to_disk()
        self._facts |= {"done": self.done, "complete": True, "state": None}
        self._write_manifest()
        self._remove_states(None)
        self.backward.unlink(missing_ok=True)

    def sort(self) -> None:
        """Brings the record into the order of frames, which a pass backwards has left otherwise.

        Raises:
            UserError: it cannot be read or written; it stays as it was.
        """
        with one_line(OSError, ValueError), closing(RecordIndex(self.record)) as index:
            if not index.is_sorted:
                with moved_to(self.record) as partial, open(partial, "wb") as file:
                    file.writelines(index.raw(frame) for frame in sorted(index))

    def made(self, file: Path, **how: Any) -> None:
        """Notes that a file was derived from the record as it is."""
        self._facts["files"][file.name] = {"frames": self.done, **how}
        self._write_manifest()

    def note(self, **facts: Any) -> None:
        """Adds to the manifest."""
        self._facts |= facts
        self._write_manifest()

    def __getitem__(self, name: str) -> Any:
        """What :meth:`note` added."""
        return self._facts.get(name)

    def _read_manifest(self) -> dict[str, Any] | None:
        manifest = self.path / MANIFEST
        if not manifest.exists():
            ours = sorted(path.name for path in self._ours() if not path.name.startswith("."))
            if ours or self._pngs():
                name = ours[0] if ours else f"{PNGS}/"
                raise UserError(f"{self.path} holds {name}, but no {MANIFEST} that says what of; {CHANGE}")
            return None
        try:
            facts = json.loads(manifest.read_text(encoding="utf-8"))
            before, files, done, state = (facts[key] for key in ("asked", "files", "done", "state"))
            bool(facts["complete"])
            if not isinstance(before, dict) or not isinstance(files, dict):
                raise ValueError("asked or files is no mapping")
            if not isinstance(done, int) or done < 0:
                raise ValueError(f"done is {done!r}, and no number of frames")
            # Whatever else it names is nothing that a run has left here.
            if state is not None and not re.fullmatch(STATES, state):
                raise ValueError(f"state is {state!r}, and no file of this program")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{manifest} cannot be read: {error}; {CHANGE}") from error
        differing = [key for key in {**before, **self._asked} if before.get(key) != self._asked.get(key)]
        if differing:
            raise UserError(f"{self.path} holds a run that differs in its {' and '.join(differing)}; {CHANGE}")
        # A run that was to overwrite this one may have been killed when its record was gone already.
        needed = RECORD if facts["complete"] else facts["state"]
        if needed is None or not (self.path / needed).is_file():
            facts |= {"done": 0, "state": None, "complete": False, "files": {}}
        return dict(facts)

    def _to_disk(self) -> None:
        if self._file is not None:
            with one_line(OSError), errors_named(self.record):
                os.fsync(self._file.fileno())

    def _write_manifest(self) -> None:
        write_atomically(self.path / MANIFEST, (json.dumps(self._facts, indent=2) + "\n").encode())

    def _remove_states(self, keep: str | None) -> None:
        for path in self.path.glob("state_*.safetensors"):
            if path.name != keep and OURS.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def _ours(self) -> list[Path]:
        return [path for path in self.path.iterdir() if OURS.fullmatch(path.name)] if self.path.is_dir() else []

    def _pngs(self) -> list[Path]:
        folder = self.path / PNGS
        return [path for path in folder.iterdir() if OUR_PNG.fullmatch(path.name)] if folder.is_dir() else []


def _remove(path: Path) -> None:
    """Removes a file, or the folder that a state was being written in."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _end_of_line(file: BinaryIO, count: int, path: Path) -> int:
    """Where so many lines end."""
    file.seek(0)
    end = 0
    for _ in range(count):
        line = file.readline()
        if not line.endswith(b"\n"):
            raise UserError(f"{path} has fewer than the {count} frames that {MANIFEST} tells of; {CHANGE}")
        end += len(line)
    return end
