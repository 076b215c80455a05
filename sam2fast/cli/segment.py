"""``sam2fast segment``: objects in each image."""

import json
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import click

from sam2fast.cli.box_files import read_boxes
from sam2fast.cli.command_files import check_results, make_folder, output_files, remove_leftovers
from sam2fast.cli.model_choice import choose_model
from sam2fast.cli.object_prompts import (
    ObjectBoxType,
    ObjectMaskType,
    ObjectPointType,
    ObjectPrompt,
    ObjectPrompts,
    read_label_image,
    read_object_file,
)
from sam2fast.cli.options import PATH, GroupedCommand, model_options, out_option
from sam2fast.cli.reporting import emit, output_options, progress_bar
from sam2fast.cli.runner_options import RayOptions, add_seconds, choose_runner, resume_option, runner_options
from sam2fast.cli.sources import images_in, list_sources
from sam2fast.cli.user_errors import UserError, as_user_error, print_note
from sam2fast.deploy.parallel.process import WorkerError
from sam2fast.io.images import MAX_NAMED


@click.command(cls=GroupedCommand)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--point",
    "points",
    multiple=True,
    type=ObjectPointType(),
    help="A click; LABEL 0 is not the object. NAME begins with a letter. Repeatable.",
)
@click.option("--box", "boxes", multiple=True, type=ObjectBoxType(), help="A box around an object. Repeatable.")
@click.option(
    "--mask",
    "masks",
    multiple=True,
    type=ObjectMaskType(),
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
@out_option("out")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of the table.")
@output_options(has_bar=True)
def segment(
    images: Sequence[str],
    points: Sequence[ObjectPrompt],
    boxes: Sequence[ObjectPrompt],
    masks: Sequence[ObjectPrompt],
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
    files = [*map(read_label_image, label_images), *map(read_object_file, prompt_files), *map(read_boxes, box_files)]
    parts = [*points, *boxes, *masks, *chain.from_iterable(files)]
    if box_files and not parts:  # the detector found nothing, which a note has said
        if as_json:
            click.echo(json.dumps({"results": [], "failed": [], "seconds": {}}, indent=2))
        return
    asked = ObjectPrompts(parts)
    asked.check_masks()
    sources, problems = list_sources(images, partial(images_in, out=out), "images")
    total = len(sources) + len(problems.found)
    objects = {image: asked.of(image) for image in sources}
    check_results(
        sources,
        lambda image: output_files(out, image.stem, [one.name for one in objects[image]]).values(),
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

    from sam2fast.cli.results import print_results
    from sam2fast.cli.segment_run import BuildSegmenter, Record, SegmentJob, SegmentRun

    make_folder(out)
    jobs = [SegmentJob(image, found) for image, found in objects.items() if found]
    remove_leftovers((file for job in jobs for file in job.files(out)), bool(ray_options))
    run, spent = SegmentRun(out), dict[str, float]()
    done: dict[str, list[Record]] = {}
    if resume:
        found = {str(job.image): run.read_previous(job, choice, dtype) for job in jobs}
        done = {image: records for image, records in found.items() if records is not None}
        print_note(f"{len(done)} of {len(jobs)} images were done before")
    for record in chain.from_iterable(done.values()):
        emit(record)
    left = [job for job in jobs if str(job.image) not in done]
    if left:
        runner = choose_runner(ray_options, device, len(left), "images").runner
        build = BuildSegmenter(choice, dtype, sorted(asked.masks))
        with as_user_error(WorkerError), progress_bar("images", len(jobs), "images", len(done)) as bar:
            for result in runner(run, left, build, ordered=True):
                bar.update()
                if result.error is not None and result.failure is None:  # the job's workers were lost
                    problems.add(result.job.image, result.error)
                    continue
                found_records, seconds = result.unwrap()
                add_seconds(spent, seconds)
                if isinstance(found_records, UserError):
                    problems.add(result.job.image, found_records.message)
                else:
                    done[str(result.job.image)] = found_records
                    for record in found_records:
                        emit(record)
    records = [record for job in jobs for record in done.get(str(job.image), ())]
    if as_json and records:
        rounded = {stage: round(value, 4) for stage, value in spent.items()}
        failed = [{"image": image, "error": why} for image, why in problems.found]
        click.echo(json.dumps({"results": records, "failed": failed, "seconds": rounded}, indent=2))
    elif records:
        print_results({f"{r['image']} {r.get('object', '')}".rstrip(): r for r in records}, spent, out)
    problems.raise_if_any(total)
