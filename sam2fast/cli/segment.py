"""``sam2fast segment``: one object in each picture."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from sam2fast.cli.files import check_files, make_folder, output_files, remove_leftovers
from sam2fast.cli.model_choice import choose_model
from sam2fast.cli.options import model_options, out_option
from sam2fast.cli.prompts import Box, BoxType, Click, ClickType, Prompts
from sam2fast.cli.runner_options import Cluster, resume_option, runner_options


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option(
    "--point", "clicks", multiple=True, type=ClickType(), help="A click; LABEL 0 is not the object. Repeatable."
)
@click.option("--box", "boxes", multiple=True, type=BoxType(), help="A box around the object.")
@click.option(
    "--mask",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A rough mask: a picture of any size, bright where the object is. Without --box its bounds "
    "are the box, since the model hardly heeds a mask alone.",
)
@model_options
@runner_options
@resume_option
@out_option("out")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of the table.")
def segment(
    images: Sequence[Path],
    clicks: Sequence[Click],
    boxes: Sequence[Box],
    mask: Path | None,
    model: str | None,
    checkpoint: Path | None,
    device: str,
    dtype: str,
    cluster: Cluster,
    resume: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Find one object in each IMAGE by points, a box or a mask.

    Coordinates are pixels of the image as it is displayed, and apply to every image. One point alone may mean a part
    or the whole: of three masks the best-scored is taken. Writes STEM_mask.png, STEM_overlay.png and STEM.json to
    the output folder. Stops at the first image that fails.
    """
    if len(boxes) > 1:
        raise click.UsageError("one --box at a time: one object is segmented per run")
    prompts = Prompts(clicks, boxes[0] if boxes else None, mask)
    if not prompts:
        raise click.UsageError("say what to segment, with --point, --box or --mask")
    check_files(images, mask, out)
    choice = choose_model(model, checkpoint)
    make_folder(out)
    files = (file for image in images for file in output_files(out, image.stem).values())
    remove_leftovers(files, bool(cluster))

    from sam2fast.cli.results import print_results
    from sam2fast.cli.segment_run import SegmentRun

    run, spent = SegmentRun(prompts, out), dict[str, float]()
    before = run.done_before(choice, dtype, images) if resume else {}
    left = [image for image in images if image not in before]
    if resume:
        click.echo(f"sam2fast: note: {len(before)} of {len(images)} images were done before", err=True)
    done = dict(before)
    for image, (record, notes) in run.on(cluster, choice, device, dtype, left, spent):
        for note in notes:
            click.echo(f"sam2fast: note: {note}", err=True)
        done[image] = record
    records = {str(image): done[image] for image in images}
    if as_json:
        seconds = {stage: round(value, 4) for stage, value in spent.items()}
        click.echo(json.dumps({"results": list(records.values()), "seconds": seconds}, indent=2))
    else:
        print_results(records, spent, out)
