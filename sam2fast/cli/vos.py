"""``sam2fast vos``: tracks the objects of a data set's videos from their first masks."""

import os
from functools import partial
from pathlib import Path
from typing import TypeVar

import click

from sam2fast.cli.options import PATH, GroupedCommand, ModelOptions, ignore_label_option, model_options, strategy_option
from sam2fast.cli.reporting import output_options
from sam2fast.cli.runner_options import RayOptions, runner_options
from sam2fast.cli.terminal import report_interrupt
from sam2fast.evaluation.vos.inference import VosSettings

T = TypeVar("T")
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(cls=GroupedCommand)
@click.option(
    "--videos",
    "--base_video_dir",
    "videos",
    required=True,
    type=FOLDER,
    metavar="DIR",
    help="A folder of JPEG frames for each video; a video file VIDEO.mp4 counts as one whose frames are 00000, 00001, "
    "...",
)
@click.option(
    "--masks",
    "--input_mask_dir",
    "masks",
    required=True,
    type=FOLDER,
    metavar="DIR",
    help="VIDEO/FRAME.png, palette images of object ids; with --per-object VIDEO/OBJECT/FRAME.png.",
)
@click.option(
    "--out",
    "--output_mask_dir",
    "out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Output folder; same layout as --masks.",
)
@click.option(
    "--list",
    "--video_list_file",
    "list_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Names of videos, one per line.  [default: all in --videos]",
)
@click.option(
    "--score-thresh",
    "--score_thresh",
    type=float,
    default=0.0,
    help="A pixel belongs to an object if its logit is greater.",
)
@click.option(
    "--all-masks", "--use_all_masks", is_flag=True, help="Use all masks as prompts, not only those of the first frame."
)
@click.option(
    "--per-object",
    "--per_obj_png_file",
    is_flag=True,
    help="Read and write one image per object, as in SA-V; masks may overlap.",
)
@click.option(
    "--late-objects",
    "--track_object_appearing_later_in_video",
    is_flag=True,
    help="Track each object from its first mask, whatever its frame; for LVOS and YouTube-VOS.",
)
@ignore_label_option("Values of masks that are no objects; 255 for the void pixels of DAVIS and VOST.")
@click.option(
    "--postprocessing",
    "--apply_postprocessing",
    is_flag=True,
    help="Postprocess masks (fill holes etc.), as `track` does.",
)
@click.option(
    "--use_vos_optimized_video_predictor",
    "vos_optimized",
    is_flag=True,
    help="The original's compiled predictor; not needed for speed here.",
)
@partial(model_options, many_devices=True)
@strategy_option
@runner_options
@click.option("--sam2_cfg", "config", metavar="NAME", help="The original name of --model.")
@click.option("--sam2_checkpoint", "weights", type=PATH, metavar="FILE", help="The original name of --checkpoint.")
@click.option(
    "--at-once",
    type=click.IntRange(1),
    default=1,
    help="Videos at a time on each device: one is tracked while others are decoded and written. Each has its own "
    "copy of the model.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace videos that were made with other options or by other programs."
)
@output_options(has_bar=True)
@click.pass_context
def vos(
    ctx: click.Context,
    videos: Path,
    masks: Path,
    out: Path,
    list_file: Path | None,
    score_thresh: float,
    all_masks: bool,
    per_object: bool,
    late_objects: bool,
    ignored_labels: tuple[int, ...],
    postprocessing: bool,
    vos_optimized: bool,
    model: ModelOptions,
    strategy: str,
    ray_options: RayOptions,
    config: str | None,
    weights: Path | None,
    at_once: int,
    overwrite: bool,
) -> None:
    """Track the objects of a data set's videos from given masks, and write a PNG for every frame.

    Compatible with the original's tools/vos_inference.py in options and files: DAVIS, MOSE, LVOS, YouTube-VOS, SA-V.

    \b
    Writes to the output folder
      VIDEO/FRAME.png         a palette image of object ids, of the video's size
      VIDEO/OBJECT/FRAME.png  with --per-object: 0 and 1, OBJECT as three digits

    A video's folder appears when it is complete. The same command again continues an interrupted run. Videos that fail
    are listed at the end. So are inputs that are left out: objects that appear after the first frame, unless
    --late-objects is given, masks without a frame or without a video, and objects that no mask shows.
    """
    inputs = [Path(os.path.realpath(folder)) for folder in (videos, masks)]
    real = Path(os.path.realpath(out))
    if real in inputs or list_file is None and any(folder in real.parents for folder in inputs):
        raise click.UsageError(f"the results would lie among the inputs in {out}; choose another --out folder")
    if ray_options and at_once > 1:
        raise click.UsageError("--at-once is for devices of this machine; with --ray use --workers")
    try:
        settings = VosSettings(score_thresh, all_masks, per_object, late_objects, ignored_labels)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    name = _one_of(model.name, config, "--model", "--sam2_cfg")
    checkpoint = _one_of(model.checkpoint, weights, "--checkpoint", "--sam2_checkpoint")
    choice = model._replace(name=name, checkpoint=checkpoint).choose()

    with report_interrupt(ctx):
        from sam2fast.cli.vos_run import VosModel, VosRequest, run

        run(
            VosRequest(videos, masks, out, list_file, settings, overwrite),
            VosModel(choice, model.dtype, postprocessing, vos_optimized, strategy),
            model.device,
            at_once,
            ray_options,
        )


def _one_of(ours: T | None, theirs: T | None, name: str, original: str) -> T | None:
    """Returns the value of an option with two names."""
    if ours is not None and theirs is not None:
        raise click.UsageError(f"{name} and {original} are the same; give one of them")
    return theirs if ours is None else ours
