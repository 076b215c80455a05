"""The files of ``sam2fast track``: the manifest, the record of all masks, and the formats derived from it."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from sam2fast.cli.command_files import EXPORT_FILES, make_folder, write_atomically
from sam2fast.cli.reporting import progress_bar
from sam2fast.cli.results import DIGITS
from sam2fast.cli.segmenter import NOT_FINITE
from sam2fast.cli.track_request import PROBE_SIZE, ObjectId, TrackRequest
from sam2fast.cli.user_errors import UserError, as_user_error, print_note
from sam2fast.datasets.palette_masks import label_png
from sam2fast.io.atomic import annotate_oserror, atomic_path
from sam2fast.io.overlay import Area
from sam2fast.io.rle import compress_run_lengths, decode_rle
from sam2fast.kernels.run_lengths import encode_upsampled, run_length_areas
from sam2fast.mask_formats.layers import row_major
from sam2fast.tracking.outputs import TrackScores
from sam2fast.video_io import VideoError, read_frames
from sam2fast.video_io.video_writer import NoEncoderError, VideoWriter, encoding_errors
from sam2fast.video_results import colour_of, to_coco_video
from sam2fast.video_results.drawing import draw_id, tint
from sam2fast.video_results.overlaps import boxes_of, visible_parts
from sam2fast.video_results.record import RecordIndex

MANIFEST, RECORD, PNGS, OVERLAY, COCO = "track.json", "masks.jsonl", "masks", "overlay.mp4", "masks.json"
BACKWARD = "backward.safetensors"
STATES = re.compile(r"backward\.safetensors|state_\d+\.safetensors")
# The names of this command's files, and the hidden partial files of killed runs.
PART = r"(?(1)\.[\d.]+(part|tmp))"  # after a name that begins with a dot
NAMES = "|".join(["track.json", "masks.jsonl", "overlay.mp4", "masks.json", *EXPORT_FILES]).replace(".", r"\.")
OURS = re.compile(rf"(\.)?({NAMES}|{STATES.pattern}){PART}")
OUR_PNG = re.compile(rf"(\.)?\d{{5,}}\.png{PART}")
CHANGE = "give another --out folder, or --overwrite it"
CRF = 20  # x264's quality
TICK = Fraction(1, 90_000)  # seconds; the time base of the overlay
DEFAULT_RATE = 25.0  # frames per second, for folders of images
KEYS = ("id", "rle", "area", "box", "score", "object_score")  # of an object in the record
Line = Mapping[str, Any]  # of the record


@torch.no_grad()  # else the reference implementations run, which gradients need
def frame_record(
    frame: int, time: float | None, ids: Sequence[Any], masks: Tensor, scores: TrackScores, size: tuple[int, int]
) -> dict[str, Any]:
    """Run lengths, areas, boxes and scores of all objects on a frame.

    Where masks overlap, an object that does not have the greatest logit everywhere also has ``visible``, the part of
    its mask where it does.

    Args:
        time: seconds since the first frame, if the video has times.
        masks: ``(N, 1, h, w)`` low-resolution logits, or ``(N, 1, H, W)`` as from a predictor that removes overlaps.
        scores: of the same objects.
        size: (H, W) of the video.

    Raises:
        UserError: a score is not finite.
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
    return {"frame": frame, "time": None if time is None else round(time, DIGITS), "objects": objects}


def as_line(record: Line) -> str:
    """A record as JSON, without a line feed."""
    return json.dumps(record, separators=(",", ":"), allow_nan=False)


