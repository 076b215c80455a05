"""``sam2fast export``: exports a model as torch.export programs, as ONNX graphs with a tracker, or as a web page."""

import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from sam2fast.cli.command import command, option, shared
from sam2fast.cli.command_files import check_folder as check_place
from sam2fast.cli.command_files import check_same, note_kept
from sam2fast.cli.model_choice import ModelChoice, note_licence
from sam2fast.cli.options import DTYPES, ModelOptions, model_options, out_option
from sam2fast.cli.reporting import emit, output_options, say
from sam2fast.cli.user_errors import UserError, as_user_error, print_note

FAILURES = (OSError, ValueError, RuntimeError, ImportError)
# Files with the record of an export, by format; see sam2fast.deploy.exported.artifact.record_of.
RECORDS = {"torch": "artifact.json", "onnx": "model.json", "web": "in_browser/settings.json"}
MANIFESTS = ("model.json", "in_browser/model/model.json")  # of the formats onnx and web
IN_BROWSER_MODEL = "nano"  # for --format web; other models are large, and slow without a GPU


class ExportCommand:
    """Export a model for other programs.

    The output folder must be new or empty. A folder with the same export is kept. --format torch writes encoder.pt2,
    decoder.pt2 and artifact.json (metadata) for images. sam2fast.deploy.exported.load_predictor(DIR) loads a
    predictor from this folder. Without sam2fast, torch.export.load reads the .pt2 files, or with --aot
    torch._inductor.aoti_load_package. Exports are programs, so load only your own exports.

    --format onnx writes encoder.onnx, decoder.onnx, memory_attention.onnx, memory_encoder.onnx, model.json and
    tracker.py. The tracker runs the graphs with only numpy, Pillow and onnxruntime.

    --format web writes index.html and all other files of a web page. On the page, users click on objects, track them
    and download masks, without a server.
    """

    model: ModelOptions = shared(partial(model_options, dtypes=(*DTYPES, "int8")))
    target: str = option(
        "--format",
        type=click.Choice(["torch", "onnx", "web"]),
        default="torch",
        help="torch: programs for images. onnx: graphs for images and video, with a tracker that needs neither torch "
        "nor sam2fast; pip install 'sam2fast[onnx]'. web: the web demo as files for any file server, with a model (by "
        "default nano) that runs in the browser; web also needs npm and pip install 'sam2fast[video]'.",
    )
    aot: bool = option(
        help="Compile to native code for this machine, device and version of torch, for the fastest start. "
        "Takes minutes and needs a C++ compiler. With --format torch."
    )
    prompts: int = option(
        type=click.IntRange(1), default=1, help="Number of prompts in one call of the decoder. With --format torch."
    )
    points: int = option(
        type=click.IntRange(1),
        default=8,
        help="Maximum number of points of a prompt; a box counts as two. With --format torch.",
    )
    out: Path = shared(out_option("exported"))

    def run(self) -> None:
        self._check()
        model = self.model.with_default(IN_BROWSER_MODEL) if self.target == "web" else self.model
        choice = model.choose()
        check_place(self.out, "output folder")
        name = model.name or Path(choice.config).stem
        start = time.perf_counter()
        with as_user_error(*FAILURES):
            made_from = self._made_from(choice, name)
            kept = _find_same(self.out, made_from)
            sizes = self._write(choice, name, made_from) if kept is None else kept
        for name, size in sizes.items():
            say(name if size is None else f"{name}  {size / 1e6:8.1f} MB")
        ious = _agreement(self.out)
        if ious is not None:
            say(
                f"{ious['masks']} masks of {self.model.dtype} and float32: mean IoU {ious['mean']:.3f}, worst "
                f"{ious['worst']:.3f}"
            )
        seconds = time.perf_counter() - start
        say(f"time: {seconds:.1f} s")
        if kept is not None:
            note_kept(self.out)
        else:
            say(f"written to {click.format_filename(self.out)}")
        note_licence(choice.config, self.out)
        written = {name: size for name, size in sizes.items() if size is not None}
        result = {"out": str(self.out), "bytes": written, "seconds": round(seconds, 3)}
        emit({**result, "model": choice.as_json(), "iou": ious})

    def _check(self) -> None:
        """Checks that the options fit the format."""
        device, dtype, ctx = self.model.device, self.model.dtype, click.get_current_context()
        if self.target == "torch":
            if dtype == "int8":
                raise click.UsageError("--dtype int8 is for --format onnx and web")
            return
        for name in ("aot", "prompts", "points"):
            if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
                why = "ONNX graphs take any number of prompts and points"
                raise click.UsageError(f"--{name} is for --format torch; {why}")
        if device not in ("auto", "cpu"):
            raise click.UsageError(
                f"--device {device} is for --format torch; the program that runs ONNX graphs chooses their provider"
            )
        if dtype == "bfloat16":
            raise click.UsageError("--dtype bfloat16 is for --format torch; for ONNX choose float32, float16 or int8")

    def _made_from(self, choice: ModelChoice, name: str) -> dict[str, Any]:
        """Returns the record of the export; see :mod:`sam2fast.io.made_from`."""
        import torch

        from sam2fast.deploy.exported.artifact import processor
        from sam2fast.utils.devices import available_device

        runs_on = available_device(self.model.device if self.target == "torch" else "cpu")
        shown = name if self.target == "web" else None  # the page shows this name
        options = {"dtype": self.model.dtype, "aot": self.aot, "prompts": self.prompts, "points": self.points}
        record = choice.made_from(format=self.target, model=shown, device=runs_on.type, **options)
        # Native code needs the same processor and version of torch.
        return {**record, "torch": torch.__version__, "processor": processor(runs_on) if self.aot else None}

    def _write(self, choice: ModelChoice, name: str, made_from: Mapping[str, Any]) -> dict[str, int | None]:
        """Writes the export. Returns the names of files and folders with their sizes in bytes, None for metadata."""
        import torch

        from sam2fast.build_sam import build_sam2, build_sam2_video_predictor
        from sam2fast.deploy.exported.artifact import DECODER, ENCODER, METADATA, check_folder, write_artifact

        out, dtype, model = self.out, self.model.dtype, (choice.config, choice.checkpoint)
        if self.target == "torch":
            check_folder(out)
            options: dict[str, Any] = {"image_size": choice.image_size, "dtype": getattr(torch, dtype)}
            images = build_sam2(*model, self.model.device, **options)
            limits = self.aot, self.prompts, self.points
            facts = write_artifact(images, out, choice.config, *limits, made_from=made_from)
            return {ENCODER: facts.sizes[ENCODER], DECODER: facts.sizes[DECODER], METADATA: None}
        if self.target == "web":
            from sam2fast.cli.serve import KEEP_CORRECTIONS
            from sam2fast.demo.in_browser.page import write_page

            options = {"hydra_overrides_extra": [KEEP_CORRECTIONS], "image_size": choice.image_size}
            videos = build_sam2_video_predictor(*model, "cpu", **options)
            return dict(write_page(videos, out, name, choice.config, dtype, _note_progress, made_from))

        from sam2fast.deploy.onnx.export import write_onnx
        from sam2fast.deploy.onnx.runtime.manifest import MANIFEST

        check_folder(out)
        videos = build_sam2_video_predictor(*model, "cpu", image_size=choice.image_size)
        manifest = write_onnx(videos, out, choice.config, dtype, _note_progress, made_from)
        return {**{file: content["size"] for file, content in manifest.files.items()}, MANIFEST: None}


