"""Manages the files of ``sam2fast track``: the manifest, the record of all masks, and the formats derived from it."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from sam2fast.cli.command_files import EXPORT_FILES, check_same, make_folder, write_atomically
from sam2fast.cli.prompts import ObjectId
from sam2fast.cli.results import DIGITS
from sam2fast.cli.segmenter import NOT_FINITE
from sam2fast.cli.user_errors import UserError, as_user_error
from sam2fast.io.atomic import annotate_oserror, atomic_path, remove, target_of
from sam2fast.io.label_maps import label_dtype, paint_labels
from sam2fast.io.made_from import files_below
from sam2fast.io.rle import compress_run_lengths
from sam2fast.kernels.run_lengths import encode_upsampled, run_length_areas
from sam2fast.results.formats import VOLUME_FILES
from sam2fast.results.overlaps import boxes_of, visible_parts
from sam2fast.results.record import RecordIndex
from sam2fast.tracking.outputs import TrackScores

MANIFEST, RECORD, PNGS, OVERLAY = "track.json", "masks.jsonl", "masks", "overlay.mp4"
COCO, MOT = "masks.json", "mot.txt"
BACKWARD = "backward.safetensors"
STATES = re.compile(r"backward\.safetensors|state_\d+\.safetensors")
# Patterns of the names of this command's files.
NAMES = "|".join([MANIFEST, RECORD, OVERLAY, COCO, MOT, *EXPORT_FILES, *VOLUME_FILES.values()]).replace(".", r"\.")
OURS = re.compile(f"{NAMES}|{STATES.pattern}")
NUMBER = re.compile(r"\d{5,}")  # name of a frame with only a number
CHANGE = "give another --out folder, or --overwrite it"
KEYS = ("id", "rle", "area", "box", "score", "object_score")  # keys of an object in a line of the record
Line = Mapping[str, Any]  # line of the record


@torch.no_grad()  # no gradients: the reference implementations would run with gradients
def frame_record(
    frame: int,
    time: float | None,
    ids: Sequence[Any],
    masks: Tensor,
    scores: TrackScores,
    size: tuple[int, int],
    name: str | None = None,
) -> dict[str, Any]:
    """Returns a frame's line of the record: run lengths, areas, boxes and scores of all objects.

    If masks overlap, a partly covered object has ``visible``: the part of the mask where this object has the greatest
    logit.

    Args:
        time: Seconds since the first frame, if the video has times.
        masks: ``(N, 1, h, w)`` low-resolution logits, or ``(N, 1, H, W)`` from a predictor that removes overlaps.
        scores: Scores of the objects, in the order of the masks.
        size: (H, W) of the video.
        name: Name of the frame, or None for a frame with only a number.
    """
    runs = encode_upsampled(masks[:, 0], size)
    iou, presence = scores.iou.tolist(), scores.object_score.tolist()
    if not np.isfinite([*iou, *presence]).all():
        raise UserError(f"frame {frame}: {NOT_FINITE}")
    rles, boxes, areas = compress_run_lengths(runs), boxes_of(runs), run_length_areas(runs).tolist()
    objects: list[dict[str, Any]] = [
        dict(zip(KEYS, (*entry, round(score, DIGITS), round(logit, DIGITS)), strict=True))
        for *entry, score, logit in zip(ids, rles, areas, boxes, iou, presence, strict=True)
    ]
    visible = visible_parts(masks, runs)
    if visible is not None:
        seen = zip(run_length_areas(visible).tolist(), compress_run_lengths(visible), strict=True)
        for entry, (area, rle) in zip(objects, seen, strict=True):
            if area != entry["area"]:
                entry["visible"] = rle
    named = {} if name is None else {"name": name}
    return {"frame": frame, **named, "time": None if time is None else round(time, DIGITS), "objects": objects}


class RunFolder:
    """The output folder of one run. Another process may continue the run.

    The manifest has the number of ``done`` frames and names the ``state`` file from which a new run continues. Files
    are written before the manifest that names them. Frames recorded after the last manifest are tracked again.

    Args:
        path: Path of the folder. No file in the folder changes before :meth:`begin`.
        made_from: Record of the results, see :mod:`sam2fast.io.made_from`. A run only continues with an equal record.
        overwrite: True to remove the results of another run.

    Raises:
        UserError: If the folder has results of another run.
        OSError: If a file cannot be read or written. All methods raise OSError, and keep the previous checkpoint.
    """

    def __init__(self, path: Path, made_from: Mapping[str, Any], overwrite: bool) -> None:
        self.path, self._made_from = path, made_from
        self._file: BinaryIO | None = None
        manifest = None if overwrite else self._read_manifest()
        self.is_new = manifest is None
        empty: dict[str, Any] = {"done": 0, "complete": False, "state": None, "objects": [], "files": {}}
        self._facts = manifest or {"made_from": self._made_from, **empty}
        self.record, self.backward = path / RECORD, path / BACKWARD
        self.complete: bool = self._facts["complete"]
        self.state = None if self._facts["state"] is None else path / self._facts["state"]
        self.done: int = self._facts["done"] if self.complete or self.state else 0

    def begin(self) -> None:
        """Makes the folder. Removes overwritten results and the leftovers of a killed run."""
        if self.complete:
            if not self.record.exists():
                raise UserError(f"{self.record}, which {MANIFEST} describes, is missing; {CHANGE}")
            with open(self.record, "rb") as record:
                self._lengths(record)
        make_folder(self.path)
        files = self._files()
        if self.is_new:
            (self.path / MANIFEST).unlink(missing_ok=True)
        for path in files:
            if self.is_new or target_of(path) or (self.complete and STATES.fullmatch(path.name)):
                remove(path)
        if self.is_new:
            self.note()
            self.is_new = False

    def has(self, file: Path, **options: Any) -> bool:
        """Returns True if an output has all recorded frames, its full size in bytes, and the same options."""
        return bool(self._facts["files"].get(file.name) == self._made(file, options))

    def numbers(self, file: Path) -> Any:
        """Returns the numbers of objects with which an output was made, as pairs of id and number, or None."""
        return self._facts["files"].get(file.name, {}).get("numbers")

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Truncates the record to the ``done`` frames, and opens it for :meth:`append`."""
        with annotate_oserror(self.record), open(self.record, "ab+") as file:
            file.seek(0)
            file.truncate(sum(self._lengths(file)))
        self._file = open(self.record, "ab", buffering=0)  # noqa: SIM115  # closed below
        with self._file:
            yield

    def _lengths(self, record: BinaryIO) -> list[int]:
        """Returns the length in bytes of each line of the ``done`` frames."""
        lengths = [len(line) for line in islice(record, self.done) if line.endswith(b"\n")]
        if len(lengths) < self.done:
            raise UserError(f"{self.record} has fewer than the {self.done} frames in {MANIFEST}; {CHANGE}")
        return lengths

    def append(self, line: Line) -> None:
        """Adds a frame to the record, and its objects to the manifest. The next checkpoint writes the manifest."""
        assert self._file is not None
        ids = [entry["id"] for entry in line["objects"]]
        self._facts["objects"] = list(dict.fromkeys([*self._facts["objects"], *ids]))
        content = json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        with annotate_oserror(self.record):
            while content:
                content = content[self._file.write(content) :]
        self.done += 1

    def checkpoint(self, save: Callable[[Path], None]) -> None:
        """Saves a state after the recorded frames by ``save(path)``. Another run can continue from this state."""
        state = self.path / f"state_{self.done:05d}.safetensors"
        with as_user_error(OSError, ValueError):
            save(state)
        self._commit(state)

    def finish(self) -> None:
        """Marks the run as complete, and removes the saved states."""
        self.complete = True
        self._commit(None)
        self.backward.unlink(missing_ok=True)

    def _commit(self, state: Path | None) -> None:
        assert self._file is not None
        with annotate_oserror(self.record):
            os.fsync(self._file.fileno())
        self.note(done=self.done, complete=self.complete, state=None if state is None else state.name)
        for path in self.path.glob("state_*.safetensors"):
            if path != state and STATES.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def sort(self) -> None:
        """Sorts the record by frame, since the backward pass appends in descending order."""
        with closing(RecordIndex(self.record)) as index:
            if not index.is_sorted:
                with atomic_path(self.record) as partial, open(partial, "wb") as file:
                    file.writelines(index.raw(frame) for frame in sorted(index))

    def made(self, file: Path, **options: Any) -> None:
        """Writes to the manifest that a file or folder is complete: made from all frames recorded so far."""
        self._facts["files"][file.name] = self._made(file, options)
        self.note()

    def _made(self, file: Path, options: Mapping[str, Any]) -> dict[str, Any]:
        files = files_below(file) if file.is_dir() else [file]
        return {"frames": self.done, "bytes": sum(path.stat().st_size for path in files if path.exists()), **options}

    def note(self, **facts: Any) -> None:
        """Updates and writes the manifest."""
        self._facts |= facts
        write_atomically(self.path / MANIFEST, (json.dumps(self._facts, indent=2) + "\n").encode())

    def __getitem__(self, name: str) -> Any:
        """Returns an entry of the manifest, or None."""
        return self._facts.get(name)

    @property
    def size(self) -> tuple[int, int]:
        """The height and width of the video."""
        return self["size"]["height"], self["size"]["width"]

    def _read_manifest(self) -> dict[str, Any] | None:
        manifest = self.path / MANIFEST
        if not manifest.exists():
            ours = [path for path in self._files() if not target_of(path)]
            if ours:
                raise UserError(f"{ours[0]} exists, but no {MANIFEST} that describes its run; {CHANGE}")
            return None
        try:
            facts: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
            state = facts["state"]
            for key, expected in (("files", dict), ("objects", list), ("done", int), ("complete", bool)):
                if not isinstance(facts[key], expected):
                    raise ValueError(f"{key} is {facts[key]!r}")
            if facts["done"] < 0 or (state is not None and not STATES.fullmatch(state)):
                raise ValueError(f"done is {facts['done']}, state is {state!r}")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{manifest} cannot be read: {error}; {CHANGE}") from error
        check_same(f"{self.path} holds a run that", facts.get("made_from"), self._made_from, f"; {CHANGE}")
        return facts

    def _files(self) -> list[Path]:
        """Returns all files of this command in the folder, finished or not."""
        files = [path for path in sorted(self.path.glob("*")) if OURS.fullmatch((target_of(path) or path).name)]
        try:
            names = set(json.loads((self.path / MANIFEST).read_bytes())["frame_names"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            names = set()  # there is no manifest yet, or a damaged one
        for path in sorted((self.path / PNGS).glob("*")):
            name = target_of(path) or path
            if name.suffix == ".png" and (name.stem in names or NUMBER.fullmatch(name.stem)):
                files.append(path)
        return files


def label_map(line: Line | None, numbers: Mapping[ObjectId, int], size: tuple[int, int]) -> np.ndarray:
    """Returns the number of each pixel's object, or 0: ``(H, W)`` uint8, or uint16 if a number exceeds 255."""
    shown = [] if line is None else [entry for entry in line["objects"] if entry["area"]]
    rles = [entry.get("visible", entry["rle"]) for entry in shown]
    labels = paint_labels(rles, *size, [numbers[entry["id"]] for entry in shown])
    return labels.astype(label_dtype(numbers.values()), copy=False)
