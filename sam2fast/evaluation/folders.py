"""Measures J&F of predicted masks in folders in many processes, like the official ``sav_dataset/sav_evaluator.py``.

If a video's folder has only PNGs, the layout is DAVIS: each PNG is a frame with object ids. Otherwise, the layout is
SA-V: a folder for each object, with a PNG for each annotated frame. The ground truth determines the layout, and the
prediction must have files of the same names. Hidden files are ignored.

Imports neither torch nor other modules that are slow to load. Each image is decoded once; see docs/evaluation.md.
"""

import os
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.deploy.parallel.process import block_interrupts
from sam2fast.deploy.parallel.worker import ignore_interrupts
from sam2fast.evaluation.j_and_f import TOLERANCE, Agreement, compare_files
from sam2fast.evaluation.scores import (
    RESULTS,
    FolderScores,
    ObjectId,
    ObjectScore,
    VideoScore,
    score_objects,
    write_results_csv,
)
from sam2fast.io.image_names import name_key, similar_path
from sam2fast.utils.cores import available_cores
from sam2fast.utils.errors import FixableError

__all__ = ["ComparedFrames", "EvaluationError", "benchmark", "compare_frames", "evaluate_folders"]

ANNOTATIONS = "Annotations"
NO_FRAME = (
    "has no scored frame; the first and the last annotated frame are scored only with --keep-first-and-last, or "
    "skip_first_and_last=False in Python"
)
# Number of frames per unit of work. Several processes can share one long video.
FRAMES_AT_ONCE = 32
# Minimum number of frames per process. For fewer frames, starting a process takes longer than comparing the frames.
FRAMES_FOR_A_PROCESS = 192


class EvaluationError(FixableError, RuntimeError):
    """Raised if two folders cannot be compared completely."""


@dataclass(frozen=True)
class VideoPair:
    """Videos of two folders: sorted names in both folders and in one folder. ``truth`` may end with ``Annotations``."""

    truth: Path
    pred: Path
    videos: tuple[str, ...]
    only_truth: tuple[str, ...] = ()
    only_pred: tuple[str, ...] = ()


@dataclass(frozen=True)
class MaskSequence:
    """Mask files of a video, one per frame. Files show all objects, or only the object of the folder ``object_id``."""

    object_id: str | None
    truth: Path
    pred: Path
    names: tuple[str, ...]


@dataclass
class VideoPlan:
    """Mask files of a video to compare, or the reasons why the video cannot be evaluated."""

    name: str
    sequences: list[MaskSequence] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    only_truth: list[str] = field(default_factory=list)
    only_pred: list[str] = field(default_factory=list)

    def add(self, object_id: str | None, truth: Path, pred: Path, part: slice) -> None:
        """Adds the mask files of two folders, and names of files that are missing in one folder."""
        names, there = _visible(truth), {name_key(name): name for name in (_visible(pred) if pred.is_dir() else ())}
        sequence = MaskSequence(object_id, truth, pred, tuple(names[part]))
        self.sequences.append(sequence)
        self.problems += _missing(sequence, there.keys())
        prefix = "" if object_id is None else f"{object_id}/"
        keys = {name_key(name) for name in names}
        self.only_truth += [prefix + name for name in names if name_key(name) not in there]
        only_there = sorted(name for key, name in there.items() if key not in keys)
        self.only_pred += [prefix + name for name in only_there if name.endswith(".png")]


def pair_videos(truth: Path, pred: Path, strict: bool) -> VideoPair:
    """Pairs the videos of two folders by name.

    Uses the subfolder ``Annotations`` of ``truth`` if the folders have different numbers of entries, as in the official
    evaluator, or if they have no video in common. Raises EvaluationError if a folder is unreadable, the folders have no
    video in common, or with ``strict`` their videos differ.
    """
    entries = {root: _entries(root) for root in (truth, pred)}
    pair = _in_both(truth, pred)
    inner = truth / ANNOTATIONS
    if len(entries[truth]) != len(entries[pred]) or not pair.videos:
        has_videos = inner.is_dir() and not any(".png" in name for name in _entries(inner))
        pair = _in_both(inner, pred) if has_videos else pair
    if strict and (pair.only_truth or pair.only_pred):
        sides = (pair.truth, pred, pair.only_truth), (pred, pair.truth, pair.only_pred)
        parts = [f"videos that are in {a} but not in {b}: {', '.join(names)}" for a, b, names in sides if names]
        raise EvaluationError("; ".join(parts))
    if not pair.videos:
        raise EvaluationError(
            f"no video is in both {pair.truth} and {pred}; expected folders of the same names, with PNGs of the same "
            "names"
        )
    return pair


