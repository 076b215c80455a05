"""``sam2fast export``: a model as torch.export programs for images, or as ONNX graphs with a tracker for video."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from sam2fast.cli.command_files import check_folder as check_place
from sam2fast.cli.model_choice import ModelChoice, choose_model
from sam2fast.cli.options import DTYPES, model_options, out_option
from sam2fast.cli.user_errors import as_user_error

FAILURES = (OSError, ValueError, RuntimeError, ImportError)


@click.command()
@partial(model_options, dtypes=(*DTYPES, "int8"))
@click.option(
    "--format",
    "target",
    type=click.Choice(["torch", "onnx"]),
    default="torch",
    help="torch: programs for images. onnx: graphs for images and video, with a tracker that needs neither torch nor "
    "sam2fast; pip install 'sam2fast[onnx]'.",
)
@click.option(
    "--image-size",
    type=click.IntRange(1),
    metavar="S",
    help="Side of the model's input in pixels, a multiple of 32; by default the model's.",
)
@click.option(
    "--aot",
    is_flag=True,
    help="Compile to native code for this machine, device and version of torch, for the fastest start. "
    "Takes minutes and needs a C++ compiler. With --format torch.",
)
@click.option(
    "--prompts",
    type=click.IntRange(1),
    default=1,
    help="Number of prompts in one call of the decoder. With --format torch.",
)
@click.option(
    "--points",
    type=click.IntRange(1),
    default=8,
    help="Maximum number of points of a prompt; a box counts as two. With --format torch.",
)
@out_option("exported")
@click.pass_context
def export(
    ctx: click.Context,
    model: str | None,
    checkpoint: Path | None,
    device: str,
    dtype: str,
    target: str,
    image_size: int | None,
    aot: bool,
    prompts: int,
    points: int,
    out: Path,
) -> None:
    """Export a model for other programs.

    The output folder must be new or empty. --format torch writes encoder.pt2, decoder.pt2 and their metadata,
    artifact.json, for images: sam2fast.deploy.exported.load_predictor(DIR) makes a predictor of them. Without sam2fast
    they are read by torch.export.load, or with --aot by torch._inductor.aoti_load_package. They are programs: load only
    those that you exported yourself.

    --format onnx writes encoder.onnx, decoder.onnx, memory_attention.onnx, memory_encoder.onnx, model.json and
    tracker.py, which runs them with numpy, Pillow and onnxruntime alone.
    """
    _check_options(ctx, target, device, dtype)
    choice = choose_model(model, checkpoint)
    check_place(out, "output folder")
    start = time.perf_counter()
    sizing = [] if image_size is None else [f"++model.image_size={image_size}"]
    with as_user_error(*FAILURES):
        if target == "onnx":
            sizes = _write_onnx(choice, out, dtype, sizing)
        else:
            sizes = _write_programs(choice, out, device, dtype, sizing, aot, prompts, points)
    for name, size in sizes.items():
        click.echo(name if size is None else f"{name}  {size / 1e6:8.1f} MB")
    click.echo(f"time: {time.perf_counter() - start:.1f} s")
    click.echo(f"written to {click.format_filename(out)}")


def _check_options(ctx: click.Context, target: str, device: str, dtype: str) -> None:
    """
    Raises:
        click.UsageError: options that do not fit the format.
    """
    if target == "torch":
        if dtype == "int8":
            raise click.UsageError("--dtype int8 is for --format onnx")
        return
    for name in ("aot", "prompts", "points"):
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name} is for --format torch; ONNX graphs take any number of prompts and points")
    if device not in ("auto", "cpu"):
        raise click.UsageError(f"--device {device} is for --format torch; who runs ONNX graphs chooses their provider")
    if dtype == "bfloat16":
        raise click.UsageError("--dtype bfloat16 is for --format torch; for ONNX choose float32, float16 or int8")


def _write_programs(
    choice: ModelChoice,
    out: Path,
    device: str,
    dtype: str,
    sizing: Sequence[str],
    aot: bool,
    prompts: int,
    points: int,
) -> dict[str, int | None]:
    """The names of the files, with their sizes in bytes."""
    import torch

    from sam2fast.build_sam import build_sam2
    from sam2fast.deploy.exported.artifact import DECODER, ENCODER, METADATA, check_folder, write_artifact

    check_folder(out)
    precision = getattr(torch, dtype)
    built = build_sam2(choice.config, choice.checkpoint, device, hydra_overrides_extra=sizing, dtype=precision)
    facts = write_artifact(built, out, choice.config, aot, prompts, points)
    return {ENCODER: facts.sizes[ENCODER], DECODER: facts.sizes[DECODER], METADATA: None}


def _write_onnx(choice: ModelChoice, out: Path, dtype: str, sizing: Sequence[str]) -> dict[str, int | None]:
    """The names of the files, with their sizes in bytes."""
    from sam2fast.build_sam import build_sam2_video_predictor
    from sam2fast.deploy.exported.artifact import check_folder
    from sam2fast.deploy.onnx.export import write_onnx
    from sam2fast.deploy.onnx.runtime.manifest import MANIFEST

    check_folder(out)
    built = build_sam2_video_predictor(choice.config, choice.checkpoint, "cpu", hydra_overrides_extra=sizing)
    manifest = write_onnx(built, out, choice.config, dtype, lambda text: click.echo(f"{text} ...", err=True))
    return {**{name: file["size"] for name, file in manifest.files.items()}, MANIFEST: None}