class RunFolder:
    """The output folder of one run, which another process may continue.

    The manifest says how many frames are ``done`` and names the ``state`` from which a new run continues. It is written
    after the files that it names. Frames that were recorded after it are tracked again.

    Args:
        path: of the folder; nothing in it changes before :meth:`begin`.
        asked: what the results depend on, as JSON; a run continues only if this is equal.
        overwrite: remove the results of another run.

    Raises:
        UserError: the folder has results of another run. From all methods: a file cannot be read or written; then the
            previous checkpoint remains.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any], overwrite: bool) -> None:
        self.path, self._asked = path, json.loads(json.dumps(asked))  # to be compared with a file's content
        self._file: BinaryIO | None = None
        with as_user_error(OSError):
            found = None if overwrite else self._read_manifest()
        self.is_new = found is None
        self._facts = found or {"asked": self._asked, "done": 0, "complete": False, "state": None, "files": {}}
        self.record, self.backward = path / RECORD, path / BACKWARD
        self.complete: bool = self._facts["complete"]
        self.state = None if self._facts["state"] is None else path / self._facts["state"]
        self.done: int = self._facts["done"] if self.complete or self.state else 0

    def begin(self) -> None:
        """Makes the folder. Removes results that are overwritten, and what a killed run left behind."""
        make_folder(self.path)
        with as_user_error(OSError):
            if self.is_new:
                (self.path / MANIFEST).unlink(missing_ok=True)
            for path in self._files():
                is_unused = self.is_new or path.name.startswith(".") or (self.complete and STATES.fullmatch(path.name))
                if is_unused and path.is_dir():  # a partial state
                    shutil.rmtree(path)
                elif is_unused:
                    path.unlink()
        if self.is_new:
            self.note()
            self.is_new = False

    def has(self, file: Path, **options: Any) -> bool:
        """Whether a derived file exists, covers the whole record, and was made with these options."""
        return self._facts["files"].get(file.name) == {"frames": self.done, **options} and file.exists()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Truncates the record to the frames that are done, and opens it for :meth:`append`."""
        with as_user_error(OSError), annotate_oserror(self.record), open(self.record, "ab+") as file:
            file.seek(0)
            lengths = [len(line) for line in islice(file, self.done) if line.endswith(b"\n")]
            if len(lengths) < self.done:
                raise UserError(f"{self.record} has fewer than the {self.done} frames in {MANIFEST}; {CHANGE}")
            file.truncate(sum(lengths))
        with as_user_error(OSError):
            self._file = open(self.record, "ab", buffering=0)  # noqa: SIM115  # closed below
        with self._file:
            yield

    def append(self, line: str) -> None:
        """Adds a frame to the record."""
        assert self._file is not None
        content = line.encode() + b"\n"
        with as_user_error(OSError), annotate_oserror(self.record):
            while content:
                content = content[self._file.write(content) :]
        self.done += 1

    def checkpoint(self, save: Callable[[Path], None]) -> None:
        """Has ``save`` write the state after the recorded frames to a file, so that another run can continue here."""
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
        with as_user_error(OSError), annotate_oserror(self.record):
            os.fsync(self._file.fileno())
        self.note(done=self.done, complete=self.complete, state=None if state is None else state.name)
        for path in self.path.glob("state_*.safetensors"):
            if path != state and STATES.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def sort(self) -> None:
        """Sorts the record by frame, since the backward pass appends in descending order."""
        with as_user_error(OSError, ValueError), closing(RecordIndex(self.record)) as index:
            if not index.is_sorted:
                with atomic_path(self.record) as partial, open(partial, "wb") as file:
                    file.writelines(index.raw(frame) for frame in sorted(index))

    def made(self, file: Path, **options: Any) -> None:
        """Notes that a file was derived from the record as it is."""
        self._facts["files"][file.name] = {"frames": self.done, **options}
        self.note()

    def note(self, **facts: Any) -> None:
        """Adds to the manifest, and writes it."""
        self._facts |= facts
        write_atomically(self.path / MANIFEST, (json.dumps(self._facts, indent=2) + "\n").encode())

    def __getitem__(self, name: str) -> Any:
        """What :meth:`note` added."""
        return self._facts.get(name)

    def _read_manifest(self) -> dict[str, Any] | None:
        manifest = self.path / MANIFEST
        if not manifest.exists():
            ours = [path for path in self._files() if not path.name.startswith(".")]
            if ours:
                raise UserError(f"{ours[0]} exists, but no {MANIFEST} that says what of; {CHANGE}")
            return None
        try:
            facts: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
            before, state = facts["asked"], facts["state"]
            for key, kind in (("asked", dict), ("files", dict), ("done", int), ("complete", bool)):
                if not isinstance(facts[key], kind):
                    raise ValueError(f"{key} is {facts[key]!r}")
            if facts["done"] < 0 or (state is not None and not STATES.fullmatch(state)):
                raise ValueError(f"done is {facts['done']}, state is {state!r}")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{manifest} cannot be read: {error}; {CHANGE}") from error
        differing = [key for key in {**before, **self._asked} if before.get(key) != self._asked.get(key)]
        if differing:
            raise UserError(f"{self.path} holds a run that differs in its {' and '.join(differing)}; {CHANGE}")
        return facts

    def _files(self) -> list[Path]:
        """The files of this command, finished or not."""
        found = [path for path in sorted(self.path.glob("*")) if OURS.fullmatch(path.name)]
        return found + [path for path in sorted((self.path / PNGS).glob("*")) if OUR_PNG.fullmatch(path.name)]


