"""``sam2fast export``: a model as torch.export programs, as ONNX graphs with a tracker, or as a page that runs it."""

import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from sam2fast.cli.command_files import check_folder as check_place
from sam2fast.cli.command_files import check_same, note_kept
from sam2fast.cli.model_choice import ModelChoice, note_licence
from sam2fast.cli.options import DTYPES, ModelOptions, model_options, out_option
from sam2fast.cli.reporting import emit, output_options, say
from sam2fast.cli.user_errors import UserError, as_user_error, print_note

FAILURES = (OSError, ValueError, RuntimeError, ImportError)
# Files with the record, by format; see sam2fast.deploy.exported.artifact.record_of.
RECORDS = {"torch": "artifact.json", "onnx": "model.json", "web": "in_browser/settings.json"}
IN_BROWSER_MODEL = "nano"  # others are large, and slow without a GPU


@click.command()
@partial(model_options, dtypes=(*DTYPES, "int8"))
@click.option(
    "--format",
    "target",
    type=click.Choice(["torch", "onnx", "web"]),
    default="torch",
    help="torch: programs for images. onnx: graphs for images and video, with a tracker that needs neither torch nor "
    "sam2fast; pip install 'sam2fast[onnx]'. web: the web demo as files for any file server, with a model (by default "
    "nano) that runs in the browser; needs also npm and pip install 'sam2fast[video]'.",
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
@output_options()
@click.pass_context
def export(
    ctx: click.Context,
    model: ModelOptions,
    target: str,
    aot: bool,
    prompts: int,
    points: int,
    out: Path,
) -> None:
    """Export a model for other programs.

    The output folder must be new or empty, or is kept if it has the same export. --format torch writes encoder.pt2,
    decoder.pt2 and their metadata, artifact.json, for images: sam2fast.deploy.exported.load_predictor(DIR) makes a
    predictor of them. Without sam2fast they are read by torch.export.load, or with --aot by
    torch._inductor.aoti_load_package. They are programs: load only your own exports.

    --format onnx writes encoder.onnx, decoder.onnx, memory_attention.onnx, memory_encoder.onnx, model.json and
    tracker.py, which runs them with numpy, Pillow and onnxruntime alone.

    --format web writes index.html with all that the page needs: click, track and download without a server.
    """
    device, dtype = model.device, model.dtype
    _check_options(ctx, target, device, dtype)
    if target == "web":
        model = model.with_default(IN_BROWSER_MODEL)
    choice = model.choose()
    check_place(out, "output folder")
    name = model.name or Path(choice.config).stem
    start = time.perf_counter()
    with as_user_error(*FAILURES):
        options = {"dtype": dtype, "aot": aot, "prompts": prompts, "points": points}
        made_from = _made_from(choice, target, device, name, options)
        kept = _find_same(out, made_from)
        if kept is not None:
            sizes = kept
        elif target == "web":
            sizes = _write_web(choice, name, out, dtype, made_from)
        elif target == "onnx":
            sizes = _write_onnx(choice, out, dtype, made_from)
        else:
            sizes = _write_programs(choice, out, device, dtype, aot, prompts, points, made_from)
    for name, size in sizes.items():
        say(name if size is None else f"{name}  {size / 1e6:8.1f} MB")
    seconds = time.perf_counter() - start
    say(f"time: {seconds:.1f} s")
    if kept is not None:
        note_kept(out)
    else:
        say(f"written to {click.format_filename(out)}")
    note_licence(choice.config, out)
    written = {name: size for name, size in sizes.items() if size is not None}
    emit({"out": str(out), "bytes": written, "seconds": round(seconds, 3), "model": choice.as_json()})


def _check_options(ctx: click.Context, target: str, device: str, dtype: str) -> None:
    """Checks that the options fit the format."""
    if target == "torch":
        if dtype == "int8":
            raise click.UsageError("--dtype int8 is for --format onnx and web")
        return
    for name in ("aot", "prompts", "points"):
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name} is for --format torch; ONNX graphs take any number of prompts and points")
    if device not in ("auto", "cpu"):
        raise click.UsageError(f"--device {device} is for --format torch; who runs ONNX graphs chooses their provider")
    if dtype == "bfloat16":
        raise click.UsageError("--dtype bfloat16 is for --format torch; for ONNX choose float32, float16 or int8")


