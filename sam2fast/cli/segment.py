"""``sam2fast segment``: objects in each image."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from sam2fast import __version__
from sam2fast.cli.boxes import read_boxes
from sam2fast.cli.command_files import check_results, digest_of, make_folder, output_files, remove_leftovers
from sam2fast.cli.jobs import Task, digest_of_facts, work_through
from sam2fast.cli.model_choice import ModelChoice, choose_model
from sam2fast.cli.options import PATH, GroupedCommand, max_megapixels_option, model_options, out_option
from sam2fast.cli.prompt_texts import IMAGE_BOX, IMAGE_MASK, IMAGE_POINT, read_label_image, read_prompt_file
from sam2fast.cli.prompts import ImagePrompts, Prompts, mask_file
from sam2fast.cli.reporting import emit, output_options
from sam2fast.cli.runner_options import RayOptions, choose_runner, resume_option, runner_options
from sam2fast.cli.sources import InputSource, images_in, list_sources
from sam2fast.cli.user_errors import UserError, as_user_error, print_note
from sam2fast.io.images import MAX_NAMED

if TYPE_CHECKING:
    import numpy as np

    from sam2fast.cli.results import SegmentedObject
    from sam2fast.cli.segmenter import Segmenter

Record = dict[str, Any]


@click.command(cls=GroupedCommand)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--point",
    "points",
    multiple=True,
    type=IMAGE_POINT,
    help="A click; LABEL 0 is not the object. NAME begins with a letter. Repeatable.",
)
@click.option("--box", "boxes", multiple=True, type=IMAGE_BOX, help="A box around an object. Repeatable.")
@click.option(
    "--mask",
    "masks",
    multiple=True,
    type=IMAGE_MASK,
    help="A rough mask: an image of any size, bright or opaque where the object is, or a label of a palette or grey "
    "image. Without --box its bounds are the box, since a mask alone has little effect. Repeatable.",
)
@click.option(
    "--masks",
    "label_images",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help="Rough masks of several objects: a palette or grey image, whose values name the objects, 0 for none. "
    "Repeatable.",
)
@click.option(
    "--prompts",
    "prompt_files",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help='Prompts as JSON: {"prompts": [{"object": "cup", "points": [[X, Y]], "labels": [1], '
    '"box": [X0, Y0, X1, Y1], "mask": "cup.png", "image": "only_this.jpg"}]}. Repeatable.',
)
@click.option(
    "--boxes-from",
    "box_files",
    multiple=True,
    type=PATH,
    metavar="PATH",
    help="Boxes of a detector: a .json file in COCO's format, of a data set or a list of detections; a folder of "
    "YOLO's .txt files named as the images; or one such file for all images. Repeatable.",
)
@partial(model_options, many_devices=True)
@runner_options
@resume_option
@max_megapixels_option
@out_option("out")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of the table.")
@output_options(has_bar=True)
def segment(
    images: Sequence[str],
    points: Sequence[Prompts],
    boxes: Sequence[Prompts],
    masks: Sequence[Prompts],
    label_images: Sequence[Path],
    prompt_files: Sequence[Path],
    box_files: Sequence[Path],
    model: str | None,
    checkpoint: Path | None,
    image_size: int | None,
    device: str,
    dtype: str,
    ray_options: RayOptions,
    resume: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Find objects in each IMAGE by points, boxes or masks: one object, or several with names.

    IMAGE is a file, a folder, a pattern such as 'photos/*.jpg', a URL (https://...), or - for stdin. Coordinates
    are pixels of the image as it is displayed, and apply to every image. A single point is ambiguous: the best-scored
    of three masks is taken. If you get a part of the object, add a second point or a box.

    \b
    Writes to the output folder
      STEM_mask.png       the mask of the object; of several STEM_NAME_mask.png
      STEM_overlay.png    the masks in colour on the image
      STEM.json           score, box, area and run lengths

    The score is the model's own estimate of the mask's IoU with the object: 1 is certain.

    An image that fails, or that a prompt lies outside of, is skipped and listed at the end; then the exit code is 1.
    Images without prompts are skipped with a note; if no image has prompts, the exit code is 1, but for detectors that
    found nothing at all.
    """
    files = chain((read_prompt_file(file, "image") for file in prompt_files), map(read_boxes, box_files))
    parts = [*points, *boxes, *masks, *chain.from_iterable([*map(read_label_image, label_images), *files])]
    if box_files and not parts:  # the detector found nothing, which a note has said
        if as_json:
            click.echo(json.dumps({"results": [], "failed": [], "seconds": {}}, indent=2))
        return
    asked = ImagePrompts(parts)
    sources, problems = list_sources(images, partial(images_in, out=out), "images")
    total = len(sources) + len(problems.found)
    objects = {image: asked.of(image) for image in sources}
    check_results(
        sources,
        lambda image: output_files(out, image.stem, [one.object for one in objects[image]]).values(),
        asked.mask_files,
    )
    for image in (image for image, found in objects.items() if not found):
        print_note(f"no prompts for {image}")
    if unused := asked.unused(sources):
        names = ", ".join(unused[:MAX_NAMED]) + (", ..." if len(unused) > MAX_NAMED else "")
        print_note(f"prompts for {names} are not used: no such image was given")
    if not any(objects.values()):
        raise UserError("there are no prompts for these images")
    choice = choose_model(model, checkpoint, image_size)
    make_folder(out)
    with as_user_error(OSError):
        masks_read = {mask: digest_of(mask_file(mask)[0]) for mask in asked.masks}
        task = SegmentTask(out, choice, dtype, choice.fingerprint(), masks_read)
    jobs, spent = [SegmentJob(image, found) for image, found in objects.items() if found], dict[str, float]()
    remove_leftovers((file for job in jobs for file in job.files(out)), bool(ray_options))
    done: dict[str, list[Record]] = {}
    if resume:
        done = {str(job): records for job in jobs if (records := task.done_before(job)) is not None}
        print_note(f"{len(done)} of {len(jobs)} images were done before")
    for record in chain.from_iterable(done.values()):
        emit(record)
    if left := [job for job in jobs if str(job) not in done]:
        chosen = choose_runner(ray_options, device, len(left), "images")
        for job, records, _ in work_through(task, left, chosen, problems, spent, len(jobs)):
            done[str(job)] = records
            for record in records:
                emit(record)
    records = [record for job in jobs for record in done.get(str(job), ())]
    if as_json and records:
        rounded = {stage: round(value, 4) for stage, value in spent.items()}
        failed = [{"image": image, "error": why} for image, why in problems.found]
        click.echo(json.dumps({"results": records, "failed": failed, "seconds": rounded}, indent=2))
    elif records:
        from sam2fast.cli.results import print_results

        print_results({f"{r['image']} {r.get('object', '')}".rstrip(): r for r in records}, spent, out)
    problems.raise_if_any(total)


