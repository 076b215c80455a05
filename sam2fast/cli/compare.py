"""``sam2fast compare``: compares models, input sizes, devices and other settings on the same prompts."""

import functools
import itertools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from sam2fast.cli.command import argument, command, option, shared
from sam2fast.cli.command_files import make_folder, write_atomically
from sam2fast.cli.model_choice import ModelChoice, choose_model
from sam2fast.cli.options import (
    AUTO,
    DTYPES,
    ModelOptions,
    checked_strategy,
    choose_dtype,
    model_options,
    out_option,
    strategy_option,
)
from sam2fast.cli.prompt_texts import BOX, POINT, VIDEO_BOX, VIDEO_POINT, PromptType
from sam2fast.cli.prompts import Prompts, check_against_video, merge_prompts, merged
from sam2fast.cli.reporting import emit, output_options, say, say_table
from sam2fast.cli.sources import InputSource
from sam2fast.cli.user_errors import (
    USER_ERRORS,
    ErrorReport,
    UserError,
    as_model_error,
    as_user_error,
    format_error,
    print_note,
)
from sam2fast.io.images import SUFFIXES, numbered_files_hint

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from sam2fast.io.rle import RLE

KEYS = ("model", "checkpoint", "image-size", "device", "dtype", "strategy")
SHEET, TABLE = "compare.png", "compare.json"
SHOWN = 6  # number of video frames on the contact sheet
TILE_WIDTH = 480  # width in pixels
DIGITS = 4


class VariantType(click.ParamType):
    """Type of options that change a run: ``NAME=VALUE,NAME=VALUE``."""

    name = "NAME=VALUE,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str]:
        settings = dict(part.strip().partition("=")[::2] for part in value.split(","))
        for name, setting in settings.items():
            if name not in KEYS or not setting:
                self.fail(f"{value!r} is not {' or '.join(f'{key}=...' for key in KEYS)}", param, ctx)
        if not settings.get("image-size", "1").lstrip("0").isdecimal():
            self.fail(f"the image size {settings['image-size']!r} is not a number of pixels", param, ctx)
        if settings.get("dtype", AUTO) not in (AUTO, *DTYPES):
            self.fail(f"no dtype {settings['dtype']!r}; expected {AUTO} or one of {', '.join(DTYPES)}", param, ctx)
        checked_strategy(ctx, param, settings.get("strategy", "sam2"))
        return settings


class Variant(NamedTuple):
    """A model on its device, with its dtype and strategy."""

    label: str
    choice: ModelChoice
    device: str
    dtype: str
    strategy: str


class ComparedMasks(NamedTuple):
    """The masks of a variant."""

    masks: "dict[tuple[int, str], RLE]"  # masks by frame and object
    seconds: float  # seconds per frame, without loading the model
    problem: str | None = None  # error that explains the missing last frames