def _made_from(choice: ModelChoice, target: str, device: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the record of the export; see :mod:`sam2fast.io.made_from`."""
    import torch

    from sam2fast.deploy.exported.artifact import processor
    from sam2fast.utils.devices import available_device

    runs_on = available_device(device if target == "torch" else "cpu")
    shown = name if target == "web" else None  # on the page
    record = choice.made_from(format=target, model=shown, device=runs_on.type, **options)
    # Native code needs the same processor and version of torch.
    return {**record, "torch": torch.__version__, "processor": processor(runs_on) if options["aot"] else None}


def _find_same(out: Path, made_from: Mapping[str, Any]) -> dict[str, int | None] | None:
    """Returns names and sizes of an equal export, or None if there is none. Others and incomplete ones are an error."""
    from sam2fast.deploy.exported.artifact import size_of

    record = next((file for name in RECORDS.values() if (file := out / name).is_file()), None)
    if record is None:
        return None
    try:
        content = json.loads(record.read_bytes())
        before, sizes = content["made_from"], dict(content["bytes"])
    except (ValueError, TypeError, KeyError):
        before, sizes = None, {}  # version 0.2, or damaged
    check_same(out, before, made_from, f", see {record}; choose another folder")
    for name, size in sizes.items():
        if not (out / name).is_file() or size_of(out / name) != size:
            raise UserError(f"{out / name} is missing or incomplete; remove {out} to export the model again")
    return {name: size_of(out / name) for name in sorted({Path(name).parts[0] for name in sizes})}


def _write_programs(
    choice: ModelChoice,
    out: Path,
    device: str,
    dtype: str,
    aot: bool,
    prompts: int,
    points: int,
    made_from: Mapping[str, Any],
) -> dict[str, int | None]:
    """The names of the files, with their sizes in bytes."""
    import torch

    from sam2fast.build_sam import build_sam2
    from sam2fast.deploy.exported.artifact import DECODER, ENCODER, METADATA, check_folder, write_artifact

    check_folder(out)
    precision = getattr(torch, dtype)
    built = build_sam2(choice.config, choice.checkpoint, device, image_size=choice.image_size, dtype=precision)
    facts = write_artifact(built, out, choice.config, aot, prompts, points, made_from=made_from)
    return {ENCODER: facts.sizes[ENCODER], DECODER: facts.sizes[DECODER], METADATA: None}


def _write_onnx(choice: ModelChoice, out: Path, dtype: str, made_from: Mapping[str, Any]) -> dict[str, int | None]:
    """The names of the files, with their sizes in bytes."""
    from sam2fast.build_sam import build_sam2_video_predictor
    from sam2fast.deploy.exported.artifact import check_folder
    from sam2fast.deploy.onnx.export import write_onnx
    from sam2fast.deploy.onnx.runtime.manifest import MANIFEST

    check_folder(out)
    built = build_sam2_video_predictor(choice.config, choice.checkpoint, "cpu", image_size=choice.image_size)
    manifest = write_onnx(built, out, choice.config, dtype, lambda text: print_note(f"{text} ..."), made_from)
    return {**{name: file["size"] for name, file in manifest.files.items()}, MANIFEST: None}


def _write_web(
    choice: ModelChoice, name: str, out: Path, dtype: str, made_from: Mapping[str, Any]
) -> dict[str, int | None]:
    """The names of files and folders, with their sizes in bytes."""
    from sam2fast.build_sam import build_sam2_video_predictor
    from sam2fast.cli.serve import KEEP_CORRECTIONS
    from sam2fast.demo.in_browser.page import write_page

    built = build_sam2_video_predictor(
        choice.config,
        choice.checkpoint,
        "cpu",
        hydra_overrides_extra=[KEEP_CORRECTIONS],
        image_size=choice.image_size,
    )
    sizes = write_page(built, out, name, choice.config, dtype, lambda text: print_note(f"{text} ..."), made_from)
    return dict(sizes)