class OverlayWriter:
    """Writes an MP4 file with H.264 and yuv420p atomically. Odd sides get one more row or column.

    The rate, in frames per second, is for frames without times.

    Raises:
        NoEncoderError: PyAV is not installed, or has no encoder for H.264.
        UserError: the file cannot be written; so from all methods.
    """

    def __init__(self, path: Path, height: int, width: int, rate: float | None) -> None:
        self._rate = rate or DEFAULT_RATE
        self._odd = height % 2, width % 2
        self._first, self._last, self._count = 0.0, -1, 0
        self._expected_errors: tuple[type[Exception], ...] = OSError, *encoding_errors()
        from av.video.frame import VideoFrame

        self._frame_from = VideoFrame.from_ndarray
        rounded = Fraction(self._rate).limit_denominator(1001)
        with as_user_error(*self._expected_errors):
            self._file = VideoWriter(path, height + height % 2, width + width % 2, rounded, TICK, CRF)

    def add(self, image: np.ndarray, time: float | None) -> None:
        """Adds a frame ``(H, W, 3)`` uint8, shown at ``time`` in seconds; the video begins with the first one's."""
        seconds = self._count / self._rate if time is None else time
        if self._count == 0:
            self._first = seconds
        self._last = max(round((seconds - self._first) / TICK), self._last + 1)
        self._count += 1
        if any(self._odd):
            image = np.pad(image, ((0, self._odd[0]), (0, self._odd[1]), (0, 0)), mode="edge")
        with as_user_error(*self._expected_errors):
            self._file.add(self._frame_from(image, format="rgb24"), self._last)

    def finish(self) -> None:
        """Finishes the file, if it has any frames."""
        if not self._count:
            return self.discard()
        with as_user_error(*self._expected_errors):
            self._file.finish()

    def discard(self) -> None:
        """Removes the file, unless it is finished."""
        self._file.discard()