class CompareCommand:
    """Segment an image or track a video (SOURCE) by the same prompts with several models or settings.

    The first run uses the command's options. Each --with adds a run that changes some of the options. For each run,
    prints the time per image or frame, and the IoU with the first run's masks (mean over objects and frames).

    \b
    Writes to the output folder
      compare.png   the masks side by side
      compare.json  the table

    Failed runs and videos with unreadable frames are listed at the end, and set the exit code to 1. If the first run or
    every other run fails, nothing is compared.
    """

    source: Path = argument()
    points: Sequence[str] = option(
        "--point", multiple=True, help="As in segment, or for a video as in track. Repeatable."
    )
    boxes: Sequence[str] = option("--box", multiple=True, help="As in segment, or for a video as in track. Repeatable.")
    others: Sequence[Mapping[str, str]] = option(
        "--with",
        multiple=True,
        required=True,
        type=VariantType(),
        help="Settings of another run: model=nano, checkpoint=FILE, image-size=512, device=cpu, "
        "dtype=bfloat16, strategy=samurai, or several settings separated by commas. Repeatable.",
    )
    model: ModelOptions = shared(model_options)
    strategy: str = shared(strategy_option)
    out: Path = shared(out_option("out/compare"))

    def run(self) -> None:
        if (hint := numbered_files_hint(self.source)) and not os.path.exists(self.source):
            raise UserError(f"no file {str(self.source)!r}{hint}")
        is_image = self.source.suffix.lower() in SUFFIXES
        point_type, box_type = (POINT, BOX) if is_image else (VIDEO_POINT, VIDEO_BOX)
        clicks, corners = _parsed(self.points, point_type, "--point"), _parsed(self.boxes, box_type, "--box")
        if not clicks and not corners:
            raise click.UsageError("no prompts; give --point or --box")
        if is_image and len(corners) > 1:
            raise click.UsageError("give one --box: one object is segmented")
        variants = _variants(dict(zip(KEYS, (*self.model, self.strategy), strict=True)), self.others)
        if is_image and any(variant.strategy != "sam2" for variant in variants):
            raise click.UsageError("strategies are for videos, but this is an image")
        models = {(variant.choice.config, variant.choice.checkpoint) for variant in variants}
        if any("model" in other for other in self.others) and len(models) == 1 and variants[0].choice.fallback:
            print_note("all runs use mini, since the default model is unavailable; give --model too")
        make_folder(self.out)
        compute: Callable[[Variant], ComparedMasks]
        if is_image:
            (prompt,) = merged([*clicks, *corners], lambda _: None)
            compute = functools.partial(_segment, self.source, prompt)
        else:
            compute = functools.partial(_track, self.source, merge_prompts([*clicks, *corners], each_shows_object=True))
        count, problems = len(variants), ErrorReport("runs")
        variants, results = _run_all(variants, compute, problems)
        rows: list[dict[str, Any]] = [
            {
                "run": variant.label,
                "iou": round(_mean_iou(results[0].masks, result.masks), DIGITS),
                "seconds": round(result.seconds, DIGITS),
                "model": {**variant.choice.as_json(), "device": variant.device, "dtype": variant.dtype},
            }
            for variant, result in zip(variants, results, strict=True)
        ]
        content = {"source": str(self.source), "runs": rows}
        write_atomically(self.out / TABLE, (json.dumps(content, indent=2) + "\n").encode())
        from sam2fast.cli.results import to_uint8
        from sam2fast.io.png import encode_image
        from sam2fast.transforms import to_pixels

        frames = {0: to_uint8(to_pixels(self.source).numpy())} if is_image else _some_frames(self.source, results)
        write_atomically(
            self.out / SHEET, encode_image(_sheet(frames, [variant.label for variant in variants], results))
        )
        shown = ((row["run"], f"{row['iou']:.3f}", f"{row['seconds']:.3f}") for row in rows)
        say_table([("run", "IoU with first", "s/frame"), *shown], (1, 2))
        for row in rows:
            emit({"source": str(self.source), **row})
        say(f"written to {click.format_filename(self.out)}")
        problems.raise_if_any(count)


compare = command(CompareCommand, output_options())


def _run_all(
    variants: Sequence[Variant], compute: Callable[[Variant], ComparedMasks], problems: ErrorReport
) -> tuple[list[Variant], list[ComparedMasks]]:
    """Runs the variants, and adds failures to ``problems``. Raises UserError if the first or every other one fails."""
    done, results = [variants[0]], [compute(variants[0])]
    for variant in variants[1:]:
        try:
            results.append(compute(variant))
            done.append(variant)
        except USER_ERRORS as error:
            problems.add(variant.label, format_error(error))
    if len(done) == 1:
        problems.raise_if_any(len(variants))
    for variant, result in zip(done, results, strict=True):
        if result.problem is not None:
            problems.add(variant.label, result.problem)
    return done, results


def _parsed(texts: Sequence[str], prompt_type: PromptType, option: str) -> list[Any]:
    try:
        return [prompt_type.convert(text, None, None) for text in texts]
    except click.BadParameter as error:
        raise click.BadParameter(error.message, param_hint=f"'{option}'") from None


def _variants(first: Mapping[str, Any], others: Sequence[Mapping[str, str]]) -> list[Variant]:
    """Returns the runs. Each label names the differing settings. An unknown device raises ModelError."""
    from sam2fast.utils.devices import available_device

    settings = [dict(first)]
    for other in others:
        # The checkpoint of the first run does not fit another model.
        settings.append({**first, **({"checkpoint": None} if "model" in other else {}), **other})
    with as_model_error():
        for setting in settings:
            setting["device"] = str(available_device(setting["device"]))
    usual = functools.cache(choose_dtype)  # one note per device
    for setting in settings:
        if setting["dtype"] == AUTO:
            setting["dtype"] = usual(setting["device"])
    differing = [key for key in KEYS if len({str(setting[key]) for setting in settings}) > 1]
    variants, choose = [], functools.cache(choose_model)
    for setting in settings:
        checkpoint = None if setting["checkpoint"] is None else Path(setting["checkpoint"])
        size = setting["image-size"] and int(setting["image-size"])
        choice = choose(setting["model"], checkpoint, size)
        of_size = f"{size} px" if size else "default size"
        named = {"model": Path(choice.config).stem, "checkpoint": choice.checkpoint.name, "image-size": of_size}
        shown = {**setting, **named}
        label = ", ".join(str(shown[key]) for key in differing) or "the same"
        variants.append(Variant(label, choice, setting["device"], setting["dtype"], setting["strategy"]))
    return variants


