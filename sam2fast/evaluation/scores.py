"""Scores of objects, videos and folders, and the official evaluator's ``results.csv``."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sam2fast.evaluation.j_and_f import BOTH_EMPTY, Agreement
from sam2fast.io.atomic import atomic_path
from sam2fast.io.image_names import utf8_text

# Id of an object: pixel value in the layout of DAVIS, or folder name in the layout of SA-V.
ObjectId: TypeAlias = int | str

RESULTS = "results.csv"
VOID = 255  # value of unlabeled pixels in DAVIS, VOST and Pascal VOC


@dataclass(frozen=True)
class ObjectScore:
    """Scores of one object in percent: means over the object's frames."""

    j: float
    f: float
    frames: int

    @property
    def j_and_f(self) -> float:
        return (self.j + self.f) / 2


class _ObjectMeans:
    """Means over objects, not over videos, in percent; NaN without objects."""

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
    """Scores of one video in percent. A video with problems has no objects.

    Attributes:
        objects: objects that the ground truth shows in the evaluated frames.
        problems: one line per missing or unusable file.
        only_truth, only_pred: masks that are missing in the other folder, as ``FRAME.png`` or ``OBJECT/FRAME.png``.
            Masks in ``only_truth`` belong to frames that are not evaluated, or are listed in ``problems``.
        frames: number of evaluated frames; for folders of objects, of all objects.
    """

    name: str
    objects: dict[ObjectId, ObjectScore]
    problems: tuple[str, ...] = ()
    only_truth: tuple[str, ...] = ()
    only_pred: tuple[str, ...] = ()
    frames: int = 0

    def _scores(self) -> Iterable[ObjectScore]:
        return self.objects.values()


@dataclass(frozen=True)
class FolderScores(_ObjectMeans):
    """Scores of all videos of two folders in percent.

    Attributes:
        truth, pred: folders of videos.
        videos: scores, sorted by name.
        only_truth, only_pred: videos that are missing in the other folder.
    """

    truth: Path
    pred: Path
    videos: tuple[VideoScore, ...]
    only_truth: tuple[str, ...] = ()
    only_pred: tuple[str, ...] = ()

    @property
    def objects(self) -> list[ObjectScore]:
        """Returns the objects of all videos."""
        return [score for video in self.videos for score in video.objects.values()]

    def _scores(self) -> Iterable[ObjectScore]:
        return self.objects

    @property
    def with_void(self) -> list[str]:
        """Returns the names of videos that have :data:`VOID` in addition to other objects, scored as an object."""
        return [video.name for video in self.videos if VOID in video.objects and len(video.objects) > 1]

    @property
    def problems(self) -> dict[str, tuple[str, ...]]:
        """Returns the problems of videos by name. Videos with problems do not count in the means."""
        return {video.name: video.problems for video in self.videos if video.problems}


def score_objects(frames: Sequence[dict[int, Agreement]]) -> dict[int, ObjectScore]:
    """Returns means over the frames of a video, for objects that the ground truth shows on any frame.

    An object counts from the first frame on which truth or prediction show the object. On a later frame on which
    neither shows the object, J and F are 1.
    """
    shown = sorted({i for frame in frames for i, agreement in frame.items() if agreement.in_truth})
    out = {}
    for i in shown:
        first = next(t for t, frame in enumerate(frames) if i in frame)
        measured = [frame.get(i, BOTH_EMPTY) for frame in frames[first:]]
        out[i] = ObjectScore(100 * _mean(m.j for m in measured), 100 * _mean(m.f for m in measured), len(measured))
    return out


def write_results_csv(file: Path, scores: FolderScores) -> None:
    """Writes the official ``results.csv`` atomically: global scores, then scores of each object, in percent."""
    videos = [video for video in scores.videos if not video.problems]
    total = "Global score"
    width = max(len(name) for name in (total, *(video.name for video in videos)))
    lines = [f"{'sequence':<{width}},obj,  J&F,    J,    F"]
    lines.append(f"{total:<{width}},   , {scores.j_and_f:.1f}, {scores.j:.1f}, {scores.f:.1f}")
    for video in videos:
        for i, score in video.objects.items():
            values = ", ".join(f"{value:>4.1f}" for value in (score.j_and_f, score.j, score.f))
            lines.append(f"{utf8_text(video.name):<{width}},{str(i).zfill(3)}, {values}")
    with atomic_path(file) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return math.fsum(known) / len(known) if known else math.nan
