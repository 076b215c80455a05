"""Generates the masks of images, draws them, and collects them in a file in COCO's format."""

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor
from tqdm import tqdm

from sam2fast.automatic_mask_generator import Progress, SAM2AutomaticMaskGenerator
from sam2fast.cli.command_files import RESULTS, START_AGAIN, check_same, mask_files, write_atomically, writing
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.results import DIGITS, to_uint8
from sam2fast.cli.segmenter import NOT_FINITE, Segmenter
from sam2fast.cli.sources import InputSource
from sam2fast.cli.user_errors import USER_ERRORS, UserError, as_user_error
from sam2fast.io.label_maps import label_png, paint_labels
from sam2fast.io.made_from import differences, is_whole
from sam2fast.io.overlay import label_colours, layers_png
from sam2fast.results import FORMATS, AnnotatedImage, write_masks
from sam2fast.results.coco import CATEGORY, coco_entry
from sam2fast.results.formats import MOST_OBJECTS

# Each save writes the whole results file, so the file is not saved after every image.
SECONDS_BETWEEN_SAVES = 10.0


COCO_KEYS = {"category_id", "segmentation", "bbox", "area", "iscrowd"}
KEYS = COCO_KEYS | {"predicted_iou", "stability_score", "point", "layer"}


class CheckedGenerator(SAM2AutomaticMaskGenerator):
    """A mask generator that raises UserError for non-finite scores, where the base class would return no masks."""

    def _predict(self, coords: Tensor, mask_input: Tensor | None, multimask_output: bool) -> tuple[Tensor, Tensor]:
        low_res, ious = super()._predict(coords, mask_input, multimask_output)
        if not ious.isfinite().all():
            raise UserError(NOT_FINITE)
        return low_res, ious


class MaskFinder(Segmenter):
    """A segmenter with a mask generator."""

    generator: CheckedGenerator


class FoundMasks(NamedTuple):
    """The entries of one image in a results file, without ids. :meth:`ResultsFile.add` assigns the ids."""

    image: Mapping[str, Any]
    annotations: Sequence[Mapping[str, Any]]  # an annotation per non-empty mask, the largest first

    def named(self, file_name: str) -> "FoundMasks":
        """Returns the entries with another name of the image."""
        return self._replace(image={**self.image, "file_name": file_name})


@dataclass(frozen=True)
class MaskTask:
    """Generates and draws the masks of an image. The task is picklable if ``progress`` is not a function."""

    choice: ModelChoice
    dtype: str
    options: Mapping[str, Any]
    formats: Sequence[str]
    out: Path
    run: Mapping[str, Any]  # record of model and options, the same for all images
    tolerance: float = 1.0  # maximum distance of polygons from the outline, in pixels
    progress: Progress = False
    KEYS: ClassVar = KEYS  # keys of an annotation in the results file, without ids

    def load(self, device: str) -> MaskFinder:
        finder = MaskFinder(self.choice, device, self.dtype)
        options = {**self.options, "output_mode": "coco_rle", "progress": self.progress}
        with as_user_error(ValueError):
            finder.generator = CheckedGenerator(finder.model, **options)
        return finder

    def shown_by(self, bar: tqdm) -> "MaskTask":
        """Returns a task, for this process only, that shows the progress of each image in the bar."""
        return replace(self, progress=lambda done, of: bar.set_postfix_str(f"{done / of:.0%} of this image"))

    def __call__(self, finder: MaskFinder, image: InputSource) -> tuple[FoundMasks, dict[str, float], str]:
        """Writes the files. Returns the entries, seconds by stage, and the device."""
        with finder.stage("read image"):
            made_from = image.made_from()  # digest before reading the image, since the file may be replaced meanwhile
        pixels = finder.read(image)
        with finder.stage("find masks"):
            records = self.generate(finder, pixels)
        with finder.stage("write"):
            self._write(image, pixels, records)
        height, width = pixels.shape[:2]
        facts = {"file_name": str(image), "width": width, "height": height, "made_from": made_from, **finder.choices}
        found = FoundMasks(facts, [self.annotation(record, i) for i, record in enumerate(records, 1)])
        return found, finder.take_seconds(), finder.description["device"]

    def generate(self, finder: MaskFinder, pixels: np.ndarray) -> list[dict[str, Any]]:
        """Returns the records of the generator, the largest mask first."""
        records = (record for record in finder.generator.generate(pixels) if record["area"])
        return sorted(records, key=lambda record: -record["area"])

    @staticmethod
    def annotation(record: Mapping[str, Any], layer: int) -> dict[str, Any]:
        """Returns the entry of a record in the results file."""
        x, y, width, height = record["bbox"]
        # The width of COCO's box counts the last pixel. The box of a record ends at the index of this pixel.
        scores = {name: round(record[name], DIGITS) for name in ("predicted_iou", "stability_score")}
        facts = record["segmentation"], [x, y, width + 1, height + 1], record["area"]
        return coco_entry(CATEGORY["id"], *facts, **scores, point=record["point_coords"][0], layer=layer)

    def results(self, device: str, seconds: dict[str, float]) -> "ResultsFile":
        """Returns the file for the entries of all images."""
        return ResultsFile(self, device, seconds)

    def model(self, device: str) -> dict[str, Any]:
        """Returns a description of the model as JSON."""
        weights = self.run["weights"]
        return {**self.choice.as_json(), "weights": weights, "device": device, "dtype": self.dtype}

    def _write(self, image: InputSource, pixels: np.ndarray, records: list[dict[str, Any]]) -> None:
        files, size = mask_files(self.out, image.stem, self.formats), (pixels.shape[0], pixels.shape[1])
        rles = [record["segmentation"] for record in records]
        if "layers" in files or "overlay" in files:
            with as_user_error(ValueError):
                ids = paint_labels(rles, *size)
        if "layers" in files:
            write_atomically(files["layers"], label_png(ids, label_colours(MOST_OBJECTS).tobytes()))
        if "overlay" in files:
            write_atomically(files["overlay"], layers_png(to_uint8(pixels), ids))
        scores = [round(record["predicted_iou"], DIGITS) for record in records]
        source = to_uint8(pixels) if image.path is None else image.path
        item = AnnotatedImage(source, image.stem, size, rles, ["object"] * len(rles), scores)
        for name in files.keys() & set(FORMATS):
            with writing():
                write_masks(self.out / name, [item], name, self.tolerance)