def plan_video(pair: VideoPair, name: str, skip_first_and_last: bool) -> VideoPlan:
    """Returns the files of a video to compare. ``skip_first_and_last`` excludes the first and last annotated frame."""
    plan = VideoPlan(name)
    truth, pred = pair.truth / name, similar_path(pair.pred, name)
    part = slice(1, -1) if skip_first_and_last else slice(None)
    entries = _visible(truth)
    folders = [entry for entry in entries if (truth / entry).is_dir()]
    for entry in folders:
        plan.add(entry, truth / entry, pred / entry, part)
    others = [entry for entry in entries if entry not in folders]
    wrong = others if folders else [entry for entry in others if not entry.endswith(".png")]
    plan.problems += [
        f"{truth / entry} is neither: expected only PNGs of frames, or only folders of objects" for entry in wrong
    ]
    if not folders and not wrong:
        plan.add(None, truth, pred, part)
    return plan


def _in_both(truth: Path, pred: Path) -> VideoPair:
    truths, preds = (
        {name_key(name): name for name in _entries(root) if not name.startswith(".") and (root / name).is_dir()}
        for root in (truth, pred)
    )
    both, only_truth, only_pred = (
        tuple(sorted(names[key] for key in keys))
        for names, keys in (
            (truths, truths.keys() & preds.keys()),
            (truths, truths.keys() - preds.keys()),
            (preds, preds.keys() - truths.keys()),
        )
    )
    return VideoPair(truth, pred, both, only_truth, only_pred)


def _missing(sequence: MaskSequence, there: Collection[str]) -> list[str]:
    if not sequence.names:
        return []
    if not sequence.pred.is_dir():
        return [f"{sequence.pred} is missing: the truth has {sequence.truth}"]
    gone = [name for name in sequence.names if name_key(name) not in there]
    of = f"{len(gone)} of {len(sequence.names)}"
    return [f"{of} masks are missing in {sequence.pred}: {', '.join(gone)}"] if gone else []


def _visible(folder: Path) -> list[str]:
    return sorted(name for name in _entries(folder) if not name.startswith("."))


