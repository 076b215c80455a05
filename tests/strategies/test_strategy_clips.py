"""The synthetic clips of ``examples/strategy_clips.py`` show what they are for."""

import functools
import json

import numpy as np
import pytest
import strategy_clips
from small_video import SIZE
from strategy_clips import KINDS

from sam2fast import nano
from sam2fast.build_sam import build_sam2_video_predictor

MEMORIES = 7
strategy_clip = functools.cache(strategy_clips.strategy_clip)


def centres(masks):
    """Of each frame's mask ``(T, H, W)``, in shares of the frame; NaN where there is none."""
    found = np.full((len(masks), 2), np.nan)
    for t, mask in enumerate(masks):
        if mask.any():
            found[t] = np.argwhere(mask).mean(0) / len(mask)
    return found


@pytest.mark.parametrize("kind", ["crossing", "hidden", "returning"])
@pytest.mark.parametrize("index", range(6))
def test_clips(kind, index):
    clip = strategy_clip(kind, index, SIZE)
    frames, objects = clip.masks.shape[:2]
    assert clip.frames.shape == (frames, SIZE, SIZE, 3) and 24 <= frames <= 48
    assert (clip.masks[0].mean((1, 2)) > 0.01).all() and (clip.masks.sum(1) <= 1).all()
    areas, places = clip.masks.sum((2, 3)), [centres(masks) for masks in clip.masks.swapaxes(0, 1)]
    if kind == "crossing":
        first, last = (places[0][t] - places[1][t] for t in (0, -1))
        assert objects == 2 and areas.min() < 0.7 * areas.max()
        assert np.hypot(*first) > 0.4 and np.hypot(*last) > 0.4
        return
    gone = np.flatnonzero(areas[:, 0] == 0)
    assert objects == 1 and len(gone) > MEMORIES and (np.diff(gone) == 1).all()
    assert gone[0] > 0 and gone[-1] < frames - 1
    before, after = places[0][gone[0] - 1], places[0][gone[-1] + 1]
    jump = np.abs(after - before).max()
    assert jump > 0.6 if kind == "returning" else 0.2 < jump < 0.6


@pytest.mark.parametrize(("kind", "least", "most"), [("crowd", 3, 6), ("camera", 2, 3)])
def test_clips_of_several(kind, least, most):
    clips = [strategy_clip(kind, index, SIZE) for index in range(12)]
    assert {clip.masks.shape[1] for clip in clips} == set(range(least, most + 1))
    nearest, scales, left = [], [], 0
    for clip in clips:
        frames, objects = clip.masks.shape[:2]
        assert clip.frames.shape == (frames, SIZE, SIZE, 3) and 24 <= frames <= 40
        assert clip.object_ids == tuple(range(1, objects + 1)) and (clip.masks.sum(1) <= 1).all()
        areas, places = clip.masks.sum((2, 3)), np.stack([centres(masks) for masks in clip.masks.swapaxes(0, 1)])
        assert (areas[0] > 0.3 * areas.max(0)).all()
        apart = np.hypot(*(places[:, None] - places[None])[np.triu_indices(objects, 1)].transpose(2, 0, 1))
        assert apart[:, 0].min() > 0.2  # of all pairs (P, T): apart on the first frame, ...
        nearest.append(np.nanmin(apart))  # ... near each other later
        scales.append((areas.max(0) / areas[0]).max())
        left += (areas[-1] == 0).sum()
    assert np.median(nearest) < 0.1 and max(scales) > 1.5 and (left > 0) == (kind == "crowd")


def test_camera_moves():
    """The background changes between the first frame and the last, unlike that of a crowd."""

    def change(kind, index):
        clip = strategy_clip(kind, index, SIZE)
        seen = ~clip.masks[[0, -1]].any((0, 1))
        return np.abs(clip.frames[0].astype(int) - clip.frames[-1])[seen].mean()

    camera, crowd = (np.median([change(kind, index) for index in range(12)]) for kind in ("camera", "crowd"))
    assert camera > 2 * crowd


