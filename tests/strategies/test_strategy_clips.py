"""The synthetic clips of ``examples/strategy_clips.py`` show what they are for."""

import json

import numpy as np
import pytest
import strategy_clips
from small_video import SIZE
from strategy_clips import KINDS, strategy_clip

from sam2fast import nano
from sam2fast.build_sam import build_sam2_video_predictor

MEMORIES = 7


def centres(masks):
    """Of each frame's mask ``(T, H, W)``, in shares of the frame; NaN where there is none."""
    found = np.full((len(masks), 2), np.nan)
    for t, mask in enumerate(masks):
        if mask.any():
            found[t] = np.argwhere(mask).mean(0) / len(mask)
    return found


@pytest.mark.parametrize("kind", KINDS)
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


def test_clips_are_the_same_again_and_differ_from_each_other():
    clips = [strategy_clip("hidden", index, SIZE) for index in (0, 0, 1)]
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


def test_example_runs(monkeypatch, tmp_path, capsys):
    overrides = [f"++model.image_size={SIZE}"]
    predictor = build_sam2_video_predictor(nano.CONFIG, nano.WEIGHTS, device="cpu", hydra_overrides_extra=overrides)
    monkeypatch.setattr(strategy_clips, "nano", lambda device: predictor)
    options = ["--kinds", "returning", "--clips", "1", "--size", str(SIZE), "--show", f"{tmp_path}"]
    options += ["--strategy", "sam2", "sam2long"]
    strategy_clips.main([*options, "--out", f"{tmp_path}/rows.json"])
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert rows[0]["more"] == 0 and abs(rows[1]["J&F"] - rows[0]["J&F"] - rows[1]["more"]) < 0.02
    assert [(row["clips"], row["strategy"]) for row in rows] == [("returning", "sam2"), ("returning", "sam2long")]
    assert all(0 < row["J&F"] <= 100 and row["ms"] > 0 for row in rows)
    assert (tmp_path / "returning_0.gif").stat().st_size > 10_000 and "J&F" in capsys.readouterr().out