class FrameDrawing:
    """Draws recorded masks on frames, each object in its colour; with ``show_ids`` also its id."""

    def __init__(self, objects: Sequence[ObjectId], show_ids: bool) -> None:
        self._colours = {obj_id: colour_of(number) for number, obj_id in enumerate(objects)}
        self._show_ids = show_ids

    def draw(self, rgb: np.ndarray, line: Line) -> np.ndarray:
        """A copy of the frame ``(H, W, 3)`` uint8 with the masks of its line."""
        image = np.array(rgb, order="C")
        for entry in line["objects"]:
            if entry["area"]:
                x, y, width, height = entry["box"]
                area: Area = slice(y, y + height), slice(x, x + width)
                mask = decode_rle(entry.get("visible", entry["rle"]))[area]
                tint(image, area, mask, self._colours[entry["id"]])
        return self._with_ids(image, line) if self._show_ids else image

    def _with_ids(self, rgb: np.ndarray, line: Line) -> np.ndarray:
        image = Image.fromarray(rgb)
        draw, size = ImageDraw.Draw(image), max(12, max(rgb.shape[:2]) // 50)
        for entry in line["objects"]:
            if entry["area"]:
                x, y = entry["box"][:2]
                draw_id(draw, str(entry["id"]), (x, y), size, self._colours[entry["id"]])
        return np.asarray(image)


def open_overlay(folder: RunFolder, size: tuple[int, int], rate: float | None) -> OverlayWriter | None:
    """The overlay's writer; None, with a note to the user, where this machine has no encoder."""
    try:
        return OverlayWriter(folder.path / OVERLAY, *size, rate)
    except NoEncoderError as error:
        print_note(f"no {OVERLAY}, since {error}")
        return None


def derive_outputs(folder: RunFolder, request: TrackRequest) -> None:
    """Writes the requested files that are missing or incomplete; raises UserError if that fails."""
    with as_user_error(OSError, ValueError), closing(RecordIndex(folder.record)) as record:
        if "png" in request.formats:
            _write_label_maps(record, folder, request)
        if "coco" in request.formats and len(record):
            _write_coco(record, folder, request)
        # The overlay of a camera or URL is drawn while it is tracked.
        if "overlay" in request.formats and len(record) and not request.source.is_live:
            _write_overlay(record, folder, request)


def label_map(line: Line, objects: Sequence[ObjectId]) -> np.ndarray:
    """The object at each pixel, ``(H, W)`` uint8: its position among all objects, from 1; 0 for none."""
    labels = np.zeros(line["objects"][0]["rle"]["size"], dtype=np.uint8, order="F")
    for entry in line["objects"]:
        if entry["area"]:
            # Run lengths are column-major, so the array is too.
            number = np.uint8(objects.index(entry["id"]) + 1)
            np.copyto(labels, number, where=decode_rle(entry.get("visible", entry["rle"])))
    return row_major(labels)


def _write_label_maps(record: RecordIndex, folder: RunFolder, request: TrackRequest) -> None:
    images, objects = folder.path / PNGS, request.objects
    make_folder(images)
    with progress_bar("images", len(record), "images") as bar:
        for frame in record:
            file = images / f"{frame:05d}.png"
            if not file.exists():  # the masks of a frame never change
                write_atomically(file, label_png(label_map(record[frame], objects)))
            bar.update()


def _write_coco(record: RecordIndex, folder: RunFolder, request: TrackRequest) -> None:
    file, source = folder.path / COCO, request.source
    if folder.has(file):
        return
    name = "camera" if source.camera is not None else Path(source.text).stem or "video"
    size, length = folder["size"], max(folder["frames"] or 0, max(record) + 1)
    document = to_coco_video(record.values(), (size["height"], size["width"]), length, name)
    write_atomically(file, (json.dumps(document) + "\n").encode())
    folder.made(file)


def _write_overlay(record: RecordIndex, folder: RunFolder, request: TrackRequest) -> None:
    """Reads the video again, up to its end, or to the end of the record if only a part was tracked."""
    file = folder.path / OVERLAY
    if folder.has(file, ids=request.show_ids):
        return
    last = max(record) if request.last is not None or not folder.complete else None
    drawing = FrameDrawing(request.objects, request.show_ids)
    with read_frames(request.source.to_open, PROBE_SIZE) as reader:
        writer = open_overlay(folder, (reader.height, reader.width), reader.rate)
        if writer is None:
            return
        stop = reader.count if last is None else last + 1
        total = None if stop is None else stop - request.start
        try:
            # A broken video was reported during tracking; the overlay ends there.
            with (
                progress_bar("overlay", total, "frames") as bar,
                suppress(VideoError),
            ):
                for frame in reader:
                    if frame.index >= request.start:
                        line = record.get(frame.index)
                        writer.add(frame.rgb if line is None else drawing.draw(frame.rgb, line), frame.time)
                        bar.update()
                    if frame.index == last:
                        break
            writer.finish()
        finally:
            writer.discard()
    folder.made(file, ids=request.show_ids)
