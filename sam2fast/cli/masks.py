"""``sam2fast masks``: everything in each picture."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from sam2fast import nano
from sam2fast.cli.errors import UserError
from sam2fast.cli.files import RESULTS, check_files, list_images, make_folder, mask_files, remove_leftovers
from sam2fast.cli.model_choice import choose_model
from sam2fast.cli.options import FormatsType, model_options, out_option
from sam2fast.cli.runner_options import (
    Cluster,
    chosen_place,
    resume_option,
    runner_options,
)

FORMATS = ("json", "layers", "overlay")
SHARE = click.FloatRange(0, 1)
# Of the predicted IoU and of the stability: the generator's own, and lower ones for nano, which trusts itself less.
THRESHOLDS, THRESHOLDS_OF_NANO = (0.8, 0.95), (0.5, 0.7)


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@model_options
@click.option(
    "--points-per-side", type=click.IntRange(1), default=32, show_default=True, help="Of the grid that is asked."
)
@click.option(
    "--points-per-batch", type=click.IntRange(1), default=64, show_default=True, help="Asked together, at most."
)
@click.option(
    "--pred-iou-thresh",
    type=SHARE,
    show_default="0.8; nano: 0.5",
    help="Masks stay if the model expects a greater IoU; 0 for all.",
)
@click.option(
    "--stability-thresh",
    type=SHARE,
    show_default="0.95; nano: 0.7",
    help="Masks stay if, cut a little higher and a little lower, they have at least this IoU; 0 for all.",
)
@click.option(
    "--nms-thresh",
    type=SHARE,
    default=0.7,
    show_default=True,
    help="Of two masks whose boxes overlap by a greater IoU the better one stays.",
)
@click.option(
    "--crops",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Layers of crops to search as well, for small things: 1 adds 4, 2 adds 16 more.",
)
@click.option(
    "--crop-overlap",
    type=SHARE,
    default=512 / 1500,
    show_default="0.341",
    help="Of the first layer, as a share of the image's shorter side.",
)
@click.option(
    "--crop-nms-thresh", type=SHARE, default=0.7, show_default=True, help="As --nms-thresh, between different crops."
)
@click.option(
    "--crop-points-downscale",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Each layer's grid has so many times fewer points per side.",
)
@click.option(
    "--min-area",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Holes and islands of at most so many low-resolution pixels go.",
)
@click.option("--m2m", is_flag=True, help="Predict each mask once more, with itself as a prompt.")
@click.option(
    "--format",
    "formats",
    type=FormatsType(FORMATS),
    metavar=",".join(FORMATS),
    default=FORMATS,
    show_default=",".join(FORMATS),
    help="What to write, separated by commas.",
)
@click.option("--progress", is_flag=True, help="A bar on stderr also where that is no terminal.")
@runner_options
@resume_option
@out_option("out")
def masks(
    images: Sequence[Path],
    model: str | None,
    checkpoint: Path | None,
    device: str,
    dtype: str,
    cluster: Cluster,
    resume: bool,
    points_per_side: int,
    points_per_batch: int,
    pred_iou_thresh: float | None,
    stability_thresh: float | None,
    nms_thresh: float,
    crops: int,
    crop_overlap: float,
    crop_nms_thresh: float,
    crop_points_downscale: int,
    min_area: int,
    m2m: bool,
    formats: tuple[str, ...],
    progress: bool,
    out: Path,
) -> None:
    """Find the masks of everything in each IMAGE, a picture or a folder of pictures.

    \b
    Writes to the output folder
      masks.json        all masks in COCO's format, with run lengths and scores
      STEM_masks.png    ids from 1, the largest mask's, up; 16 bits if there are more than 255
      STEM_overlay.png  the same in colour on the picture

    Where masks overlap, the pictures show the smallest; masks.json has each of them whole, its id as "layer". An image
    that cannot be done is reported, and the others go on; then the exit code is 1.
    """
    if points_per_side < crop_points_downscale**crops:
        raise click.UsageError(
            f"--crop-points-downscale {crop_points_downscale} leaves layer {crops} of the crops without points: "
            f"--points-per-side is {points_per_side}"
        )
    if resume and "json" not in formats:
        raise click.UsageError(f"--resume goes on with {RESULTS}; add json to --format")
    pictures = list_images(images, out)
    check_files(pictures, None, out, partial(mask_files, formats=formats))
    choice = choose_model(model, checkpoint)
    make_folder(out)
    files = (file for image in pictures for file in mask_files(out, image.stem, formats).values())
    remove_leftovers([out / RESULTS, *files], bool(cluster))
    least_iou, least_stability = THRESHOLDS_OF_NANO if choice.config == nano.CONFIG else THRESHOLDS
    options = {
        "points_per_side": points_per_side,
        "points_per_batch": points_per_batch,
        "pred_iou_thresh": least_iou if pred_iou_thresh is None else pred_iou_thresh,
        "stability_score_thresh": least_stability if stability_thresh is None else stability_thresh,
        "box_nms_thresh": nms_thresh,
        "crop_n_layers": crops,
        "crop_nms_thresh": crop_nms_thresh,
        "crop_overlap_ratio": crop_overlap,
        "crop_n_points_downscale_factor": crop_points_downscale,
        "min_mask_region_area": min_area,
        "use_m2m": m2m,
    }

    from sam2fast.cli.mask_finder import Finder, MaskFinder
    from sam2fast.cli.mask_resume import masks_before
    from sam2fast.cli.mask_run import MaskRun
    from sam2fast.cli.mask_spread import MaskFinders
    from sam2fast.cli.results import print_table
    from sam2fast.cli.segmenter import Segmenter

    before = {}
    if resume:
        before = masks_before(
            out / RESULTS, choice, dtype, options, pictures, lambda image: mask_files(out, image.stem, formats)
        )
    left = [image for image in pictures if str(image) not in before]
    if resume:
        click.echo(f"sam2fast: note: {len(pictures) - len(left)} of {len(pictures)} images were done before", err=True)
    place = chosen_place(cluster, device, len(left) or len(pictures), "images")
    finder: Finder
    if place.is_here and left:
        finder = MaskFinder(Segmenter(choice, place.name, dtype), options, formats, out)
    else:
        finder = MaskFinders(choice, place.runner, place.name, dtype, options, formats, out)
    run = MaskRun(finder, options, formats, out, progress)
    run.find(pictures, before)
    if run.rows:
        print_table([("image", "masks", "best", "size"), *run.rows], finder.seconds, out)
    if run.failures:
        raise UserError(f"{run.failures} of {len(pictures)} images failed")
