"""Compares the files of :func:`track_job` with files of the official predictor by the official rules."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_contents import files_of
from parity import NARROW
from PIL import Image
from video import SMALL, build_video_pair, float32_memory
from vos_sets import OfficialInference, odd_colours, write_masks, write_video

from sam2fast.evaluation.vos import VosJob, VosSettings, track_job

FRAMES = 6
# Pixels of an image that may differ: where logits lie at the threshold, or equal another's, to rounding.
MARGIN = 3
# Three objects on the first frame, some of them on later ones again, and once with nothing of object 5.
FROM_THE_FIRST = {
    0: {1: (30, 30, 18), 3: (80, 50, 20), 5: (50, 75, 12)},
    3: {1: (36, 34, 18), 3: (74, 48, 16)},
    4: {1: (38, 36, 15), 3: (70, 46, 18), 5: (60, 70, 14)},
}
# One object appears late, one later still and with a second mask; one image is empty.
LATE = {0: {2: (30, 30, 18)}, 2: {2: (34, 32, 17), 7: (80, 50, 20)}, 3: {}, 4: {1: (50, 70, 14)}, 5: {1: (55, 68, 13)}}


@pytest.fixture(scope="module")
def predictors() -> tuple[Any, Any]:
    return build_video_pair(
        "sam2.1_t", ["++model.non_overlap_masks=true", *NARROW], image_size=SMALL, apply_postprocessing=False
    )


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "a", FRAMES)


def compare(predictors: Any, video: Path, folder: Path, settings: VosSettings) -> dict[str, Any]:
    """Tracks the video with both; returns the images of sam2fast by path."""
    official, ours = predictors
    official.non_overlap_masks = ours.non_overlap_masks = not settings.per_object
    done = track_job(ours, VosJob("a", video, folder / "masks", folder / "out", settings))
    assert done.problem is None
    options = dataclasses.asdict(settings)
    late_objects, _ = options.pop("late_objects"), options.pop("ignored_labels")
    found = {path: Image.open(folder / "out/a" / path) for path in files_of(folder / "out/a")}
    with float32_memory():
        expected = list(OfficialInference(official, video, folder / "masks", **options).images(late_objects))
    assert sorted(found) == sorted(path for path, _, _ in expected)
    assert done.frames == len({Path(path).name for path in found})
    shown: set[int] = set()
    for path, labels, colours in expected:
        assert found[path].mode == "P" and bytes(found[path].getpalette()) == colours
        pixels = np.array(found[path])
        assert pixels.shape == labels.shape and (pixels != labels).sum() <= MARGIN, path
        shown |= set(np.unique(labels).tolist())
    # An object that loses an overlap has a logit of -10: below it, all are present, and the smallest id is shown.
    objects = 0 if settings.score_thresh < -10 else 1 if settings.per_object else done.objects
    assert len(shown) == objects + 1
    return found


BEGINS_LATE = {2: {1: (34, 32, 17)}, 4: {1: (38, 36, 15)}}
FIRST_AND_FOURTH = {t: FROM_THE_FIRST[t] for t in (0, 4)}


@pytest.mark.parametrize(
    ("masks", "settings", "first"),
    [
        (FROM_THE_FIRST, VosSettings(), 0),
        (FROM_THE_FIRST, VosSettings(all_masks=True), 0),
        (FROM_THE_FIRST, VosSettings(-10.5), 0),
        (BEGINS_LATE, VosSettings(all_masks=True), 2),  # tracking begins with the first mask, and so do the files
        (FIRST_AND_FOURTH, VosSettings(1.5, all_masks=True, per_object=True), 0),
    ],
    ids=["first masks", "all masks", "low threshold", "the first is late", "per object"],
)
def test_prompts_and_thresholds(predictors, video, tmp_path, masks, settings, first):
    """The palette is that of the first image; images of no frame are ignored."""
    write_masks(tmp_path / "masks", masks, settings.per_object, colours=odd_colours())
    if not settings.all_masks:
        write_masks(tmp_path / "masks", {2: {9: (40, 40, 9)}})  # is ignored, also its palette
    elif not settings.per_object:
        (tmp_path / "masks/00099.png").write_text("of no frame")
    names = {Path(path).name for path in compare(predictors, video, tmp_path, settings)}
    assert names == {f"{t:05d}.png" for t in range(first, FRAMES)}


def test_per_object(predictors, video, tmp_path):
    overlapping = {0: {0: (30, 30, 20), 1: (42, 36, 20), 12: (80, 60, 15)}}
    write_masks(tmp_path / "masks", overlapping, per_object=True, colours=odd_colours())
    found = compare(predictors, video, tmp_path, VosSettings(per_object=True))
    assert {path.split("/")[0] for path in found} == {"000", "001", "012"}
    masks = [np.array(found[f"{i:03d}/00000.png"]) > 0 for i in (0, 1)]
    assert (masks[0] & masks[1]).any()


@pytest.mark.parametrize("all_masks", [False, True])
@pytest.mark.parametrize("per_object", [False, True])
def test_late_objects(predictors, video, tmp_path, all_masks, per_object):
    """One propagation for all objects equals one for each."""
    write_masks(tmp_path / "masks", LATE, per_object, odd_colours())
    found = compare(predictors, video, tmp_path, VosSettings(0.0, all_masks, per_object, late_objects=True))
    before = found["007/00001.png"] if per_object else found["00001.png"]
    assert 7 not in np.unique(before) and (not per_object or not np.array(before).any())


def test_late_objects_of_a_video_that_begins_without_any(predictors, video, tmp_path):
    write_masks(tmp_path / "masks", {3: {4: (40, 40, 20)}})
    found = compare(predictors, video, tmp_path, VosSettings(late_objects=True))
    assert [t for t, path in enumerate(found) if not np.array(found[path]).any()][:3] == [0, 1, 2]


def test_an_object_that_comes_after_more_frames_than_are_remembered(predictors, tmp_path):
    """Discarded memories are not needed by later propagation."""
    video = write_video(tmp_path / "videos/a", 22)
    write_masks(tmp_path / "masks", {0: {1: (30, 30, 18)}, 18: {2: (80, 50, 20)}})
    compare(predictors, video, tmp_path, VosSettings(late_objects=True))
