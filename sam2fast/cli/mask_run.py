"""One run of ``sam2fast masks`` over many images, and its results file in COCO's format."""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from tqdm import tqdm

from sam2fast import __version__
from sam2fast.cli.command_files import RESULTS, write_atomically
from sam2fast.cli.mask_finder import Finder, GeneratedMasks
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.results import DIGITS
from sam2fast.cli.user_errors import UserError
from sam2fast.video_results.coco_video import CATEGORY

# Each save writes the whole results file, so it is not saved after every image.
SECONDS_BETWEEN_SAVES = 10.0
ADVICE = "choose another --out, or leave --resume out to start again"


class CocoFile:
    """A data set as ``pycocotools.coco.COCO`` reads it; ids of images and masks count from 1.

    Besides COCO's own keys an annotation has ``predicted_iou``, ``stability_score``, ``point`` ([x, y] in pixels, which
    gave the mask) and ``layer``, the mask's position in its image, from 1.

    Args:
        path: written by :meth:`save`.
        info: the model and its options.
    """

    def __init__(self, path: Path, info: Mapping[str, Any]) -> None:
        self._path = path
        self._head = _encode({"info": {"description": "masks by sam2fast", "version": __version__, **info}})
        # Encoded once: a long run is saved many times.
        self._images: list[str] = []
        self._annotations: list[str] = []

    def add(self, file_name: str, width: int, height: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Adds an image and its masks, records of the mask generator with compressed run lengths.

        Raises:
            ValueError: a score is not finite; nothing is added.
        """
        image_id, first = len(self._images) + 1, len(self._annotations) + 1
        annotations = [
            _encode({"id": first + i, "image_id": image_id, **_annotation(record), "layer": i + 1})
            for i, record in enumerate(records)
        ]
        self._images.append(_encode({"id": image_id, "file_name": file_name, "width": width, "height": height}))
        self._annotations += annotations

    def keep(self, image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> None:
        """Adds an image and its masks from another results file, with new ids."""
        image_id, first = len(self._images) + 1, len(self._annotations) + 1
        self._images.append(_encode({**image, "id": image_id}))
        self._annotations += [
            _encode({**annotation, "id": first + i, "image_id": image_id}) for i, annotation in enumerate(annotations)
        ]

    def save(self) -> None:
        """Writes everything that was added, replacing the file.

        Raises:
            UserError: the file cannot be written; the previous file stays.
        """
        lists = {
            "images": self._images,
            "categories": [_encode(CATEGORY)],
            "annotations": self._annotations,
        }
        text = self._head.removesuffix("}")
        for name, items in lists.items():
            text += f',\n"{name}": [\n' + ",\n".join(items) + "\n]"
        write_atomically(self._path, (text + "\n}\n").encode())


def _annotation(record: Mapping[str, Any]) -> dict[str, Any]:
    x, y, width, height = record["bbox"]
    if record["area"]:
        # COCO's box includes the last pixel; the box of a record ends at its index.
        width, height = width + 1, height + 1
    return {
        "category_id": CATEGORY["id"],
        "segmentation": record["segmentation"],
        "bbox": [x, y, width, height],
        "area": record["area"],
        "iscrowd": 0,
        "predicted_iou": round(record["predicted_iou"], DIGITS),
        "stability_score": round(record["stability_score"], DIGITS),
        "point": record["point_coords"][0],
    }


def _encode(value: Mapping[str, Any]) -> str:
    return json.dumps(value, allow_nan=False)


class PreviousMasks(NamedTuple):
    """The entries of one image in a results file, with their ids there."""

    image: dict[str, Any]
    annotations: list[dict[str, Any]]


def read_previous_masks(
    results: Path,
    choice: ModelChoice,
    dtype: str,
    options: Mapping[str, Any],
    images: Sequence[Path],
    files_of: Callable[[Path], Mapping[str, Path]],
) -> dict[str, PreviousMasks]:
    """The entries of a results file by the images' names. Entries of ``images`` without their files are left out.

    Args:
        results: a file by :class:`CocoFile`; it may not exist.
        options: of the mask generator.
        files_of: the files that are written for an image.

    Raises:
        UserError: the file cannot be read, or was made by another model, other options or another version.
    """
    if not results.exists():
        return {}
    try:
        content = json.loads(results.read_text(encoding="utf-8"))
        info, model = content["info"], content["info"]["model"]
        made_by = {"version": info["version"], **{name: model[name] for name in ("config", "checkpoint", "dtype")}}
        made_by |= info["options"]
        annotations = defaultdict(list)
        for annotation in content["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
        found = {image["file_name"]: PreviousMasks(image, annotations[image["id"]]) for image in content["images"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{results} cannot be resumed ({error}); {ADVICE}") from error
    asked = {"version": __version__, "config": choice.config, "checkpoint": str(choice.checkpoint), "dtype": dtype}
    asked |= options
    other = [f"{name} {made_by.get(name)}, now {value}" for name, value in asked.items() if made_by.get(name) != value]
    if other:
        raise UserError(f"{results} was made with other settings ({'; '.join(other)}); {ADVICE}")
    for image in images:
        if not all(file.is_file() for file in files_of(image).values()):
            found.pop(str(image), None)
    return found


class MaskRun:
    """One run over many images.

    ``rows`` has the name, the number of masks, the best predicted IoU and the size of each finished image as text;
    ``failures`` is the number of failed images.

    Args:
        finder: generates the masks.
        options: of the mask generator, for the results file.
        formats: what to write: ``json``, ``layers``, ``overlay``.
        out: a folder.
        progress: show a progress bar even if stderr is no terminal.
    """

    def __init__(
        self, finder: Finder, options: Mapping[str, Any], formats: Sequence[str], out: Path, progress: bool = False
    ) -> None:
        self.rows: list[tuple[str, str, str, str]] = []
        self.failures = 0
        self._finder, self._formats, self._progress = finder, formats, progress
        self._results = CocoFile(out / RESULTS, {"model": finder.description, "options": dict(options)})
        self._bar: tqdm | None = None

    def find(self, images: Sequence[Path], before: Mapping[str, PreviousMasks] | None = None) -> None:
        """Generates the masks of the images; failures are reported on stderr and counted.

        The results file is saved even if an exception ends the run.

        Args:
            before: entries of an earlier results file by the images' names; they are kept, and their images skipped.

        Raises:
            UserError: a file cannot be written.
        """
        kept = before or {}
        left = [image for image in images if str(image) not in kept]
        for entries in kept.values():
            self._results.keep(*entries)
        for image in images:
            if str(image) in kept:
                entries = kept[str(image)]
                self._note(image, entries.image["width"], entries.image["height"], entries.annotations)
        saved = time.monotonic()
        try:
            with tqdm(
                total=len(images),
                initial=len(images) - len(left),
                desc="images",
                disable=False if self._progress else None,
            ) as self._bar:
                for image, found in self._finder.found(left, self._show_progress):
                    if isinstance(found, UserError):
                        self._report(image, found)
                    else:
                        # Added after its files were written: the results only name images whose files exist.
                        self._add(image, found)
                    self._bar.update()
                    if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                        self._save()
                        saved = time.monotonic()
        finally:
            self._bar = None
            self._save()

    def _add(self, image: Path, found: GeneratedMasks) -> None:
        with self._finder.stage("write"):
            self._results.add(str(image), found.width, found.height, found.records)
        if not found.records:
            self._say(f"sam2fast: note: no mask in {image} reaches --pred-iou-thresh and --stability-thresh")
        self._note(image, found.width, found.height, found.records)

    def _note(self, image: Path, width: int, height: int, records: Sequence[Mapping[str, Any]]) -> None:
        best = max((record["predicted_iou"] for record in records), default=None)
        shown = "-" if best is None else f"{best:.3f}"
        self.rows.append((str(image), str(len(records)), shown, f"{width}x{height}"))

    def _save(self) -> None:
        if "json" in self._formats and self.rows:
            with self._finder.stage("write"):
                self._results.save()

    def _report(self, image: Path, error: UserError) -> None:
        self.failures += 1
        if str(image) not in error.message:
            error = UserError(f"{image}: {error.message}")
        self._say(f"sam2fast: {error.message}")

    def _say(self, line: str) -> None:
        """Prints a line to stderr, above the progress bar."""
        with tqdm.external_write_mode(file=sys.stderr):
            click.echo(line, err=True)

    def _show_progress(self, done: int, points: int) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(f"{done / points:.0%} of this image")