def _entries(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise EvaluationError(f"the folder {str(folder)!r} cannot be read: {error.strerror or error}") from error


@dataclass
class ComparedFrames:
    """Measures of the objects on each frame of a sequence, and messages about files that cannot be read."""

    frames: list[dict[int, Agreement]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def evaluate_folders(
    truth: str | Path,
    pred: str | Path,
    *,
    strict: bool = False,
    processes: int | None = None,
    skip_first_and_last: bool = True,
    tolerance: float = TOLERANCE,
    ignored_labels: Collection[int] = (),
    progress: bool = False,
    on_video: Callable[[VideoScore], None] | None = None,
) -> FolderScores:
    """Scores all videos that exist in both folders. Each video has the layout of DAVIS or SA-V.

    A video with a missing or damaged file, or a file of another size, gets ``problems`` and is excluded from the means.
    Worker processes import the program's main file: in a script, keep the call below ``if __name__ == "__main__":``.

    Args:
        truth, pred: Folders of videos. Videos of ``truth`` may be in the subfolder ``Annotations``.
        strict: If True, requires the same videos in both folders.
        processes: Maximum number of processes. Defaults to the number of usable cores.
        skip_first_and_last: If True, excludes the first and last annotated frame of each video; in the layout of SA-V,
            of each object.
        tolerance: Tolerance of boundaries, as a fraction of the image's diagonal.
        ignored_labels: Values of true masks at void pixels, such as 255 in DAVIS. These pixels are cleared in truth and
            prediction before J and F are measured.
        progress: If True and stderr is a terminal, shows a progress bar on stderr.
        on_video: Function that is called with the score of each finished video, in order.

    Raises:
        EvaluationError: If a folder cannot be read, the folders have no video in common, or with ``strict`` their
            videos differ; or if a process was killed.
        ValueError: If ``processes`` is below 1.
    """
    if processes is not None and processes < 1:
        raise ValueError(f"processes is {processes}; expected 1 or more")
    pair = pair_videos(Path(truth), Path(pred), strict)
    plans = [plan_video(pair, name, skip_first_and_last) for name in pair.videos]
    chunks = [piece for plan in plans if not plan.problems for whole in plan.sequences for piece in _pieces(whole)]
    total = sum(len(chunk.names) for chunk in chunks)
    workers = min(available_cores() if processes is None else processes, max(1, total // FRAMES_FOR_A_PROCESS))
    videos = []
    with (
        tqdm(total=total, unit="frame", disable=None if progress else True) as bar,
        closing(_compared(chunks, tolerance, frozenset(ignored_labels), workers)) as compared,
    ):
        for plan in plans:
            videos.append(_video_score(plan, compared, bar.update))
            if on_video is not None:
                on_video(videos[-1])
    return FolderScores(pair.truth, pair.pred, tuple(videos), pair.only_truth, pair.only_pred)


def benchmark(
    gt_roots: Sequence[str | Path],
    mask_roots: Sequence[str | Path],
    strict: bool = True,
    num_processes: int | None = None,
    *,
    verbose: bool = True,
    skip_first_and_last: bool = True,
) -> tuple[list[float], list[float], list[float], list[dict[str, tuple[dict[ObjectId, float], dict[ObjectId, float]]]]]:
    """Scores pairs of folders like the official function, and writes ``results.csv`` to each of ``mask_roots``.

    Returns:
        Lists of J&F, J and F of each pair in percent, and a list of the objects' J and F by video for each pair.

    Raises:
        EvaluationError: If :func:`evaluate_folders` raises this error, or files are missing or unusable. The message
            names all such files, and nothing is written.
        ValueError: If the lists have different lengths.
    """
    if len(gt_roots) != len(mask_roots):
        raise ValueError(f"{len(gt_roots)} folders of true masks and {len(mask_roots)} of predicted ones: pair them")
    results = [
        evaluate_folders(
            truth,
            pred,
            strict=strict,
            processes=num_processes,
            skip_first_and_last=skip_first_and_last,
            progress=verbose,
        )
        for truth, pred in zip(gt_roots, mask_roots, strict=True)
    ]
    problems = [line for scores in results for lines in scores.problems.values() for line in lines]
    if problems:
        raise EvaluationError("\n".join(problems))
    for scores in results:
        file = scores.pred / RESULTS
        write_results_csv(file, scores)
        if verbose:
            print(f"Global score: J&F: {scores.j_and_f:.1f} J: {scores.j:.1f} F: {scores.f:.1f} (all in {file})")
    objects = [
        {
            v.name: ({i: o.j for i, o in v.objects.items()}, {i: o.f for i, o in v.objects.items()})
            for v in scores.videos
        }
        for scores in results
    ]
    return [s.j_and_f for s in results], [s.j for s in results], [s.f for s in results], objects


def _pieces(sequence: MaskSequence) -> list[MaskSequence]:
    starts = range(0, len(sequence.names), FRAMES_AT_ONCE)
    return [replace(sequence, names=sequence.names[start : start + FRAMES_AT_ONCE]) for start in starts]


def _compared(
    chunks: Sequence[MaskSequence], tolerance: float, ignored_labels: Collection[int], processes: int
) -> Generator[ComparedFrames, None, None]:
    """Compares the chunks, in several processes if allowed, and yields the results in order."""
    work = partial(compare_frames, tolerance=tolerance, ignored_labels=ignored_labels)
    if processes == 1:
        yield from map(work, chunks)
        return
    # Uses spawn instead of fork, because the caller may have threads.
    pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=ignore_interrupts)
    try:
        with block_interrupts():  # map() starts all processes
            results = pool.map(work, chunks)
        yield from results
    except BrokenProcessPool as error:
        raise EvaluationError(
            "a process that compares masks was killed; memory may be full: use fewer processes"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def compare_frames(sequence: MaskSequence, tolerance: float, ignored_labels: Collection[int] = ()) -> ComparedFrames:
    """Reads and compares all files of a sequence. Reports unusable files and skips frames with unusable files."""
    out = ComparedFrames()
    for name in sequence.names:
        try:
            agreements = compare_files(
                similar_path(sequence.pred, name),
                sequence.truth / name,
                sequence.object_id is not None,
                tolerance,
                ignored_labels,
            )
        except DatasetError as error:
            out.problems.append(str(error))
        else:
            out.frames.append(agreements)
    return out


def _video_score(plan: VideoPlan, compared: Iterator[ComparedFrames], done: Callable[[int], object]) -> VideoScore:
    """Returns the scores of a video from the results of its chunks."""
    if plan.problems:
        return VideoScore(plan.name, {}, tuple(plan.problems))
    objects: dict[ObjectId, ObjectScore] = {}
    problems: list[str] = []
    for sequence in plan.sequences:
        frames: list[dict[int, Agreement]] = []
        unread = len(problems)
        for piece in _pieces(sequence):
            result = next(compared)
            frames += result.frames
            problems += result.problems
            done(len(piece.names))
        scores = score_objects(frames)
        if sequence.object_id is None:
            shown = {i for frame in frames for i, agreement in frame.items() if agreement.in_pred}
            if scores and shown and shown.isdisjoint(scores):
                ids = [", ".join(map(str, sorted(values))) for values in (shown, scores)]
                problems.append(
                    f"{sequence.pred} and the truth share no object: its masks have the values {ids[0]}, the truth's "
                    f"{ids[1]}; write both with the same values"
                )
            objects.update(scores.items())
        elif scores:
            objects[sequence.object_id] = scores[1]
        elif not sequence.names:
            problems.append(f"{sequence.truth} {NO_FRAME}")
        elif len(problems) == unread:
            problems.append(f"{sequence.truth} shows its object in none of the {len(sequence.names)} frames that count")
    unpaired = tuple(plan.only_truth), tuple(plan.only_pred)
    count = sum(len(sequence.names) for sequence in plan.sequences)
    return VideoScore(plan.name, {} if problems else objects, tuple(problems), *unpaired, frames=count)