export = command(ExportCommand, output_options())


def _note_progress(text: str) -> None:
    print_note(f"{text} ...")


def _agreement(out: Path) -> dict[str, float] | None:
    """Returns the IoU with float32's masks in an export's manifest, or None."""
    manifest = next((file for name in MANIFESTS if (file := out / name).is_file()), None)
    return None if manifest is None else json.loads(manifest.read_bytes()).get("agreement")


def _find_same(out: Path, made_from: Mapping[str, Any]) -> dict[str, int | None] | None:
    """Returns names and sizes of an existing equal export, or None. Raises UserError if there is a different export."""
    from sam2fast.deploy.exported.artifact import size_of

    record = next((file for name in RECORDS.values() if (file := out / name).is_file()), None)
    if record is None:
        return None
    try:
        content = json.loads(record.read_bytes())
        before, sizes = content["made_from"], dict(content["bytes"])
    except (ValueError, TypeError, KeyError):
        before, sizes = None, {}  # an export of version 0.2, or a damaged one
    check_same(out, before, made_from, f", see {record}; choose another folder")
    for name, size in sizes.items():
        if not (out / name).is_file() or size_of(out / name) != size:
            raise UserError(f"{out / name} is missing or incomplete; remove {out} to export the model again")
    return {name: size_of(out / name) for name in sorted({Path(name).parts[0] for name in sizes})}
