"""What is made of the record: label pictures, a COCO document, a film."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from sam2fast.cli.errors import UserError, one_line
from sam2fast.cli.files import make_folder, write_atomically
from sam2fast.cli.results import png
from sam2fast.cli.track_film import Film
from sam2fast.cli.track_folder import COCO, OVERLAY, PNGS, RunFolder
from sam2fast.cli.track_prompts import ObjectId
from sam2fast.cli.track_video import PROBE_SIZE, VideoSource
from sam2fast.rle import decode_rle
from sam2fast.training.data.synthetic.davis import palette
from sam2fast.video_io import FrameReader, StreamFrame, VideoError, read_frames
from sam2fast.video_io.film_file import NoEncoderError
from sam2fast.video_results import colour_of, to_coco_video
from sam2fast.video_results.drawing import Area, tint
from sam2fast.video_results.record import RecordIndex

PADDING = 3  # around an id, pixels
Line = Mapping[str, Any]  # of the record


class Subject(NamedTuple):
    """What was tracked."""

    source: VideoSource
    objects: Sequence[ObjectId]
    frames: int | None  # of the video, if it is known
    start: int  # the first frame that counts
    bounded: bool  # whether the last frame that counts may be another than the video's


class Outputs:
    """Makes what is missing in the folder of a run.

    Args:
        show_ids: write objects' ids beside them in the film.
        progress: show bars even if stderr is no terminal.
    """

    def __init__(self, folder: RunFolder, subject: Subject, show_ids: bool, progress: bool) -> None:
        self._folder, self._subject, self._show_ids = folder, subject, show_ids
        self._disable = False if progress else None

    def make(self, formats: Sequence[str]) -> None:
        """Makes files of these formats: ``png``, ``coco``, ``overlay``.

        Raises:
            UserError: a file cannot be written, or the video cannot be read again.
        """
        with one_line(OSError, ValueError), closing(RecordIndex(self._folder.record)) as record:
            if "png" in formats:
                self._pictures(record)
            document, film = self._folder.path / COCO, self._folder.path / OVERLAY
            if "coco" in formats and len(record) and not self._folder.has(document):
                self._coco(record, document)
                self._folder.made(document)
            if "overlay" in formats and len(record) and not self._folder.has(film, ids=self._show_ids):
                try:
                    self._film(record, film)
                    self._folder.made(film, ids=self._show_ids)
                except NoEncoderError as error:
                    click.echo(f"sam2fast: note: no {OVERLAY}, since {error}", err=True)

    def _pictures(self, record: RecordIndex) -> None:
        """A frame's picture never changes, so those that are there stay."""
        folder, colours = self._folder.path / PNGS, palette().tobytes()
        make_folder(folder)
        for frame in tqdm(record, "pictures", disable=self._disable):
            file = folder / f"{frame:05d}.png"
            if not file.exists():
                picture = Image.fromarray(label_map(record[frame], self._subject.objects))
                picture.putpalette(colours)
                write_atomically(file, png(picture))

    def _coco(self, record: RecordIndex, file: Path) -> None:
        height, width = record[next(iter(record))]["objects"][0]["rle"]["size"]
        lines = (record[frame] for frame in record)
        length = max(self._subject.frames or 0, max(record) + 1)
        document = to_coco_video(lines, (height, width), length, self._subject.source.stem)
        write_atomically(file, (json.dumps(document) + "\n").encode())

    def _film(self, record: RecordIndex, file: Path) -> None:
        subject = self._subject
        last = max(record) if subject.bounded or not self._folder.complete else None
        with read_frames(subject.source.to_open, PROBE_SIZE) as reader:
            film = Film(file, reader.height, reader.width, reader.rate)
            drawing = FrameDrawing(subject.objects, self._show_ids)
            total = _shown(last, reader.count, subject.start)
            try:
                with tqdm(total=total, desc="overlay", disable=self._disable) as bar:
                    for frame in _readable(reader):
                        if frame.index >= subject.start:
                            line = record.get(frame.index)
                            film.add(frame.rgb if line is None else drawing.draw(frame.rgb, line), frame.time)
                            bar.update()
                        if frame.index == last:
                            break
                film.finish()
            finally:
                film.discard()


def _readable(reader: FrameReader) -> Iterator[StreamFrame]:
    """The frames up to where the video breaks, which tracking has told already."""
    with suppress(VideoError):
        yield from reader


def _shown(last: int | None, count: int | None, start: int) -> int | None:
    end = last if last is not None else None if count is None else count - 1
    return None if end is None else end - start + 1


def label_map(line: Line, objects: Sequence[ObjectId]) -> np.ndarray:
    """Which object each pixel shows, ``(H, W)`` uint8: its position among all, from 1; 0 for none.

    Where masks overlap, that is the object with the greatest logit.
    """
    labels = np.zeros(line["objects"][0]["rle"]["size"], dtype=np.uint8, order="F")
    for entry in line["objects"]:
        if entry["area"]:
            # Run lengths go down the columns, and so do pixels in memory here.
            number = np.uint8(objects.index(entry["id"]) + 1)
            np.copyto(labels, number, where=decode_rle(entry.get("visible", entry["rle"])))
    return np.ascontiguousarray(labels)


class FrameDrawing:
    """Draws recorded masks on frames; each object has one colour throughout.

    Args:
        show_ids: write the objects' ids beside them.
    """

    def __init__(self, objects: Sequence[ObjectId], show_ids: bool) -> None:
        self._colours = {obj_id: colour_of(number) for number, obj_id in enumerate(objects)}
        self._show_ids = show_ids

    def draw(self, rgb: np.ndarray, line: Line) -> np.ndarray:
        """A copy of the frame ``(H, W, 3)`` uint8 with the masks of its line.

        Raises:
            UserError: the masks are of another size.
        """
        picture = np.array(rgb, order="C")
        for entry in line["objects"]:
            if tuple(entry["rle"]["size"]) != picture.shape[:2]:
                raise UserError(f"the masks of frame {line['frame']} are of another size than the video's frames")
            if entry["area"]:
                x, y, width, height = entry["box"]
                area: Area = slice(y, y + height), slice(x, x + width)
                mask = decode_rle(entry.get("visible", entry["rle"]))[area]
                tint(picture, area, mask, self._colours[entry["id"]])
        return self._with_ids(picture, line) if self._show_ids else picture

    def _with_ids(self, picture: np.ndarray, line: Line) -> np.ndarray:
        image = Image.fromarray(picture)
        draw, size = ImageDraw.Draw(image), max(12, max(picture.shape[:2]) // 50)
        font = ImageFont.load_default(size)
        for entry in line["objects"]:
            if entry["area"]:
                x, y = entry["box"][:2]
                text, place = str(entry["id"]), (x + PADDING, max(y - size - 2 * PADDING, PADDING))
                left, top, right, bottom = draw.textbbox(place, text, font)
                sign = (left - PADDING, top - PADDING, right + PADDING, bottom + PADDING)
                draw.rectangle(sign, fill=self._colours[entry["id"]])
                draw.text(place, text, (0, 0, 0), font)
        return np.asarray(image)
