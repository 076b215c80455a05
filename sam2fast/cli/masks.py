"""``sam2fast masks``: generates masks of everything in each image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import click

from sam2fast.cli.command import argument, command, option, shared
from sam2fast.cli.command_files import (
    EXPORT_FILES,
    RESULTS,
    check_results,
    copies_of_images,
    make_folder,
    mask_files,
)
from sam2fast.cli.jobs import note_resumed, work_through
from sam2fast.cli.left_out import LeftOut
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.options import (
    FormatsType,
    ModelOptions,
    check_exports,
    max_megapixels_option,
    model_options,
    out_option,
    tolerance_option,
)
from sam2fast.cli.reporting import emit, output_options, progress_bar
from sam2fast.cli.runner_options import RayOptions, add_seconds, choose_runner, resume_option, runner_options
from sam2fast.cli.sources import STDIN, InputSource, file_names, images_in, list_sources, may_exist
from sam2fast.cli.user_errors import print_note
from sam2fast.cli.written_files import WrittenFiles
from sam2fast.io.atomic import remove_leftovers

if TYPE_CHECKING:
    from sam2fast.cli.mask_finder import FoundMasks, MaskTask

DEFAULT_FORMATS = ("json", "layers", "overlay")
SAME = {"coco": "json", "png": "layers"}  # other names of formats, used by other commands and in Python
FORMATS = (*DEFAULT_FORMATS, *SAME, *EXPORT_FILES)
ENDS = {"layers": "_masks.png", "overlay": "_overlay.png"}
WRITTEN = ".masks.files.json"  # record of the written files
SHARE = click.FloatRange(0, 1)
# Options of the mask generator, in the order of the results file.
OPTIONS = (
    *("points_per_side", "points_per_batch", "pred_iou_thresh", "stability_score_thresh", "box_nms_thresh"),
    *("crop_n_layers", "crop_nms_thresh", "crop_overlap_ratio", "crop_n_points_downscale_factor"),
    *("min_mask_region_area", "use_m2m"),
)


@dataclass(frozen=True)
class MaskingCommand:
    """Options and run of a command that writes masks of images in several formats."""

    images: Sequence[str] = argument(nargs=-1, required=True, metavar="IMAGE...")
    model: ModelOptions = shared(partial(model_options, many_devices=True))
    formats: tuple[str, ...] = option(
        "--format",
        type=FormatsType(FORMATS),
        metavar=",".join(FORMATS),
        default=",".join(DEFAULT_FORMATS),
        help="Formats to write, separated by commas. docs/formats.md describes all formats.",
    )
    tolerance: float = shared(tolerance_option)
    ray_options: RayOptions = shared(runner_options)
    resume: bool = shared(resume_option)
    out: Path = shared(max_megapixels_option, out_option("out"))

    TABLES: ClassVar[Sequence[str]] = (RESULTS,)  # result files that hold all images
    SCORE: ClassVar[str] = "predicted_iou"  # key of an annotation's score for the printed table

    def choose_dtype(self) -> str:
        """Returns the dtype of the computation."""
        return self.model.with_dtype([self.out / RESULTS] if self.resume else [], bool(self.ray_options)).dtype

    def process(
        self, make_task: Callable[[ModelChoice, Sequence[str]], "MaskTask"], inputs: Sequence[Path] = ()
    ) -> None:
        """Writes the masks of all images.

        Args:
            make_task: Function that makes the task from the model and the formats.
            inputs: Other files that no result may overwrite.
        """
        formats = tuple(dict.fromkeys(SAME.get(name, name) for name in self.formats))
        if self.resume and "json" not in formats:
            raise click.UsageError(f"--resume needs {RESULTS}; add json to --format")
        left_out = LeftOut()
        files, problems = list_sources(self.images, partial(images_in, out=self.out, left_out=left_out), "images")
        if not files:
            problems.raise_if_any(len(problems.found))
        check_results(files, lambda image: mask_files(self.out, image.stem, formats).values(), inputs)
        choice = self.model.choose()
        check_exports(formats, self.tolerance)
        task = make_task(choice, formats)
        make_folder(self.out)
        outputs = (file for image in files for file in mask_files(self.out, image.stem, formats).values())
        remove_leftovers([*(self.out / name for name in self.TABLES), *outputs], bool(self.ray_options))

        from sam2fast.cli.mask_finder import read_previous_masks
        from sam2fast.cli.results import print_table

        changed: dict[str, list[str]] = {}
        before = read_previous_masks(self.out / RESULTS, task, files, changed) if self.resume else {}
        for path in [path for path in before if not may_exist(path)]:
            del before[path]
            left_out.add("image", "the earlier run had it, and its file is gone", path)
        left = [image for image in files if image.resolved not in before]
        others = {path: InputSource(path, b"" if path == STDIN else None) for path in before}
        sources = others | {image.resolved: image for image in files}
        names = file_names(sources.values())
        if self.resume:
            note_resumed(len(files) - len(left), len(files), changed)
        workers = choose_runner(self.ray_options, self.model.device, len(left or files), "images")
        spent, rows = dict[str, float](), list[tuple[str, ...]]()
        results, total, done = task.results(workers.name, spent), len(files) + len(problems.found), list[InputSource]()

        def note(image: InputSource, found: "FoundMasks") -> None:
            best = max((one[self.SCORE] for one in found.annotations), default=None)
            width, height, count = found.image["width"], found.image["height"], len(found.annotations)
            rows.append((str(image), str(count), "-" if best is None else f"{best:.3f}", f"{width}x{height}"))
            facts = {"image": str(image), "size": {"width": width, "height": height}, "masks": count, "score": best}
            emit({**facts, "out": str(self.out), "model": task.model(results.device)})
            if best is None:
                self.note_none(image, left_out)

        with (
            WrittenFiles(self.out, WRITTEN) as written,
            results.kept(),
            progress_bar("images", len(files), "images", len(files) - len(left)) as bar,
        ):
            for path, entries in before.items():
                results.add(entries.named(names[sources[path]]))
            for image in files:
                if image.resolved in before:
                    note(image, before[image.resolved])
            task = task.shown_by(bar) if workers.is_local else task
            try:
                for image, (found, seconds, used) in work_through(task, left, workers.runner, task.load, problems, bar):
                    results.device = used if workers.is_local else workers.name
                    add_seconds(spent, seconds)
                    results.add(found.named(names[image]))
                    note(image, found)
                    done.append(image)
            finally:
                copies = copies_of_images(self.out, formats)
                of_inputs = {
                    image.resolved: [*mask_files(self.out, image.stem, formats).values(), *copies[image.stem]]
                    for image in files
                }
                for image in [*done, *(image for image in files if image.resolved in before)]:
                    written.add(image.resolved, of_inputs[image.resolved], image.resolved not in before)
            of_others = {path: written.files_of(path) for path in before.keys() - of_inputs.keys()}
            written.remove_others(of_inputs | of_others, partial(_is_of_formats, formats))
        left_out.report()
        if rows:
            print_table([("image", "masks", "best", "size"), *rows], spent, self.out)
        problems.raise_if_any(total)

    def note_none(self, image: InputSource, left_out: LeftOut) -> None:
        """Notes an image without masks."""
        print_note(f"no mask in {image} reaches --pred-iou-thresh and --stability-score-thresh: lower them")


def _is_of_formats(formats: Sequence[str], path: Path) -> bool:
    """Returns True if a path in the output folder is a file of one of the formats."""
    if len(path.parts) > 1:
        return path.parts[0] in formats
    return any(name in formats and path.name.endswith(end) for name, end in ENDS.items())


class MasksCommand(MaskingCommand):
    """Generate the masks of everything in each IMAGE.

    IMAGE is a file, a folder, a pattern such as 'photos/*.jpg', a URL (https://...), or - for stdin. The options
    from --points-per-side to --use-m2m are the arguments of SAM2AutomaticMaskGenerator.

    \b
    Writes to the output folder
      masks.json        all masks in COCO's format, with run lengths and scores
      STEM_masks.png    the masks' ids as pixels: 1 is the largest mask; 16 bits if there are more than 255
      STEM_overlay.png  the same in colour on the image
      FORMAT/           with --format yolo, yolo-seg, labelme, labelme-mask, label-studio,
                        npz, geojson

    Where masks overlap, the images show the smallest mask. masks.json has all masks in full, with the id as "layer".
    Images that fail are skipped and listed at the end, and set the exit code to 1.
    """

    points_per_side: int = option(type=click.IntRange(1), default=32, help="Points per side of the prompt grid.")
    points_per_batch: int = option(type=click.IntRange(1), default=64, help="Points per batch of the decoder.")
    pred_iou_thresh: float | None = option(
        type=SHARE, help="Keep masks with a greater predicted IoU; 0 keeps all.  [default: 0.8; nano: 0.5]"
    )
    stability_score_thresh: float | None = option(
        type=SHARE,
        help="Keep masks with at least this IoU between a higher and a lower logit threshold; 0 keeps all.  "
        "[default: 0.95; nano: 0.7]",
    )
    box_nms_thresh: float = option(
        type=SHARE, default=0.7, help="If the boxes of two masks have a greater IoU, keep the better mask."
    )
    crop_n_layers: int = option(
        type=click.IntRange(0),
        default=0,
        help="Number of crop layers that are searched for small objects: 1 adds 4 crops, 2 adds 16 more crops.",
    )
    crop_overlap_ratio: float = option(
        type=SHARE,
        default=512 / 1500,
        show_default=False,
        help="Overlap of the first layer's crops, as a share of the image's shorter side.  [default: 0.341]",
    )
    crop_nms_thresh: float = option(type=SHARE, default=0.7, help="Like --box-nms-thresh, but between crops.")
    crop_n_points_downscale_factor: int = option(
        type=click.IntRange(1), default=1, help="Divide the points per side by this number in each further layer."
    )
    min_mask_region_area: int = option(
        type=click.IntRange(0),
        default=0,
        help="Fill holes and remove islands of at most this many low-resolution pixels.",
    )
    use_m2m: bool = option(help="Refine each mask by a second prediction, with the mask as prompt.")

    def run(self) -> None:
        points, crops, divisor = self.points_per_side, self.crop_n_layers, self.crop_n_points_downscale_factor
        if points < divisor**crops:
            raise click.UsageError(
                f"--crop-n-points-downscale-factor {divisor} leaves crop layer {crops} without points: "
                f"--points-per-side is {points}"
            )
        self.process(self._task)

    def _task(self, choice: ModelChoice, formats: Sequence[str]) -> "MaskTask":
        from sam2fast.amg.parameters import thresholds_of
        from sam2fast.cli.mask_finder import MaskTask

        least = thresholds_of(choice.config)
        options = {name: getattr(self, name) for name in OPTIONS}
        options = {name: least.get(name) if value is None else value for name, value in options.items()}
        dtype = self.choose_dtype()
        run = choice.made_from(dtype=dtype, tolerance=self.tolerance, **options)
        return MaskTask(choice, dtype, options, formats, self.out, run, self.tolerance)


masks = command(MasksCommand, output_options(has_bar=True))
