"""One run of ``sam2fast masks`` over many images, and its results file in COCO's format."""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from sam2fast import __version__
from sam2fast.cli.command_files import RESULTS, mask_files, write_atomically
from sam2fast.cli.mask_finder import BuildMaskFinder, MaskFinder
from sam2fast.cli.reporting import emit, progress_bar
from sam2fast.cli.results import DIGITS
from sam2fast.cli.runner_options import RunnerChoice, add_seconds
from sam2fast.cli.sources import InputSource
from sam2fast.cli.user_errors import ErrorReport, UserError, as_user_error, print_note
from sam2fast.deploy.parallel.pool import JobResult
from sam2fast.deploy.parallel.process import WorkerError
from sam2fast.video_results.coco_video import CATEGORY

# Each save writes the whole results file, so it is not saved after every image.
SECONDS_BETWEEN_SAVES = 10.0
ADVICE = "choose another --out, or leave --resume out to start again"


class CocoFile:
    """A data set as ``pycocotools.coco.COCO`` reads it; ids of images and masks count from 1.

    Besides COCO's own keys an annotation has ``predicted_iou``, ``stability_score``, ``point`` ([x, y] in pixels, which
    gave the mask) and ``layer``, the mask's position in its image, from 1. :meth:`save` writes the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
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

    def save(self, info: Mapping[str, Any]) -> None:
        """Replaces the file by everything that was added; ``info`` has the model and its options."""
        lists = {"images": self._images, "categories": [_encode(CATEGORY)], "annotations": self._annotations}
        head = {"info": {"description": "masks by sam2fast", "version": __version__, **info}}
        text = _encode(head).removesuffix("}")
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
    """The entries of one image in a results file, with the ids of that file."""

    image: dict[str, Any]
    annotations: list[dict[str, Any]]


def read_previous_masks(
    results: Path, build: BuildMaskFinder, images: Sequence[InputSource]
) -> dict[str, PreviousMasks]:
    """The entries of an earlier run's results by the images' names. Those of ``images`` without files are left out.

    Raises:
        UserError: the file cannot be read, or was made by another model, other options or another version.
    """
    if not results.exists():
        return {}
    try:
        content = json.loads(results.read_text(encoding="utf-8"))
        info, model = content["info"], content["info"]["model"]
        made_by = {"version": info["version"], **model, **info["options"]}
        annotations = defaultdict(list)
        for annotation in content["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
        found = {image["file_name"]: PreviousMasks(image, annotations[image["id"]]) for image in content["images"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{results} cannot be resumed ({error}); {ADVICE}") from error
    model = {**build.choice.as_json(), "image_size": build.choice.image_size, "dtype": build.dtype}
    asked = {"version": __version__, **model, **build.options}
    other = [f"{name} {made_by.get(name)}, now {value}" for name, value in asked.items() if made_by.get(name) != value]
    if other:
        raise UserError(f"{results} was made with other settings ({'; '.join(other)}); {ADVICE}")
    for image in images:
        files = mask_files(build.out, image.stem, build.formats).values()
        if image.content is not None or not all(file.is_file() for file in files):
            found.pop(str(image), None)
    return found


class MaskRun:
    """One run over many images; those that fail are added to ``problems``.

    ``rows`` has the name, the number of masks, the best predicted IoU and the size of each finished image as text,
    ``seconds`` the time of every stage in all processes together.
    """

    def __init__(self, build: BuildMaskFinder, chosen: RunnerChoice, problems: ErrorReport) -> None:
        self.rows: list[tuple[str, str, str, str]] = []
        self.seconds: dict[str, float] = {}
        self._build, self._chosen, self._device = build, chosen, chosen.name
        self._problems = problems
        self._results = CocoFile(build.out / RESULTS)

    def find(self, images: Sequence[InputSource], before: Mapping[str, PreviousMasks]) -> None:
        """Generates the masks of the images. The results file is saved even if an exception ends the run.

        Args:
            before: entries of an earlier results file by the images' names; they are kept, and their images skipped.
        """
        left = [image for image in images if str(image) not in before]
        for entries in before.values():
            self._results.keep(*entries)
        for image in images:
            if str(image) in before:
                entries = before[str(image)]
                self._note(image, entries.image["width"], entries.image["height"], entries.annotations)
        saved, count = time.monotonic(), len(images)
        try:
            with as_user_error(WorkerError), progress_bar("images", count, "images", count - len(left)) as bar:
                build = self._build
                if self._chosen.is_local:
                    build = replace(
                        build, progress=lambda done, points: bar.set_postfix_str(f"{done / points:.0%} of this image")
                    )
                for result in self._chosen.runner(MaskFinder.find, left, build, ordered=True):
                    self._take(result)
                    bar.update()
                    if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                        self._save()
                        saved = time.monotonic()
        finally:
            self._save()

    def _take(self, result: JobResult) -> None:
        """Adds the masks of an image, or reports its error."""
        if result.error is not None and result.failure is None:  # the job's workers were lost
            return self._problems.add(result.job, result.error)
        found, spent, device = result.unwrap()
        add_seconds(self.seconds, spent)
        if self._chosen.is_local:
            self._device = device
        if isinstance(found, UserError):
            return self._problems.add(result.job, found.message)
        # Added after its files were written: the results only name images whose files exist.
        with self._writing():
            self._results.add(str(result.job), found.width, found.height, found.records)
        if not found.records:
            with tqdm.external_write_mode(file=sys.stderr):  # above the progress bar
                print_note(
                    f"no mask in {result.job} reaches --pred-iou-thresh and --stability-score-thresh: lower them"
                )
        self._note(result.job, found.width, found.height, found.records)

    def _note(self, image: InputSource, width: int, height: int, records: Sequence[Mapping[str, Any]]) -> None:
        best = max((record["predicted_iou"] for record in records), default=None)
        best = None if best is None else round(best, DIGITS)
        shown = "-" if best is None else f"{best:.3f}"
        self.rows.append((str(image), str(len(records)), shown, f"{width}x{height}"))
        facts = {"image": str(image), "size": {"width": width, "height": height}, "masks": len(records), "score": best}
        emit({**facts, "out": str(self._build.out), "model": self._model()})

    def _save(self) -> None:
        if "json" in self._build.formats and self.rows:
            with self._writing():
                self._results.save({"model": self._model(), "options": dict(self._build.options)})

    def _model(self) -> dict[str, Any]:
        return {**self._build.choice.as_json(), "device": self._device, "dtype": self._build.dtype}

    @contextmanager
    def _writing(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        add_seconds(self.seconds, {"write": time.perf_counter() - start})
