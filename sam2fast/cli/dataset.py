"""``sam2fast dataset``: lists, shows and converts data sets of masks, and extracts frames of videos."""

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sam2fast import __version__
from sam2fast.cli.command import argument, command, option, shared
from sam2fast.cli.command_files import OutputFolder, make_folder, write_atomically
from sam2fast.cli.jobs import work_through
from sam2fast.cli.left_out import LeftOut
from sam2fast.cli.options import PATH, out_option
from sam2fast.cli.reporting import emit, output_options, progress_bar, say, say_table
from sam2fast.cli.user_errors import ErrorReport, UserError, format_error, print_note
from sam2fast.io.atomic import remove_leftovers
from sam2fast.utils.cores import available_cores

if TYPE_CHECKING:
    import numpy as np

    from sam2fast.datasets.annotations import VideoAnnotations
    from sam2fast.datasets.conversion import ConvertJob, ExtractJob
    from sam2fast.datasets.layout import Layout

LAYOUTS = ("sav", "sav-png", "davis", "ytvos", "coco-jsonl")
MASKLETS = ("manual", "auto")
FRAMES_SHOWN = 4  # number of shown frames per video
HEADERS = ("video", "objects", "frames", "from", "to", "size", "images", "masks", "visible")
Command = TypeVar("Command", bound=Callable[..., Any])

source_argument = click.argument("source", metavar="IN", type=PATH)
layout_option = click.option("--from", "layout", type=click.Choice(LAYOUTS), help="Layout of IN.  [default: detected]")
rate_option = click.option(
    "--rate", type=click.IntRange(1), default=4, help="SA-V's JSON files annotate every Nth frame of the video."
)
video_option = click.option(
    "--video", "videos", metavar="NAME", multiple=True, help="Take only this video. Repeatable.  [default: all]"
)


def jobs_option(*names: str) -> Callable[[Command], Command]:
    """Adds ``--jobs``, with additional names."""
    return click.option(
        "--jobs", *names, "processes", type=click.IntRange(1), help="Processes.  [default: one for each core]"
    )


def select_videos(present: Sequence[str], asked: Collection[str], where: Path) -> list[str]:
    """Returns the requested videos, or all videos if none is requested."""
    if not present:
        raise UserError(f"there are no annotated videos in {where}")
    missing = sorted(set(asked) - set(present))
    if missing:
        raise click.UsageError(f"there is no video {missing[0]!r} in {where}; there are {', '.join(present[:5])}")
    return [name for name in present if not asked or name in asked]


def open_source(source: Path, layout: str | None, masklets: str, rate: int) -> tuple["Layout", list[str]]:
    """Opens a folder, or one of its files, as a data set. Returns it and a file's videos ([] for a folder)."""
    from sam2fast.datasets.layout import Settings
    from sam2fast.datasets.layout_registry import open_layout

    videos: list[str] = []
    if source.is_file():
        for masklet_type in MASKLETS:
            if source.name.endswith(f"_{masklet_type}.json"):
                layout, masklets, videos = "sav", masklet_type, [source.name.removesuffix(f"_{masklet_type}.json")]
        if source.suffix == ".jsonl":
            own = Path(os.path.abspath(source)).parent.name
            name = own if source.name == "masks.jsonl" else source.stem  # track's file
            layout, videos = "coco-jsonl", [name]
        if not videos:
            raise UserError(f"{source} is neither <video>_manual.json, <video>_auto.json nor <video>.jsonl")
        source = source.parent
    if not source.is_dir():
        raise UserError(f"no file or folder {str(source)!r}")
    return open_layout(source, layout, Settings(masklets, rate)), videos


def select_source_videos(data: "Layout", videos: Sequence[str], asked: Collection[str]) -> list[str]:
    """Returns the videos to process."""
    return select_videos(list(videos) or data.videos(), asked, data.root)