class ResultsFile:
    """A data set that ``pycocotools.coco.COCO`` reads. Ids of images and masks start at 1.

    ``info`` and each image have the additional key ``made_from``; see :mod:`sam2fast.io.made_from`. Each annotation
    also has ``predicted_iou``, ``stability_score``, ``point`` (the prompt [x, y] in pixels) and ``layer`` (the position
    of the mask in its image, from 1).
    """

    def __init__(self, task: MaskTask, device: str, seconds: dict[str, float]) -> None:
        self.device, self._task, self._seconds, self._saved = device, task, seconds, time.monotonic()
        # Entries are encoded once, because a long run saves the file many times.
        self._images: list[str] = []
        self._annotations: list[str] = []

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Saves the file after the block, even after an exception."""
        try:
            yield
        finally:
            self._save()

    def add(self, found: FoundMasks) -> None:
        """Adds an image and its masks. Saves the file at intervals. The image's other result files must exist."""
        image_id, first = len(self._images) + 1, len(self._annotations) + 1
        for number, annotation in enumerate(found.annotations, first):
            self._annotations.append(_encode(annotation, id=number, image_id=image_id))
        self._images.append(_encode(found.image, id=image_id))
        if time.monotonic() - self._saved > SECONDS_BETWEEN_SAVES:
            self._save()

    def _save(self) -> None:
        if "json" not in self._task.formats or not self._images:
            return
        start = time.perf_counter()
        task = self._task
        info = {"description": "masks by sam2fast", "version": task.run["version"], "model": task.model(self.device)}
        info |= {"options": dict(task.options), "made_from": dict(task.run)}
        lists = {"images": self._images, "categories": [json.dumps(CATEGORY)], "annotations": self._annotations}
        text = _encode({"info": info}).removesuffix("}")
        for name, items in lists.items():
            text += f',\n"{name}": [\n' + ",\n".join(items) + "\n]"
        write_atomically(self._task.out / RESULTS, (text + "\n}\n").encode())
        self._saved = time.monotonic()
        self._seconds["write"] = self._seconds.get("write", 0.0) + time.perf_counter() - start


def _encode(value: Mapping[str, Any], **ids: int) -> str:
    """Returns an entry as JSON, with the ids replaced by ``ids``."""
    rest = {name: item for name, item in value.items() if name not in ("id", "image_id")}
    return json.dumps({**ids, **rest}, allow_nan=False)


def _stem_of_results(task: MaskTask, image: InputSource) -> str:
    """Returns the stem of an image's files. It has the suffix if the earlier run had another image of this stem."""
    files = mask_files(task.out, image.file_name, task.formats).values()
    return image.file_name if any(file.exists() for file in files) else image.stem


def read_previous_masks(
    results: Path, task: MaskTask, images: Sequence[InputSource], changed: dict[str, list[str]]
) -> dict[str, FoundMasks]:
    """Returns the entries to keep from an earlier run, by :attr:`InputSource.resolved` of the image.

    The entry of an image in ``images`` is kept if the result files are complete and the image is unchanged. The entry
    of another image is kept if no image in ``images`` overwrites the result files.

    Args:
        changed: Dict that receives the names of images with a changed input, and the names of the differences.

    Raises:
        UserError: If the file cannot be read, or was made with another model, version or options.
    """
    if not results.exists():
        return {}
    try:
        content = json.loads(results.read_text(encoding="utf-8"))
        run, annotations = content["info"].get("made_from"), defaultdict(list)
        for annotation in content["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
        entries = [FoundMasks(image, annotations[image["id"]]) for image in content["images"]]
        stems = [_stem_of_results(task, InputSource(entry.image["file_name"])) for entry in entries]
        check_same(results, run, task.run, f"; {START_AGAIN}")
        previous = {entry.image["made_from"]["image_path"]: entry for entry in entries}
        lacks = any(not {"width", "height"} <= entry.image.keys() for entry in entries)
        if lacks or len(previous) < len(entries) or any(not one.keys() >= task.KEYS for one in content["annotations"]):
            raise ValueError("it is damaged")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{results} cannot be resumed ({error}); {START_AGAIN}") from error
    owners = {
        str(file).casefold(): path
        for path, stem in zip(previous, stems, strict=True)
        for file in mask_files(task.out, stem, task.formats).values()
    }
    for image in images:
        files = mask_files(task.out, image.stem, task.formats).values()
        for path in {owners.get(str(file).casefold()) for file in files} - {image.resolved}:
            if previous.pop(path, None):
                changed[str(image)] = ["image path"]
        if image.resolved not in previous:
            continue
        try:
            other = differences(previous[image.resolved].image["made_from"], image.made_from())
        except USER_ERRORS:  # the error is reported when the image is processed
            other = ["image content"]
        if other:
            changed[str(image)] = other
        entry = previous.pop(image.resolved)
        if not other and all(map(is_whole, files)):
            previous[image.resolved] = entry
    return previous
