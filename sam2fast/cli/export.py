"""``sam2fast export``: a model's encoder and decoder as programs that run without building the model."""

import time
from pathlib import Path

import click

from sam2fast.cli.errors import one_line
from sam2fast.cli.files import check_folder as check_place
from sam2fast.cli.model_choice import choose_model
from sam2fast.cli.options import model_options, out_option


@click.command()
@model_options
@click.option(
    "--aot",
    is_flag=True,
    help="Compile them to native code for this machine, this device and this version of torch, for the shortest start. "
    "Takes minutes and a C++ compiler.",
)
@click.option(
    "--prompts", type=click.IntRange(1), default=1, show_default=True, help="That the decoder answers in one call."
)
@click.option(
    "--points", type=click.IntRange(1), default=8, show_default=True, help="Of a prompt, at most; a box is two."
)
@out_option("exported")
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

    Writes encoder.pt2, decoder.pt2 and artifact.json, which says what they were made for, to the output folder, which
    must be new or empty. sam2fast.deploy.exported.load_predictor(DIR) is a predictor on top of them; torch.export.load,
    or with --aot torch._inductor.aoti_load_package, reads each file also without sam2fast. They are programs: load only
    those that you exported yourself.
    """
    choice = choose_model(model, checkpoint)
    check_place(out, "output folder")

    import torch

    from sam2fast.build_sam import build_sam2
    from sam2fast.deploy.exported.artifact import DECODER, ENCODER, FACTS, check_folder, write_artifact

    start = time.perf_counter()
    with one_line(OSError, ValueError, RuntimeError, ImportError):
        check_folder(out)
        built = build_sam2(choice.config, choice.checkpoint, device=device, dtype=getattr(torch, dtype))
        facts = write_artifact(built, out, choice.config, aot, prompts, points)
    for name in (ENCODER, DECODER):
        click.echo(f"{name}  {facts.sizes[name] / 1e6:8.1f} MB")
    click.echo(FACTS)
    click.echo(f"time: {time.perf_counter() - start:.1f} s")
    click.echo(f"written to {click.format_filename(out)}")