def _segment(image: Path, prompts: Prompts, variant: Variant) -> ComparedMasks:
    from sam2fast.cli.segmenter import Segmenter
    from sam2fast.io.rle import encode_rle

    segmenter = Segmenter(variant.choice, variant.device, variant.dtype)
    pixels = segmenter.read(InputSource(str(image)))
    height, width = pixels.shape[:2]
    if outside := prompts.outside(width, height):
        raise UserError(f"the {outside[0]} lies outside {image} ({width}x{height})")
    segmenter.take_seconds()
    segmenter.encode(pixels)
    mask = segmenter.predict(prompts).mask
    return ComparedMasks({(0, ""): encode_rle(mask)}, sum(segmenter.take_seconds().values()))


def _track(video: Path, prompts: Sequence[Prompts], variant: Variant) -> ComparedMasks:
    from sam2fast.cli.track_passes import UNUSABLE
    from sam2fast.cli.track_run import load_predictor
    from sam2fast.io.rle import encode_rle
    from sam2fast.video_io import VideoError

    predictor, _ = load_predictor(variant.choice, variant.device, variant.dtype)
    masks, problem = {}, None
    with as_user_error(*UNUSABLE):
        state = predictor.init_state(str(video), strategy=variant.strategy)
        check_against_video(prompts, {}, state.frames.height, state.frames.width, len(state.frames), 0, None)
        begun = time.perf_counter()
        for prompt in prompts:
            predictor.add_new_points_or_box(state, prompt.frame, prompt.object, **prompt.as_arguments())
        try:
            for frame, ids, frame_masks in predictor.propagate_in_video(state, progress=False, output="bool"):
                for obj_id, mask in zip(ids, frame_masks.cpu().numpy(), strict=True):
                    masks[frame, str(obj_id)] = encode_rle(mask.squeeze())
        except VideoError as error:
            if not masks:
                raise
            problem = str(error)
    frames = len({frame for frame, _ in masks})
    return ComparedMasks(masks, (time.perf_counter() - begun) / frames, problem)


def _mean_iou(first: "Mapping[tuple[int, str], RLE]", second: "Mapping[tuple[int, str], RLE]") -> float:
    """Returns the mean IoU over the objects and frames in both mappings. Two empty masks have IoU 1."""
    from sam2fast.io.rle import decode_rle

    total, both = 0.0, [key for key in first if key in second]
    for key in both:
        one, other = decode_rle(first[key]), decode_rle(second[key])
        union = (one | other).sum()
        total += float((one & other).sum() / union) if union else 1.0
    return total / len(both)


def _some_frames(video: Path, results: Sequence[ComparedMasks]) -> "dict[int, np.ndarray]":
    """Reads the pixels of some evenly spaced tracked frames."""
    import numpy as np

    from sam2fast.video_io import read_frames
    from sam2fast.video_io.video_types import PROBE_SIZE

    tracked = sorted({frame for frame, _ in results[0].masks})
    shown = {tracked[i] for i in np.linspace(0, len(tracked) - 1, SHOWN).round().astype(int)}
    with read_frames(str(video), PROBE_SIZE) as reader:
        upto = itertools.islice(reader, max(shown) + 1)  # skips later frames, perhaps damaged
        return {frame.index: frame.rgb for frame in upto if frame.index in shown}


def _sheet(frames: "Mapping[int, np.ndarray]", labels: Sequence[str], results: Sequence[ComparedMasks]) -> "Image":
    """Draws a row for each frame and a column for each run."""
    import numpy as np
    from PIL import Image

    from sam2fast.io.overlay import draw_columns
    from sam2fast.io.rle import decode_rle
    from sam2fast.results import draw_masks

    height, width = next(iter(frames.values())).shape[:2]
    tile = TILE_WIDTH, max(1, round(TILE_WIDTH * height / width))

    def drawn(result: ComparedMasks, frame: int) -> Image.Image:
        masks = [decode_rle(rle) for (at, _), rle in result.masks.items() if at == frame]
        return Image.fromarray(draw_masks(frames[frame], np.stack(masks))).resize(tile, Image.Resampling.LANCZOS)

    return draw_columns(
        [(label, [drawn(result, frame) for frame in frames]) for label, result in zip(labels, results, strict=True)]
    )
