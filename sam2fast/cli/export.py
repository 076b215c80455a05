"""``sam2fast export``: a model's encoder and decoder as torch.export programs."""

import time
from pathlib import Path

import click

from sam2fast.cli.command_files import check_folder as check_place
from sam2fast.cli.model_choice import choose_model
from sam2fast.cli.options import model_options, out_option
from sam2fast.cli.reporting import emit, output_options, say
from sam2fast.cli.user_errors import as_user_error


@click.command()
@model_options
@click.option(
    "--aot",
    is_flag=True,
    help="Compile to native code for this machine, device and version of torch, for the fastest start. "
    "Takes minutes and needs a C++ compiler.",
)
@click.option("--prompts", type=click.IntRange(1), default=1, help="Number of prompts in one call of the decoder.")
@click.option(
    "--points", type=click.IntRange(1), default=8, help="Maximum number of points of a prompt; a box counts as two."
)
@out_option("exported")
@output_options()
def export(
    model: str | None,
    checkpoint: Path | None,
    device: str,
    dtype: str,
    aot: bool,
    prompts: int,
    points: int,
    out: Path,
) -> None:
    """Export a model for images.

    Writes encoder.pt2, decoder.pt2 and their metadata, artifact.json, to the output folder, which must be new or empty.
    sam2fast.deploy.exported.load_predictor(DIR) makes a predictor of them. Without sam2fast they are read by
    torch.export.load, or with --aot by torch._inductor.aoti_load_package. They are programs: load only those that you
    exported yourself.
    """
    choice = choose_model(model, checkpoint)
    check_place(out, "output folder")

    import torch

    from sam2fast.build_sam import build_sam2
    from sam2fast.deploy.exported.artifact import DECODER, ENCODER, METADATA, check_folder, write_artifact

    start = time.perf_counter()
    with as_user_error(OSError, ValueError, RuntimeError, ImportError):
        check_folder(out)
        built = build_sam2(choice.config, choice.checkpoint, device=device, dtype=getattr(torch, dtype))
        facts = write_artifact(built, out, choice.config, aot, prompts, points)
    for name in (ENCODER, DECODER):
        say(f"{name}  {facts.sizes[name] / 1e6:8.1f} MB")
    seconds = time.perf_counter() - start
    say(METADATA)
    say(f"time: {seconds:.1f} s")
    say(f"written to {click.format_filename(out)}")
    emit({"out": str(out), "bytes": dict(facts.sizes), "seconds": round(seconds, 3), "model": choice.as_json()})
