"""J&F of predicted masks in folders, by the rules of the official ``sav_dataset/sav_evaluator.py``, in many processes.

Neither torch nor anything else that is slow to load is needed. Each picture is decoded once; see docs/evaluation.md.
"""

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from sam2fast.datasets.errors import DatasetError
from sam2fast.deploy.parallel.process import interrupts_held_back
from sam2fast.deploy.parallel.worker import leave_interrupts_to_the_parent
from sam2fast.evaluation.j_and_f import TOLERANCE
from sam2fast.evaluation.label_maps import Agreement, compare_files
from sam2fast.evaluation.mask_folders import EvaluationError, MaskSequence, VideoPlan, pair_videos, plan_video
from sam2fast.evaluation.scores import (
    RESULTS,
    FolderScores,
    ObjectId,
    ObjectScore,
    VideoScore,
    score_objects,
    write_results_csv,
)

# Frames of a video that a process takes at a time, so that one long video keeps several busy.
FRAMES_AT_ONCE = 32
# A process is started for so many: fewer are done sooner than it is there.
FRAMES_FOR_A_PROCESS = 192


@dataclass
class ComparedFrames:
    """Of some frames of a sequence, in order: the objects of each, and what cannot be read."""

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
    progress: bool = False,
    on_video: Callable[[VideoScore], None] | None = None,
) -> FolderScores:
    """Scores the videos that are in both folders, each in the layout of DAVIS or of SA-V.

    A video with a missing or damaged file, or one of another size, has its problems named and counts in no mean. Where
    several processes are started they import the program's main file: keep the call below ``if __name__ ==
    "__main__":`` in a script.

    Args:
        truth, pred: folders of videos; for ``truth`` also one that has them in ``Annotations``.
        strict: both folders must have the same videos.
        processes: at most so many; by default one for each core that may be used.
        skip_first_and_last: leaves out the first annotated frame of each video, or object in the layout of SA-V, and
            the last.
        tolerance: of outlines, as a share of the picture's diagonal.
        progress: shows a bar on stderr, if that is a terminal.
        on_video: called with each video when it is done, in order.

    Raises:
        EvaluationError: a folder cannot be read, no video is in both, or they differ with ``strict``; a process was
            killed.
        ValueError: ``processes`` is below 1.
    """
    if processes is not None and processes < 1:
        raise ValueError(f"processes is {processes}; expected 1 or more")
    pair = pair_videos(Path(truth), Path(pred), strict)
    plans = [plan_video(pair, name, skip_first_and_last) for name in pair.videos]
    chunks = [chunk for plan in plans for chunk in _chunks(plan)]
    total = sum(len(chunk.names) for chunk in chunks)
    workers = min(_cores() if processes is None else processes, max(1, total // FRAMES_FOR_A_PROCESS))
    videos = []
    with (
        tqdm(total=total, unit="frame", disable=None if progress else True) as bar,
        closing(_compared(chunks, tolerance, workers)) as compared,
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
    """The official function: scores pairs of folders, and writes a ``results.csv`` into each of ``mask_roots``.

    Returns:
        J&F, J and F of each pair in percent, and for each pair J and F of each object of each video.

    Raises:
        EvaluationError: as :func:`evaluate_folders`; or files of a video are missing or cannot be used, which names all
            of them. Nothing is written then.
        ValueError: the lists are of different lengths.
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
    objects = [{video.name: _j_and_f_by_object(video) for video in scores.videos} for scores in results]
    return [s.j_and_f for s in results], [s.j for s in results], [s.f for s in results], objects


def _j_and_f_by_object(video: VideoScore) -> tuple[dict[ObjectId, float], dict[ObjectId, float]]:
    scores = video.objects.items()
    return {i: score.j for i, score in scores}, {i: score.f for i, score in scores}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _chunks(plan: VideoPlan) -> Iterator[MaskSequence]:
    """The work on a video that can be used, in pieces; none of it if something is missing."""
    if not plan.problems:
        for sequence in plan.sequences:
            yield from _pieces(sequence)


def _pieces(sequence: MaskSequence) -> list[MaskSequence]:
    starts = range(0, len(sequence.names), FRAMES_AT_ONCE)
    return [replace(sequence, names=sequence.names[start : start + FRAMES_AT_ONCE]) for start in starts]


def _compared(
    chunks: Sequence[MaskSequence], tolerance: float, processes: int
) -> Generator[ComparedFrames, None, None]:
    """What became of each, in order."""
    work = partial(compare_frames, tolerance=tolerance)
    if processes == 1:
        yield from map(work, chunks)
        return
    # Not forked: the caller may have threads, which do not survive it.
    pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=leave_interrupts_to_the_parent)
    try:
        with interrupts_held_back():  # all processes are started here
            results = pool.map(work, chunks)
        yield from results
    except BrokenProcessPool as error:
        raise EvaluationError(
            "a process that compares masks is gone, as when memory runs out; try with fewer processes"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def compare_frames(sequence: MaskSequence, tolerance: float) -> ComparedFrames:
    """Reads and compares all files of a sequence; one that cannot be used is a problem, and has no objects."""
    out = ComparedFrames()
    for name in sequence.names:
        try:
            found = compare_files(
                sequence.pred / name, sequence.truth / name, sequence.object_id is not None, tolerance
            )
        except DatasetError as error:
            out.problems.append(str(error))
        else:
            out.frames.append(found)
    return out


def _video_score(plan: VideoPlan, compared: Iterator[ComparedFrames], done: Callable[[int], object]) -> VideoScore:
    """Takes what became of the video's chunks, and puts it together."""
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
            objects.update(scores.items())
        elif scores:
            objects[sequence.object_id] = scores[1]
        elif len(problems) == unread:
            problems.append(f"{sequence.truth} shows its object in none of the {len(sequence.names)} frames that count")
    return VideoScore(plan.name, {} if problems else objects, tuple(problems))
