"""``sam2fast segment``: segments objects in each image."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from sam2fast.cli.box_files import NoBoxError
from sam2fast.cli.boxes import read_boxes
from sam2fast.cli.command import argument, command, option, shared
from sam2fast.cli.command_files import (
    START_AGAIN,
    check_results,
    check_same,
    encoded_name,
    files_of_object,
    make_folder,
    name_in_file,
    output_files,
)
from sam2fast.cli.jobs import note_resumed, work_through
from sam2fast.cli.left_out import LeftOut
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.options import ModelOptions, max_megapixels_option, model_options, out_option
from sam2fast.cli.prompt_texts import IMAGE_BOX, IMAGE_MASK, IMAGE_POINT, read_label_image, read_prompt_file
from sam2fast.cli.prompts import ImagePrompts, Prompts, mask_file, note_fractions
from sam2fast.cli.reporting import emit, output_options, progress_bar
from sam2fast.cli.runner_options import RayOptions, add_seconds, choose_runner, resume_option, runner_options
from sam2fast.cli.sources import InputSource, file_names, images_in, list_sources
from sam2fast.cli.user_errors import USER_ERRORS, ErrorReport, UserError, format_error, print_note
from sam2fast.cli.written_files import WrittenFiles
from sam2fast.downloads.digests import digest_of
from sam2fast.io.atomic import remove_leftovers
from sam2fast.io.made_from import differences, is_whole

WRITTEN = ".segment.files.json"  # record of the written files

if TYPE_CHECKING:
    import numpy as np

    from sam2fast.cli.results import SegmentedObject
    from sam2fast.cli.segmenter import Segmenter

Record = dict[str, Any]


class SegmentCommand:
    """Find objects in each IMAGE by points, boxes or masks: one object, or several with names.

    IMAGE is a file, a folder, a pattern such as 'photos/*.jpg', a URL (https://...), or - for stdin. Coordinates
    are pixels of the image as displayed, and apply to every image. A single point is ambiguous: of three masks, the
    mask with the best score is taken. If the mask covers a part of the object, add a second point or a box.

    \b
    Writes to the output folder
      STEM_mask.png       the mask of the object; STEM_NAME_mask.png for named objects
      STEM_overlay.png    the masks in colour on the image
      STEM.json           score, box, area and run lengths

    The score is the model's own estimate of the mask's IoU with the object: 1 is certain.

    Images that fail or have a prompt outside the image are skipped and listed at the end, and set the exit code to 1.
    Images without prompts are skipped with a note. If no image has prompts, the exit code is 1. If the files of
    --boxes-from have no boxes at all, the exit code is 0.
    """

    images: Sequence[str] = argument(nargs=-1, required=True, metavar="IMAGE...")
    points: Sequence[Prompts] = option(
        "--point",
        multiple=True,
        type=IMAGE_POINT,
        help="A click; LABEL 0 marks background. NAME begins with a letter. Repeatable.",
    )
    boxes: Sequence[Prompts] = option(
        "--box", multiple=True, type=IMAGE_BOX, help="A box around an object. Repeatable."
    )
    masks: Sequence[Prompts] = option(
        "--mask",
        multiple=True,
        type=IMAGE_MASK,
        help="A rough mask: an image of the same ratio, bright or opaque where the object is, or a label of a palette "
        "or grey image. Without --box, the mask's bounds are the box, as a mask alone has little effect. Repeatable.",
    )
    label_images: Sequence[Path] = option(
        "--masks",
        metavar="FILE",
        help="Rough masks of several objects: a palette or grey image. Pixel values name the objects; 0 is background. "
        "Repeatable.",
    )
    prompt_files: Sequence[Path] = option(
        "--prompts",
        metavar="FILE",
        help='Prompts as JSON: {"prompts": [{"object": "cup", "points": [[X, Y]], "labels": [1], '
        '"box": [X0, Y0, X1, Y1], "mask": "cup.png", "image": "only_this.jpg"}]}. Repeatable.',
    )
    box_files: Sequence[Path] = option(
        "--boxes-from",
        metavar="PATH",
        help="Boxes of a detector: a .json file in COCO's format, with a data set or a list of detections; a folder of "
        "YOLO's .txt files with the images' names; or one YOLO file for all images. Repeatable.",
    )
    model: ModelOptions = shared(partial(model_options, many_devices=True))
    ray_options: RayOptions = shared(runner_options)
    resume: bool = shared(resume_option)
    out: Path = shared(max_megapixels_option, out_option("out"))
    as_json: bool = option("--json", help="Print one JSON document instead of the table.")

    def run(self) -> None:
        left_out = LeftOut()
        note_fractions((*self.points, *self.boxes), "the points and boxes")
        files = [read_prompt_file(file, "image", left_out) for file in self.prompt_files]
        no_box: NoBoxError | None = None
        for file in self.box_files:
            try:
                files.append(read_boxes(file, left_out))
            except NoBoxError as error:
                no_box = error
        files += map(read_label_image, self.label_images)
        parts = [*self.points, *self.boxes, *self.masks, *chain.from_iterable(files)]
        if self.box_files and not any(parts):
            if no_box is not None:
                raise no_box
            if self.as_json:  # the files have no boxes; read_boxes has printed a note
                _print_json([], ErrorReport("images"), left_out, {})
            return
        asked = ImagePrompts(parts)
        sources, problems = list_sources(self.images, partial(images_in, out=self.out, left_out=left_out), "images")
        total = len(sources) + len(problems.found)
        objects: dict[InputSource, Sequence[Prompts]] = {}
        for image in sources:
            try:
                objects[image] = asked.of(image)
            except (*USER_ERRORS, click.UsageError) as error:
                problems.add(image, format_error(error))
        asked.names.log_guesses()
        check_results(
            list(objects),
            lambda image: output_files(self.out, image.stem, [one.object for one in objects[image]]).values(),
            asked.mask_files,
        )
        for image in (image for image, prompts in objects.items() if not prompts):
            left_out.add("image", "it has no prompts", image)
        for name, count in asked.unused(sources).items():
            left_out.add("prompt", "its image is not an input", name, count)
        if not any(objects.values()):
            if self.as_json:
                _print_json([], problems, left_out, {})
            if left_out:
                emit({"left_out": left_out.as_json()})
            problems.raise_if_any(total)
            raise UserError(f"there are no prompts for these images; left out: {left_out}")
        _note_cut_names(objects)
        choice = self.model.choose()
        make_folder(self.out)
        earlier = [output_files(self.out, image.stem)["json"] for image in objects] if self.resume else []
        dtype = self.model.with_dtype(earlier, bool(self.ray_options)).dtype
        task = SegmentTask(self.out, choice, dtype, choice.made_from(dtype=dtype))
        names, spent = file_names(sources), dict[str, float]()
        jobs = [SegmentJob(image, prompts, names[image]) for image, prompts in objects.items() if prompts]
        remove_leftovers((file for job in jobs for file in job.files(self.out)), bool(self.ray_options))
        done: dict[str, list[Record]] = {}
        if self.resume:
            changed: dict[str, list[str]] = {}
            for job in jobs:
                if (found_before := task.done_before(job.inside(self.out), changed)) is not None:
                    done[str(job)] = found_before
                    left_out.add_all(job.left_out({record.get("object") for record in found_before}))
            note_resumed(len(done), len(jobs), changed)
        for record in chain.from_iterable(done.values()):
            emit(record)
        written = WrittenFiles(self.out, WRITTEN)
        if left := [job for job in jobs if str(job) not in done]:
            runner = choose_runner(self.ray_options, self.model.device, len(left), "images").runner
            with written, progress_bar("images", len(jobs), "images", len(done)) as bar:
                for job, (records, beyond, seconds) in work_through(task, left, runner, task.load, problems, bar):
                    add_seconds(spent, seconds)
                    left_out.add_all(beyond)
                    done[str(job)] = records
                    written.add(job.image.resolved, job.files(self.out))
                    for record in records:
                        emit(record)
        with written:
            of_inputs = {image.resolved: written.files_of(image.resolved) for image in sources}
            of_inputs |= {image.resolved: [] for image, prompts in objects.items() if not prompts}
            for job in jobs:
                if str(job) in done:
                    found = [record.get("object") for record in done[str(job)]]
                    outputs = list(output_files(self.out, job.image.stem, found).values()) if found else []
                    of_inputs[job.image.resolved] = outputs
                    written.add(job.image.resolved, outputs, is_new=False)
            written.remove_others(of_inputs)
        records = [record for job in jobs for record in done.get(str(job), ())]
        if self.as_json:
            _print_json(records, problems, left_out, spent)
        elif records:
            from sam2fast.cli.results import print_results

            print_results({f"{r['image']} {r.get('object', '')}".rstrip(): r for r in records}, spent, self.out)
        left_out.report()
        problems.raise_if_any(total)
        if not records:
            raise UserError("no box lies in its image")


segment = command(SegmentCommand, output_options(has_bar=True))


def _note_cut_names(objects: Mapping[InputSource, Sequence[Prompts]]) -> None:
    named = {(one.object, image.stem) for image, prompts in objects.items() for one in prompts if one.object}
    if cut := sorted({name for name, stem in named if name_in_file(name, stem) != encoded_name(name)}):
        what = f"{len(cut)} names of objects are" if len(cut) > 1 else "the name of an object is"
        print_note(f"{what} cut in file names, since file systems limit them: {cut[0]}")


def _print_json(
    records: Sequence[Record], problems: ErrorReport, left_out: LeftOut, seconds: Mapping[str, float]
) -> None:
    failed = [{"image": image, "error": why} for image, why in problems.found]
    rounded = {stage: round(value, 4) for stage, value in seconds.items()}
    content = {"results": records, "failed": failed, "left_out": left_out.as_json(), "seconds": rounded}
    click.echo(json.dumps(content, indent=2))


class SegmentJob(NamedTuple):
    """An image and its objects."""

    image: InputSource
    objects: Sequence[Prompts]
    name: str  # name of the image in the results

    def __str__(self) -> str:
        return str(self.image)

    def inside(self, out: Path) -> "SegmentJob":
        """Returns the job without detectors' boxes outside the image, if an earlier result states the image's size."""
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, UserError):
            content = json.loads(output_files(out, self.image.stem)["json"].read_bytes())
            width, height = (content.get("results", [content])[0]["size"][side] for side in ("width", "height"))
            scaled = [(one, one.scaled(self.image, width, height)) for one in self.objects]
            return self._replace(objects=[one for one, at in scaled if not (one.where and at.outside(width, height))])
        return self

    def left_out(self, names: Collection[str | None]) -> LeftOut:
        """Counts the boxes outside the image: the boxes of objects that are not in ``names``."""
        left_out = LeftOut()
        for one in self.objects:
            if one.object not in names:
                left_out.add("box", "it lies outside the image", one.where)
        return left_out

    def files(self, out: Path) -> list[Path]:
        """Returns the files of the job's results."""
        return list(output_files(out, self.image.stem, [one.object for one in self.objects]).values())


@dataclass(frozen=True)
class SegmentTask:
    """A picklable function that segments an image, and writes results. ``run`` is the record of model and options."""

    out: Path
    choice: ModelChoice
    dtype: str
    run: Mapping[str, Any]

    def load(self, device: str) -> "Segmenter":
        from sam2fast.cli.segmenter import Segmenter

        return Segmenter(self.choice, device, self.dtype)

    def __call__(self, segmenter: "Segmenter", job: SegmentJob) -> tuple[list[Record], LeftOut, dict[str, float]]:
        """Writes the files. Returns the objects' records, counts of boxes outside the image, and seconds by stage."""
        from sam2fast.cli.results import write_results

        with segmenter.stage("read image"):
            made_from = self._made_from(job)  # digest before reading the image: the file may be replaced meanwhile
        pixels, objects = predict_objects(segmenter, job.image, job.objects)
        names = {one.name for one in objects}
        left_out = job.left_out(names)
        if not objects:
            return [], left_out, segmenter.take_seconds()
        with segmenter.stage("write"):
            made_from = [made for one, made in zip(job.objects, made_from, strict=True) if one.object in names]
            stem, model, choices = job.image.stem, segmenter.description, segmenter.choices
            records = write_results(self.out, stem, job.name, pixels, objects, model, made_from, choices)
            records = [{**record, "image": str(job.image)} for record in records]
        return records, left_out, segmenter.take_seconds()

    def done_before(self, job: SegmentJob, changed: dict[str, list[str]]) -> list[Record] | None:
        """Returns the records of an image if all results are complete and from the same inputs, otherwise None.

        The returned records have this run's names of the image and of the files.

        Args:
            changed: Dict that receives, by image, the names of the changed inputs (the image or the prompts).

        Raises:
            UserError: If the model, the version or the options of the results differ.
        """
        file = output_files(self.out, job.image.stem)["json"]
        try:
            content = json.loads(file.read_bytes())
            records: list[Record] = content.get("results", [content])
            before = {record.get("object"): record.get("made_from") for record in records}
            now = {one.object: made for one, made in zip(job.objects, self._made_from(job), strict=True)}
        except (*USER_ERRORS, ValueError, TypeError, AttributeError, RecursionError):
            return None  # there are no results, damaged results, or an unreadable image
        for made in before.values():
            of_run = {key: made.get(key) for key in self.run} if isinstance(made, dict) else None
            check_same(file, of_run, self.run, f"; {START_AGAIN}")
        if before.keys() != now.keys():
            changed[str(job)] = ["prompts"]
        elif other := [name for key, made in now.items() for name in differences(before[key], made)]:
            changed[str(job)] = other
        elif all(map(is_whole, job.files(self.out))):
            files = output_files(self.out, job.image.stem, list(now))
            names = {name: {"image": str(job.image), "files": files_of_object(files, name)} for name in now}
            return [{**record, **names[record.get("object")]} for record in records]
        return None

    def _made_from(self, job: SegmentJob) -> list[Record]:
        """Returns the record of each object's result."""
        of_image = {**self.run, **job.image.made_from()}
        made = []
        for one in job.objects:
            file, label = (None, None) if one.mask is None else mask_file(one.mask)
            prompts = json.dumps([one.as_json() | {"mask": label}, one.is_relative, one.size])
            of_mask = {} if file is None else {"mask_content": digest_of(file)}
            made.append({**of_image, "prompts": hashlib.sha256(prompts.encode()).hexdigest(), **of_mask})
        return made


def predict_objects(
    segmenter: "Segmenter", image: InputSource, objects: Sequence[Prompts]
) -> "tuple[np.ndarray, list[SegmentedObject]]":
    """Returns the pixels ``(H, W, 3)`` of an image and the masks of its objects.

    Leaves out each object for which a detector's box lies outside the image.

    Raises:
        UserError: If a prompt other than a detector's box lies outside the image.
    """
    from sam2fast.cli.results import SegmentedObject

    pixels = segmenter.read(image)
    height, width = pixels.shape[:2]
    asked = []
    for one in objects:
        prompts, mask = one.scaled(image, width, height), None
        if prompts.mask is not None:
            mask = segmenter.read_mask(prompts.mask, image, (height, width))
            prompts = replace(prompts, box=prompts.box or mask.bounds.scaled(width, height))
        if outside := prompts.outside(width, height):
            if one.where:
                continue
            name = "" if one.object is None else f"{one}: "
            raise UserError(f"{name}the {outside[0]} lies outside {image} ({width}x{height} pixels)")
        asked.append((one.object, prompts, mask))
    if asked:
        segmenter.encode(pixels)
    return pixels, [SegmentedObject(name, prompts, segmenter.predict(prompts, mask)) for name, prompts, mask in asked]