# Of clip 0 at 128x128: the frames, areas of the masks on the first, tenth and last one, and their mean brightness.
PINNED = {
    "crossing": (24, [[485, 491], [484, 385], [489, 480]], [106.9, 108.8, 106.6]),
    "hidden": (37, [[470], [20], [472]], [112.0, 111.8, 111.5]),
    "returning": (39, [[475], [0], [477]], [105.7, 109.1, 106.3]),
    "crowd": (
        29,
        [[207, 206, 204, 208, 209, 207], [107, 153, 48, 165, 217, 258], [0, 0, 416, 195, 342, 142]],
        [73.0, 72.7, 72.5],
    ),
    "camera": (36, [[350, 351, 352], [592, 301, 231], [679, 205, 356]], [24.1, 26.4, 36.1]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_clips_stay_as_they_were_measured(kind):
    clip = strategy_clip(kind, 0, SIZE)
    frames, areas, brightness = PINNED[kind]
    assert len(clip.frames) == frames
    # Other versions of NumPy and Pillow may round otherwise.
    assert np.abs(clip.masks[[0, 9, -1]].sum((2, 3)) - areas).max() <= 3
    assert np.allclose(clip.frames[[0, 9, -1]].mean((1, 2, 3)), brightness, atol=0.5)


def test_clips_are_the_same_again_and_differ_from_each_other():
    clips = [strategy_clips.strategy_clip("hidden", index, SIZE) for index in (0, 0, 1)]
    assert np.array_equal(clips[0].frames, clips[1].frames) and np.array_equal(clips[0].masks, clips[1].masks)
    assert not np.array_equal(clips[0].frames[0], clips[2].frames[0])


def test_the_look_alike_may_be_tracked_too():
    one, both = (strategy_clip("returning", 0, SIZE, both=both) for both in (False, True))
    assert np.array_equal(one.frames, both.frames) and np.array_equal(one.masks[:, 0], both.masks[:, 0])
    assert both.masks.shape[1] == 2 and both.masks[:, 1].any((1, 2)).all()


@pytest.mark.parametrize(("covered", "expected"), [
    (("a", "b"), "right"), (("b", "a"), "swapped"), (("ab", "b"), "merged"), (("", "ab"), "merged"),
    (("a", "a"), "other"),
])  # fmt: skip
def test_where_masks_end(covered, expected):
    """On the last frames; of another object less than half may be covered."""
    truth, found = np.zeros((2, 8, 2, 4, 8), bool)
    half = {"a": np.s_[-4:, :, :4], "b": np.s_[-4:, :, 4:]}
    truth[:, 0, :, :4] = truth[:, 1, :, 4:] = True
    found[:4] = True
    for i, names in enumerate(covered):
        for name in names:
            found[:, i][half[name]] = True
        found[:, i, 0] = True  # a quarter of each
    assert strategy_clips.outcome(found, truth) == expected


@pytest.mark.slow
def test_example_runs(monkeypatch, tmp_path, capsys):
    overrides = [f"++model.image_size={SIZE}"]
    predictor = build_sam2_video_predictor(nano.CONFIG, nano.WEIGHTS, device="cpu", hydra_overrides_extra=overrides)
    monkeypatch.setattr(strategy_clips, "packaged", lambda model, device: predictor)
    options = ["--kinds", "returning", "--clips", "1", "--size", str(SIZE), "--show", f"{tmp_path}"]
    options += ["--strategy", "sam2", "sam2long"]
    strategy_clips.main([*options, "--out", f"{tmp_path}/rows.json"])
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert rows[0]["more"] == 0 and abs(rows[1]["J&F"] - rows[0]["J&F"] - rows[1]["more"]) < 0.02
    assert [(row["clips"], row["strategy"]) for row in rows] == [("returning", "sam2"), ("returning", "sam2long")]
    assert all(0 < row["J&F"] <= 100 and row["model"] == "nano" for row in rows)
    assert (tmp_path / "returning_0.gif").stat().st_size > 10_000 and "J&F" in capsys.readouterr().out
