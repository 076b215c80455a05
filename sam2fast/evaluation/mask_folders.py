"""Which masks of two folders are set against each other: videos, layouts and frames.

The rules are those of the official ``sav_dataset/sav_evaluator.py``. A video whose entries are all PNGs is in the
layout of DAVIS: a PNG is a frame with the ids of its objects. Otherwise it is in that of SA-V: a folder for each
object, a PNG for each annotated frame. The truth decides; the prediction must have files of the same names. Hidden
files do not count.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

ANNOTATIONS = "Annotations"


class EvaluationError(RuntimeError):
    """Folders that cannot be set against each other, or not without leaving something out."""


@dataclass(frozen=True)
class VideoPair:
    """The videos of two folders.

    Attributes:
        truth: the folder of videos, which may be ``Annotations`` in the one that was asked for.
        videos: names that are in both, sorted.
        only_truth, only_pred: the other names.
    """

    truth: Path
    pred: Path
    videos: tuple[str, ...]
    only_truth: tuple[str, ...] = ()
    only_pred: tuple[str, ...] = ()


@dataclass(frozen=True)
class MaskSequence:
    """Masks of a video's frames: of all its objects in one picture each, or of one object.

    Attributes:
        object_id: the name of the object's folder; None in the layout of DAVIS.
        truth, pred: the folders of the files.
        names: of the files that count, sorted.
    """

    object_id: str | None
    truth: Path
    pred: Path
    names: tuple[str, ...]


@dataclass
class VideoPlan:
    """What is to be read of a video, or why it cannot be used."""

    name: str
    sequences: list[MaskSequence] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def pair_videos(truth: Path, pred: Path, strict: bool) -> VideoPair:
    """The videos that both folders have.

    ``Annotations`` in the truth's folder stands for it if the two have different numbers of entries, as in the
    original, or if nothing would be compared otherwise.

    Args:
        strict: both must have the same videos.

    Raises:
        EvaluationError: a folder cannot be read, they have no video in common, or not the same ones with ``strict``.
    """
    entries = {root: _entries(root) for root in (truth, pred)}
    found = _in_both(truth, pred)
    inner = truth / ANNOTATIONS
    if len(entries[truth]) != len(entries[pred]) or not found.videos:
        has_videos = inner.is_dir() and not any(".png" in name for name in _entries(inner))
        found = _in_both(inner, pred) if has_videos else found
    if strict and (found.only_truth or found.only_pred):
        parts = [
            f"videos that are in {there} but not in {missing}: {', '.join(names)}"
            for there, missing, names in (
                (found.truth, pred, found.only_truth),
                (pred, found.truth, found.only_pred),
            )
            if names
        ]
        raise EvaluationError("; ".join(parts))
    if not found.videos:
        raise EvaluationError(
            f"no video is in both {found.truth} and {pred}; expected folders of the same names, with PNGs of the same "
            "names"
        )
    return found


def plan_video(pair: VideoPair, name: str, skip_first_and_last: bool) -> VideoPlan:
    """The files of a video that count; without the first and the last annotated ones, unless they are to be kept."""
    plan = VideoPlan(name)
    truth, pred = pair.truth / name, pair.pred / name
    part = slice(1, -1) if skip_first_and_last else slice(None)
    entries = _visible(truth)
    if all(entry.endswith(".png") for entry in entries):
        plan.sequences.append(MaskSequence(None, truth, pred, tuple(entries[part])))
    else:
        for entry in entries:
            if (truth / entry).is_dir():
                names = tuple(_visible(truth / entry)[part])
                plan.sequences.append(MaskSequence(entry, truth / entry, pred / entry, names))
            else:
                plan.problems.append(
                    f"{truth / entry} is no folder: expected PNGs of frames alone, or folders of objects alone"
                )
    for sequence in plan.sequences:
        plan.problems += _missing(sequence)
    return plan


def _in_both(truth: Path, pred: Path) -> VideoPair:
    truths, preds = (
        {name for name in _entries(root) if not name.startswith(".") and (root / name).is_dir()}
        for root in (truth, pred)
    )
    both, only_truth, only_pred = (tuple(sorted(names)) for names in (truths & preds, truths - preds, preds - truths))
    return VideoPair(truth, pred, both, only_truth, only_pred)


def _missing(sequence: MaskSequence) -> list[str]:
    if not sequence.names:
        return []
    if not sequence.pred.is_dir():
        return [f"{sequence.pred} is missing: the truth has {sequence.truth}"]
    there = set(_entries(sequence.pred))
    gone = [name for name in sequence.names if name not in there]
    if not gone:
        return []
    return [f"{len(gone)} of {len(sequence.names)} masks are missing in {sequence.pred}: {', '.join(gone)}"]


def _visible(folder: Path) -> list[str]:
    return sorted(name for name in _entries(folder) if not name.startswith("."))


def _entries(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise EvaluationError(f"the folder {str(folder)!r} cannot be read: {error.strerror or error}") from error
