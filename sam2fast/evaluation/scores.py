"""Scores of objects, videos and folders, and the official evaluator's ``results.csv``."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sam2fast.evaluation.j_and_f import BOTH_EMPTY, Agreement
from sam2fast.io.atomic import atomic_path

# A pixel value in the layout of DAVIS, the name of a folder in that of SA-V.
ObjectId: TypeAlias = int | str

RESULTS = "results.csv"
VOID = 255  # the value that DAVIS, VOST and Pascal VOC give to unlabelled pixels


@dataclass(frozen=True)
class ObjectScore:
    """The scores of one object in percent, means over its frames."""

    j: float
    f: float
    frames: int

    @property
    def j_and_f(self) -> float:
        return (self.j + self.f) / 2


class _ObjectMeans:
    """Means over objects, not over videos, in percent; NaN without one."""

    def _scores(self) -> Iterable[ObjectScore]:
        raise NotImplementedError

    @property
    def j(self) -> float:
        return _mean(score.j for score in self._scores())

    @property
    def f(self) -> float:
        return _mean(score.f for score in self._scores())

    @property
    def j_and_f(self) -> float:
        return (self.j + self.f) / 2


@dataclass(frozen=True)
class VideoScore(_ObjectMeans):
    """The scores of one video in percent; without objects if there are problems.

    Attributes:
        objects: those that the ground truth shows in the evaluated frames.
        problems: files that are missing or cannot be used, one line each.
        only_truth, only_pred: masks without one of the same name in the other folder, as ``FRAME.png`` or
            ``OBJECT/FRAME.png``; those of the truth are of frames that do not count, or ``problems``.
    """

    name: str
    objects: dict[ObjectId, ObjectScore]
    problems: tuple[str, ...] = ()
    only_truth: tuple[str, ...] = ()
    only_pred: tuple[str, ...] = ()

    def _scores(self) -> Iterable[ObjectScore]:
        return self.objects.values()


@dataclass(frozen=True)
class FolderScores(_ObjectMeans):
    """The scores of all videos of two folders in percent.

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
        """The objects of all videos."""
        return [score for video in self.videos for score in video.objects.values()]

    def _scores(self) -> Iterable[ObjectScore]:
        return self.objects

    @property
    def with_void(self) -> list[str]:
        """Names of the videos that have :data:`VOID` beside other objects, scored as an object."""
        return [video.name for video in self.videos if VOID in video.objects and len(video.objects) > 1]

    @property
    def problems(self) -> dict[str, tuple[str, ...]]:
        """The problems of videos by name; such videos are left out of the means."""
        return {video.name: video.problems for video in self.videos if video.problems}


def score_objects(frames: Sequence[dict[int, Agreement]]) -> dict[int, ObjectScore]:
    """Returns means over the frames of a video, in order, of the objects that the ground truth shows in any of them.

    An object counts from the first frame in which the truth or the prediction shows it. In later frames where neither
    does, they agree.
    """
    shown = sorted({i for frame in frames for i, agreement in frame.items() if agreement.in_truth})
    out = {}
    for i in shown:
        first = next(t for t, frame in enumerate(frames) if i in frame)
        measured = [frame.get(i, BOTH_EMPTY) for frame in frames[first:]]
        out[i] = ObjectScore(100 * _mean(m.j for m in measured), 100 * _mean(m.f for m in measured), len(measured))
    return out


def write_results_csv(file: Path, scores: FolderScores) -> None:
    """Writes the official ``results.csv`` atomically: global scores, then each object's, in percent."""
    videos = [video for video in scores.videos if not video.problems]
    total = "Global score"
    width = max(len(name) for name in (total, *(video.name for video in videos)))
    lines = [f"{'sequence':<{width}},obj,  J&F,    J,    F"]
    lines.append(f"{total:<{width}},   , {scores.j_and_f:.1f}, {scores.j:.1f}, {scores.f:.1f}")
    for video in videos:
        for i, score in video.objects.items():
            values = ", ".join(f"{value:>4.1f}" for value in (score.j_and_f, score.j, score.f))
            lines.append(f"{video.name:<{width}},{str(i).zfill(3)}, {values}")
    with atomic_path(file) as partial:
        # A file name that is invalid in this locale's encoding is written as its bytes.
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return math.fsum(known) / len(known) if known else math.nan