class SegmentJob(NamedTuple):
    """An image and its objects."""

    image: InputSource
    objects: Sequence[Prompts]

    def __str__(self) -> str:
        return str(self.image)

    def files(self, out: Path) -> list[Path]:
        """The files of its results."""
        return list(output_files(out, self.image.stem, [one.object for one in self.objects]).values())


@dataclass(frozen=True)
class SegmentTask(Task):
    """Segments images, and writes the results to a folder.

    Attributes:
        model: the model's fingerprint.
        masks: digests of the files of mask prompts.
    """

    out: Path
    choice: ModelChoice
    dtype: str
    model: Mapping[str, Any]
    masks: Mapping[Path, str]

    def load(self, device: str) -> "Segmenter":
        from sam2fast.cli.segmenter import Segmenter

        segmenter = Segmenter(self.choice, device, self.dtype)
        for mask in self.masks:
            segmenter.read_mask(mask)
        return segmenter

    def do(self, segmenter: "Segmenter", job: SegmentJob) -> list[Record]:
        """The records of the objects, after the files are written."""
        from sam2fast.cli.results import write_results

        pixels, found = predict_objects(segmenter, job.image, job.objects)
        with segmenter.stage("write"):
            made_from, stem = self._made_from(job), job.image.stem
            return write_results(
                self.out, stem, job.image, pixels, found, segmenter.description, made_from, segmenter.choices
            )

    def done_before(self, job: SegmentJob) -> list[Record] | None:
        """The records of an image that has all results, made from the same; None of others."""
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            content = json.loads(output_files(self.out, job.image.stem)["json"].read_bytes())
            records: list[Record] = content.get("results", [content])
            made = [(one.object, made) for one, made in zip(job.objects, self._made_from(job), strict=True)]
            is_same = [(record.get("object"), record["made_from"]) for record in records] == made
            return records if is_same and all(file.is_file() for file in job.files(self.out)) else None
        return None

    def _made_from(self, job: SegmentJob) -> list[str]:
        """A digest for each object of all that its result depends on."""
        facts = (__version__, self.model, self.dtype, str(job.image), job.image.fingerprint())
        return [
            digest_of_facts(*facts, one.as_json(), one.is_relative, one.size, one.mask and self.masks[one.mask])
            for one in job.objects
        ]


def predict_objects(
    segmenter: "Segmenter", image: InputSource, objects: Sequence[Prompts]
) -> "tuple[np.ndarray, list[SegmentedObject]]":
    """The pixels ``(H, W, 3)`` of an image and the masks of its objects."""
    from sam2fast.cli.results import SegmentedObject

    pixels = segmenter.read(image)
    height, width = pixels.shape[:2]
    asked = []
    for one in objects:
        prompts, mask = one.scaled(image, width, height), None
        if prompts.mask is not None:
            mask = segmenter.read_mask(prompts.mask)
            prompts = replace(prompts, box=prompts.box or mask.bounds.scaled(width, height))
        if outside := prompts.outside(width, height):
            whose = "" if one.object is None else f"{one}: "
            raise UserError(f"{whose}the {outside[0]} lies outside {image} ({width}x{height})")
        asked.append((one.object, prompts, mask))
    segmenter.encode(pixels)
    return pixels, [SegmentedObject(name, prompts, segmenter.predict(prompts, mask)) for name, prompts, mask in asked]
