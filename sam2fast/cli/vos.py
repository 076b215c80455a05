"""``sam2fast vos``: the videos of a data set, from their first masks."""

import os
from pathlib import Path
from typing import TypeVar

import click

from sam2fast.cli.model_choice import choose_model
from sam2fast.cli.options import model_options
from sam2fast.cli.runner_options import Cluster, runner_options
from sam2fast.cli.signals import exit_code, tell
from sam2fast.evaluation.vos.job import VosSettings

T = TypeVar("T")
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
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
    help="VIDEO/FRAME.png, palette pictures of object ids; with --per-object VIDEO/OBJECT/FRAME.png.",
)
@click.option(
    "--out",
    "--output_mask_dir",
    "out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="For the results, in the same layout as --masks.",
)
@click.option(
    "--list",
    "--video_list_file",
    "list_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Names of the videos to do, one on each line; by default all in --videos.",
)
@click.option(
    "--score-thresh",
    "--score_thresh",
    type=float,
    default=0.0,
    show_default=True,
    help="A pixel is an object's if its logit is greater.",
)
@click.option(
    "--all-masks", "--use_all_masks", is_flag=True, help="Every mask there is, is a prompt, not only the first frame's."
)
@click.option(
    "--per-object",
    "--per_obj_png_file",
    is_flag=True,
    help="Masks in and out are a picture for each object, as in SA-V; they may overlap.",
)
@click.option(
    "--late-objects",
    "--track_object_appearing_later_in_video",
    is_flag=True,
    help="Each object is tracked from its first mask, whatever its frame, as LVOS and YouTube-VOS need it.",
)
@click.option("--postprocessing", "--apply_postprocessing", is_flag=True, help="Fill holes and so on, as `track` does.")
@click.option(
    "--use_vos_optimized_video_predictor",
    "vos_optimized",
    is_flag=True,
    help="The original's compiled predictor; here tracking is fast without it.",
)
@model_options
@runner_options
@click.option("--sam2_cfg", "config", metavar="NAME", help="The original's name of --model.")
@click.option(
    "--sam2_checkpoint",
    "weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The original's name of --checkpoint.",
)
@click.option(
    "--at-once",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Videos at a time on each device: while one is decoded and written, another is tracked. Each needs memory for "
    "a model of its own.",
)
@click.option("--overwrite", is_flag=True, help="Replace videos that were made otherwise, or by something else.")
@click.option("--progress", is_flag=True, help="A bar on stderr also where that is no terminal.")
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
    postprocessing: bool,
    vos_optimized: bool,
    model: str | None,
    checkpoint: Path | None,
    device: str,
    dtype: str,
    cluster: Cluster,
    config: str | None,
    weights: Path | None,
    at_once: int,
    overwrite: bool,
    progress: bool,
) -> None:
    """Track the objects of a data set's videos, from given masks to a PNG for every frame.

    What the original's tools/vos_inference.py does, with its options and its files, so that its tables can be computed
    from them: DAVIS, MOSE, LVOS, YouTube-VOS, SA-V.

    \b
    Writes to the output folder
      VIDEO/FRAME.png         a palette picture of object ids, of the video's size
      VIDEO/OBJECT/FRAME.png  with --per-object: 0 and 1, OBJECT as three digits

    A video's folder appears when it is complete. The same command again, after Ctrl-C or anything else, does what is
    missing. Videos that cannot be done are named at the end.
    """
    if os.path.realpath(out) in map(os.path.realpath, (videos, masks)):
        raise click.UsageError(f"the results would lie among the inputs in {out}; choose another --out folder")
    if cluster and at_once > 1:
        raise click.UsageError("--at-once is for devices of this machine; with --ray give --workers")
    try:
        settings = VosSettings(score_thresh, all_masks, per_object, late_objects)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    choice = choose_model(
        _either(model, config, "--model", "--sam2_cfg"),
        _either(checkpoint, weights, "--checkpoint", "--sam2_checkpoint"),
    )

    try:
        from sam2fast.cli.vos_run import Model, Request, run

        run(
            Request(videos, masks, out, list_file, settings, overwrite, progress),
            Model(choice, dtype, postprocessing, vos_optimized),
            device,
            at_once,
            cluster,
        )
    except KeyboardInterrupt as stop:
        tell("interrupted; the same command again goes on")
        ctx.exit(exit_code(stop))


def _either(ours: T | None, theirs: T | None, name: str, original: str) -> T | None:
    """What was given by one of two names."""
    if ours is not None and theirs is not None:
        raise click.UsageError(f"{name} and {original} are the same; give one of them")
    return theirs if ours is None else ours
