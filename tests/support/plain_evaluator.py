"""A reference implementation of J&F for folders: the official evaluator's rules, without optimisation."""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

ByObject = dict[Any, tuple[float, float]]  # J and F in percent


@lru_cache
def disk(radius: int) -> np.ndarray:
    """The disk of scikit-image; a test compares."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return x**2 + y**2 <= radius**2


def outline(mask: np.ndarray) -> np.ndarray:
    right, below, corner = np.zeros((3, *mask.shape), dtype=bool)
    right[:, :-1] = mask[:, 1:]
    below[:-1] = mask[1:]
    corner[:-1, :-1] = mask[1:, 1:]
    out = (mask != right) | (mask != below) | (mask != corner)
    out[-1] = mask[-1] != right[-1]
    out[:, -1] = mask[:, -1] != below[:, -1]
    out[-1, -1] = False
    return out


def j_of(pred: np.ndarray, truth: np.ndarray) -> float:
    both, either = (pred & truth).sum(), (pred | truth).sum()
    return both / either if either else 1.0


def f_of(pred: np.ndarray, truth: np.ndarray, tolerance: float = 0.008) -> float:
    radius = math.ceil(tolerance * math.sqrt(pred.shape[0] ** 2 + pred.shape[1] ** 2))
    a, b = outline(pred), outline(truth)
    near_a, near_b = (ndimage.binary_dilation(mask, disk(radius)) for mask in (a, b))
    if not a.any() or not b.any():
        precision, recall = float(not a.any()), float(not b.any())
    else:
        precision, recall = (a & near_b).sum() / a.sum(), (b & near_a).sum() / b.sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def evaluate_frames(pairs: list[tuple[Path, Path]], one_object: bool) -> ByObject:
    """Of (prediction, truth) in order; an object counts from where either first shows it, if the truth ever does."""
    values: dict[int, list[tuple[float, float]]] = {}
    in_truth: set[int] = set()
    for pred_file, truth_file in pairs:
        assert pred_file.exists(), f"{pred_file} not found"
        pred, truth = np.array(Image.open(pred_file)), np.array(Image.open(truth_file))
        assert pred.shape == truth.shape, f"shape mismatch: {pred_file}, {truth_file}"
        if one_object:
            assert len(np.unique(pred)) <= 2 and len(np.unique(truth)) <= 2, f"more than one object: {pred_file}"
            pred, truth = pred > 0, truth > 0
        shown = [{int(i) for i in np.unique(labels) if i} for labels in (pred, truth)]
        in_truth |= shown[1]
        for i in shown[0] | shown[1]:
            values.setdefault(i, [])
        for i, measured in values.items():
            measured.append((j_of(pred == i, truth == i), f_of(pred == i, truth == i)))
    return {i: tuple(np.mean(values[i], axis=0) * 100) for i in sorted(in_truth)}


def evaluate_video(truth: Path, pred: Path, name: str, skip: bool = True) -> tuple[str, ByObject]:
    """Ids as numbers in the layout of DAVIS, as names of folders in that of SA-V."""
    part = slice(1, -1) if skip else slice(None)
    entries = sorted(path.name for path in (truth / name).iterdir())
    if all(entry.endswith(".png") for entry in entries):
        return name, evaluate_frames([(pred / name / e, truth / name / e) for e in entries[part]], False)
    out = {}
    for entry in entries:
        files = sorted(path.name for path in (truth / name / entry).iterdir())[part]
        pairs = [(pred / name / entry / file, truth / name / entry / file) for file in files]
        found = evaluate_frames(pairs, True)
        assert len(found) == 1, f"{name}/{entry} is never shown"
        out[entry] = found[1]
    return name, out


def evaluate(truth: Path, pred: Path, skip: bool = True) -> dict[str, ByObject]:
    """Every video that both folders have."""
    names = sorted(path.name for path in truth.iterdir() if path.is_dir() and (pred / path.name).is_dir())
    return dict(evaluate_video(truth, pred, name, skip) for name in names)


def overall(videos: dict[str, ByObject]) -> tuple[float, float, float]:
    """J&F, J and F over all objects."""
    j, f = np.mean([values for objects in videos.values() for values in objects.values()], axis=0)
    return (j + f) / 2, j, f


def assert_same(scores: Any, expected: dict[str, ByObject]) -> None:
    """What ``evaluate_folders`` gives against what :func:`evaluate` gives: videos, objects and their order, values."""
    found = {video.name: {i: (score.j, score.f) for i, score in video.objects.items()} for video in scores.videos}
    assert {name: list(objects) for name, objects in found.items()} == {
        name: list(objects) for name, objects in expected.items()
    }
    for name, objects in expected.items():
        for i, values in objects.items():
            np.testing.assert_allclose(found[name][i], values, rtol=0, atol=1e-9, err_msg=f"{name}, object {i}")
