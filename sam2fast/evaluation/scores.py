"""Scores of objects, videos and whole folders, and the file that the official evaluator writes of them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sam2fast.evaluation.label_maps import BOTH_EMPTY, Agreement
from sam2fast.io.atomic import moved_to

# An index in the pictures in the layout of DAVIS, the name of a folder in that of SA-V.
ObjectId: TypeAlias = int | str

RESULTS = "results.csv"


@dataclass(frozen=True)
class ObjectScore:
    """Of one object, in percent: means over its frames."""

    j: float
    f: float
    frames: int

    @property
    def j_and_f(self) -> float:
        return (self.j + self.f) / 2


@dataclass(frozen=True)
class VideoScore:
    """Of one video, in percent; without objects if there were problems.

    Attributes:
        objects: those that the truth shows in the frames that count.
        problems: files that are missing or cannot be used, one line each.
    """

    name: str
    objects: dict[ObjectId, ObjectScore]
    problems: tuple[str, ...] = ()

    @property
    def j(self) -> float:
        """The mean over the objects; NaN without one."""
        return _mean(score.j for score in self.objects.values())

    @property
    def f(self) -> float:
        """The mean over the objects; NaN without one."""
        return _mean(score.f for score in self.objects.values())

    @property
    def j_and_f(self) -> float:
        return (self.j + self.f) / 2


@dataclass(frozen=True)
class FolderScores:
    """Of all videos of two folders, in percent.

    Attributes:
        truth, pred: the folders of videos.
        videos: sorted by name.
        only_truth, only_pred: videos that the other folder lacks.
    """

    truth: Path
    pred: Path
    videos: tuple[VideoScore, ...]
    only_truth: tuple[str, ...] = ()
    only_pred: tuple[str, ...] = ()

    @property
    def objects(self) -> list[ObjectScore]:
        """Of all videos."""
        return [score for video in self.videos for score in video.objects.values()]

    @property
    def j(self) -> float:
        """The mean over all objects, not over videos; NaN without one."""
        return _mean(score.j for score in self.objects)

    @property
    def f(self) -> float:
        """The mean over all objects, not over videos; NaN without one."""
        return _mean(score.f for score in self.objects)

    @property
    def j_and_f(self) -> float:
        return (self.j + self.f) / 2

    @property
    def problems(self) -> dict[str, tuple[str, ...]]:
        """By the name of the video, which is left out of the means."""
        return {video.name: video.problems for video in self.videos if video.problems}


def score_objects(frames: Sequence[dict[int, Agreement]]) -> dict[int, ObjectScore]:
    """Means over the frames in order, of the objects that the truth shows in any of them.

    An object counts from the first frame on where the truth or the prediction shows it; where neither does, later, they
    agree.
    """
    shown = sorted({i for frame in frames for i, agreement in frame.items() if agreement.in_truth})
    out = {}
    for i in shown:
        first = next(t for t, frame in enumerate(frames) if i in frame)
        measured = [frame.get(i, BOTH_EMPTY) for frame in frames[first:]]
        out[i] = ObjectScore(100 * _mean(m.j for m in measured), 100 * _mean(m.f for m in measured), len(measured))
    return out


def results_csv(scores: FolderScores) -> str:
    """The text of the official ``results.csv``: all objects together, then each one, in percent with one decimal."""
    videos = [video for video in scores.videos if not video.problems]
    whole = "Global score"
    width = max(len(name) for name in (whole, *(video.name for video in videos)))
    lines = [f"{'sequence':<{width}},obj,  J&F,    J,    F"]
    lines.append(f"{whole:<{width}},   , {scores.j_and_f:.1f}, {scores.j:.1f}, {scores.f:.1f}")
    for video in videos:
        for i, score in video.objects.items():
            values = ", ".join(f"{value:>4.1f}" for value in (score.j_and_f, score.j, score.f))
            lines.append(f"{video.name:<{width}},{str(i).zfill(3)}, {values}")
    return "\n".join(lines) + "\n"


def write_results_csv(file: Path, scores: FolderScores) -> None:
    """Writes the official ``results.csv``, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with moved_to(file) as partial:
        # A name that is no text in this locale is written as it is on the disk.
        partial.write_text(results_csv(scores), encoding="utf-8", errors="surrogateescape")


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return math.fsum(known) / len(known) if known else math.nan