class _InfoCommand:
    """List the videos of the data set in the folder IN, or of one file of it, with their objects, frames and sizes.

    Numbers of frames and sizes come from the masks. Unreadable videos are listed at the end.
    """

    source: Path = shared(source_argument)
    layout: str | None = shared(layout_option)
    rate: int = shared(rate_option)
    count: bool = option(help="Read every mask, to count masks and find damaged masks.")
    videos: Sequence[str] = shared(video_option)
    as_json: bool = option("--json", help="Print a JSON list instead of a table.")

    def run(self) -> None:
        from sam2fast.datasets.dataset_files import DatasetError
        from sam2fast.datasets.layout_registry import summarise

        problems, rows = ErrorReport("videos"), []
        kinds = open_masklets(self.source, self.layout, self.rate)
        asked = select_videos(sorted({name for _, names in kinds for name in names}), self.videos, self.source)
        total = 0
        for data, present in kinds:
            names = [name for name in present if name in asked]
            total += len(names)
            for name in names:
                try:
                    rows.append(summarise(data, name, self.count))
                except (DatasetError, OSError) as error:
                    problems.add(name, format_error(error))
        for row in rows:
            emit(row.content())
        if self.as_json:
            click.echo(json.dumps([row.content() for row in rows], indent=2))
        else:
            table: list[tuple[str, ...]] = [HEADERS]
            for row in rows:
                numbers = ("-" if value is None else str(value) for value in (row.masks, row.visible))
                size, images = f"{row.width}x{row.height}", "video" if row.images is None else str(row.images)
                of_frames = str(row.objects), str(row.frames), row.first, row.last
                table.append((f"{row.video} {row.masklets}".rstrip(), *of_frames, size, images, *numbers))
            say_table(table)
            objects, frames = sum(row.objects for row in rows), sum(row.frames for row in rows)
            say(f"{len(rows)} videos, {objects} objects, {frames} annotated frames; layout {kinds[0][0].name}")
        problems.raise_if_any(total)


info = command(_InfoCommand, output_options())


def open_masklets(source: Path, layout: str | None, rate: int, both: bool = False) -> "list[tuple[Layout, list[str]]]":
    """Returns data sets and their videos: two for SA-V, manual and automatic (for one file only if ``both``)."""
    data, only = open_source(source, layout, MASKLETS[0], rate)
    if data.name != "sav" or (only and not both):
        return [(data, select_source_videos(data, only, ()))]
    layouts = [open_source(data.root, "sav", masklets, rate)[0] for masklets in MASKLETS]
    if only:
        return [(one, only) for one in layouts if (data.root / f"{only[0]}_{one.settings.masklets}.json").is_file()]
    present = [(one, names) for one in layouts if (names := one.videos())]
    if not present:
        raise UserError(f"there are no annotated videos in {source}")
    return present


class _ShowCommand:
    """Draw the masks of annotated frames of the data set in the folder IN, or of one file of it.

    The masks are drawn on the frames, or on grey if there are no frames. SA-V's manual and automatic masklets are
    drawn side by side. The images are OUT/VIDEO_FRAME.png.
    """

    source: Path = shared(source_argument)
    layout: str | None = shared(layout_option)
    rate: int = shared(rate_option)
    frames: str | None = option(
        metavar="A,B,C", help="Annotated frames by number or file name: 0,40,480.  [default: up to four, evenly spaced]"
    )
    videos: Sequence[str] = shared(video_option)
    out: Path = shared(out_option("out/dataset"))

    def run(self) -> None:
        asked = None if self.frames is None else [part.strip() for part in self.frames.split(",") if part.strip()]
        if asked == []:
            raise click.UsageError("--frames names no frame; expected frames such as 0,40,480")
        kinds = open_masklets(self.source, self.layout, self.rate, both=True)
        names = select_videos(sorted({name for _, names in kinds for name in names}), self.videos, self.source)
        make_folder(self.out)

        from sam2fast.datasets.dataset_files import DatasetError
        from sam2fast.video_io import VideoError

        problems, count = ErrorReport("videos"), 0
        for name in names:
            opened = []
            for data, present in kinds:
                if name in present:
                    try:
                        opened.append((data, data.open(name)))
                    except DatasetError as error:
                        problems.add(name, format_error(error))
            try:
                count += _draw_video(name, opened, asked, self.out)
            except (DatasetError, VideoError, OSError, ImportError) as error:
                problems.add(name, format_error(error))
        emit({"out": str(self.out), "images": count})
        say(f"{count} images in {self.out}")
        problems.raise_if_any(sum(name in present for name in names for _, present in kinds))


show = command(_ShowCommand, output_options())


def _draw_video(
    name: str, opened: "Sequence[tuple[Layout, VideoAnnotations]]", asked: Sequence[str] | None, out: Path
) -> int:
    """Draws frames of a video. Returns the number of drawn frames."""
    from sam2fast.datasets.dataset_files import DatasetError
    from sam2fast.datasets.frame_files import frame_key

    if not opened:
        return 0
    known = {frame_key(frame): frame for _, video in opened for frame in video.frames}
    ordered = list(known.values())
    if asked is None:
        step = max(1, -(-len(ordered) // FRAMES_SHOWN))
        wanted = ordered[::step]
    else:
        missing = [number for number in asked if frame_key(number) not in known]
        if missing:
            raise DatasetError(f"{name} has no annotation in frame {missing[0]}; it has {', '.join(ordered[:5])}, ...")
        wanted = [known[frame_key(number)] for number in asked]
    left = dict.fromkeys(wanted)
    for frame, image in opened[0][0].frame_files(name).read(wanted):
        _draw_frame(frame, image, opened, out)
        del left[frame]
    for frame in left:
        _draw_frame(frame, None, opened, out)
    return len(set(wanted))


def _draw_frame(
    frame: str, image: "np.ndarray | None", opened: "Sequence[tuple[Layout, VideoAnnotations]]", out: Path
) -> None:
    from sam2fast.datasets.segmentations import area_of
    from sam2fast.datasets.visualization import Panel, draw_panels

    panels = []
    for layout, video in opened:
        if frame in video.frames:
            masks = video.masks(frame)
            suffix = f" {layout.settings.masklets}" if layout.name == "sav" else ""
            visible = sum(area_of(rle) > 0 for rle in masks.values())
            title = f"{video.name}{suffix}, frame {frame}: {visible} of {len(video.objects)} objects"
            panels.append(Panel(title, video.size, masks, layout.first_id))
    content = BytesIO()
    draw_panels(image, panels).save(content, "PNG")
    file = out / f"{opened[0][1].name}_{frame}.png"
    remove_leftovers([file])
    write_atomically(file, content.getvalue())


class _ConvertCommand:
    """Convert the data set in the folder IN, or one file of it, to another layout in the folder OUT.

    No data is lost: facts that a layout cannot store are written to OUT/Facts (or to SA-V's JSON, under the key
    sam2fast), and restored when converting back. Each video is written atomically. Existing videos are skipped, so the
    same command continues an interrupted run. Videos that cannot be read or converted are listed at the end.
    """

    source: Path = shared(source_argument)
    target: Path = argument(metavar="OUT")
    to: str = option(type=click.Choice(LAYOUTS), required=True, help="Layout of OUT.")
    layout: str | None = shared(layout_option)
    masklets: str = option(
        type=click.Choice(MASKLETS),
        default="manual",
        help="SA-V's JSON file to read or write: manual or automatic masklets of a video.",
    )
    rate: int = shared(rate_option)
    images: str = option(
        type=click.Choice(("all", "annotated", "none")),
        default="all",
        help="Which frames to copy: byte for byte, or, from video files into layouts of images, as JPEG of quality 95.",
    )
    overlaps: str = option(
        type=click.Choice(("refuse", "smaller-id", "larger-area")),
        default="refuse",
        help="Object that wins where objects overlap, since davis and ytvos store one object per pixel.",
    )
    check: bool = option(help="Read every mask back and compare.")
    overwrite: bool = option(help="Replace existing videos, even if they were made with other options.")
    videos: Sequence[str] = shared(video_option)
    processes: int | None = shared(jobs_option())

    def run(self) -> None:
        data, only = open_source(self.source, self.layout, self.masklets, self.rate)
        names = select_source_videos(data, only, self.videos)
        if os.path.realpath(self.target) == os.path.realpath(data.root):
            raise click.UsageError("OUT is the folder of IN; choose another one")
        masklets = data.settings.masklets if data.name == self.to == "sav" else self.masklets

        from sam2fast.datasets.conversion import ConvertJob, convert_video
        from sam2fast.datasets.layout import Settings
        from sam2fast.datasets.layout_registry import open_layout
        from sam2fast.results.object_numbers import positions_note

        options = {"to": self.to, "masklets": masklets, "rate": self.rate}
        options |= {"images": self.images, "overlaps": self.overlaps}
        run, file = {"version": __version__, "options": options}, self.target / ".convert.json"
        folder = OutputFolder(file, run, self.overwrite, "choose another folder, or --overwrite")
        output = open_layout(self.target, self.to, Settings(masklets, self.rate, self.overlaps))
        problems, count, frames, objects, bare = ErrorReport("videos"), 0, 0, 0, 0
        jobs = {name: ConvertJob(data, output, name, self.images, self.check) for name in names}
        results, done_before = _run(convert_video, jobs, folder, problems, self.processes, self.overwrite)
        for video, done in results.items():
            count, frames, objects = count + 1, frames + done.frames, objects + done.objects
            bare += not done.has_images
            if done.lost:
                lost = ", ".join(map(str, sorted({number for numbers in done.lost.values() for number in numbers})))
                of_frames = f"{len(done.lost)} frames from {next(iter(done.lost))} on"
                say(f"{video}: lost pixels where masks overlap, {of_frames}, objects {lost}")
            if note := positions_note({self.to: done.numbers}):
                print_note(f"{video}: {note}")
        output.finish()
        emit(
            {"out": str(self.target), "videos": count, "objects": objects, "frames": frames, "done_before": done_before}
        )
        say(
            f"{count} videos with {objects} objects in {frames} annotated frames in {self.target}, layout {self.to}"
            + (f"; {done_before} videos were done before" if done_before else "")
            + (f"; IN has no images of {bare} videos" if bare and self.images != "none" else "")
        )
        problems.raise_if_any(len(names))


convert = command(_ConvertCommand, output_options(has_bar=True))


def _run(
    function: Callable[[Any, Any], Any],
    jobs: "Mapping[str, ConvertJob] | Mapping[str, ExtractJob]",
    folder: OutputFolder,
    problems: ErrorReport,
    processes: int | None,
    overwrite: bool = False,
) -> tuple[dict[str, Any], int]:
    """Runs the jobs of incomplete videos. Returns the jobs' results and the number of videos that existed before."""
    from sam2fast.datasets.conversion import no_model
    from sam2fast.datasets.dataset_files import DatasetError
    from sam2fast.deploy.parallel.runners import in_this_process, on_devices

    made_from = {}
    for name, job in jobs.items():
        try:
            made_from[name] = {**folder.made_from, **job.made_from()}
        except (DatasetError, OSError) as error:
            problems.add(job.video, format_error(error))
    exist = [name for name in made_from if jobs[name].is_done(folder.counts.get(name))]
    existing, replaced = ([], exist) if overwrite else (exist, [])
    # Videos to replace have no record until the new files are written, since the run may be interrupted.
    folder.begin({**made_from, **dict.fromkeys(replaced)}, existing)
    left = [jobs[name] for name in made_from if name not in existing]
    count = min(processes or available_cores(), len(left))
    runner = in_this_process("cpu") if count < 2 else on_devices(["cpu"] * count, threads=1)
    with progress_bar("videos", len(left), "videos") as bar:
        results = work_through(function, left, runner, no_model, problems, bar, lambda job: job.video)
        values = {str(job.video): value for job, value in results}
    failed = {subject for subject, _ in problems.found}
    done = {name: made for name, made in made_from.items() if str(jobs[name].video) not in failed}
    folder.write(videos=done, files={name: len(jobs[name].files) for name in done})
    return values, len(existing)


class _ExtractCommand:
    """Extract every RATEth frame of videos, several videos at once.

    The folder of a video appears when all frames are written. Existing folders are skipped, so the same command
    continues an interrupted run. Videos that cannot be read completely get no folder, and are listed at the end.
    """

    videos: Path = option(
        "--videos",
        "--sav-vid-dir",
        required=True,
        metavar="DIR",
        help="Folder with video files, or with folders of video files.",
    )
    out: Path = option(
        "--out",
        "--output-dir",
        required=True,
        metavar="DIR",
        help="Folder for the frames: DIR/VIDEO/00000.jpg, 00004.jpg and so on.",
    )
    rate: int = option(
        "--rate",
        "--sav-frame-sample-rate",
        type=click.IntRange(1),
        default=4,
        help="Take every RATEth frame. SA-V annotates every 4th frame.",
    )
    quality: int = option(type=click.IntRange(1, 100), default=95, help="Quality of the JPEG files.")
    processes: int | None = shared(jobs_option("--n-jobs"))

    def run(self) -> None:
        from sam2fast.datasets.conversion import ExtractJob, extract_frames, list_videos
        from sam2fast.video_io.video_types import require_pyav

        files, hidden = list_videos(self.videos)
        require_pyav()
        problems, left_out = ErrorReport("videos"), LeftOut()
        for file in hidden:
            left_out.add("file", "it is hidden", file)
        jobs = dict[str, ExtractJob]()
        for file in files:
            job = ExtractJob(file, self.out, self.rate, self.quality)
            if jobs.setdefault(job.name, job) is not job:
                problems.add(
                    file, f"{file} has the name of {jobs[job.name].video}: their frames would be in one folder"
                )
        run = {"version": __version__, "options": {"rate": self.rate, "quality": self.quality}}
        folder = OutputFolder(self.out / ".extract.json", run)
        results, done_before = _run(extract_frames, jobs, folder, problems, self.processes)
        count, frames = len(results), sum(results.values())
        emit({"out": str(self.out), "videos": count, "frames": frames, "done_before": done_before})
        say(
            f"{frames} frames of {count} videos in {self.out}"
            + (f"; {done_before} videos were done before" if done_before else "")
        )
        left_out.report()
        problems.raise_if_any(len(files))


extract = command(_ExtractCommand, output_options(has_bar=True))


@click.group()
def dataset() -> None:
    """List, show and convert data sets of masks, and extract frames of videos.

    Layouts: sav (SA-V's JSON files beside videos), sav-png (SA-V's folders of PNGs), davis (DAVIS, MOSE), ytvos
    (YouTube-VOS), coco-jsonl (a file of JSON lines for each video, as track writes it).
    """


for one in (info, show, convert, extract):
    dataset.add_command(one)
