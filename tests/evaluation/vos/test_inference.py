"""One video and many: failed videos, and the order of jobs."""

import dataclasses
import json
import os
import pickle
import re
import shutil
from unittest import mock

import moving_shapes
import numpy as np
import pytest
import torch
from commands import act_at
from file_contents import files_of
from mask_sets import cut
from PIL import Image
from video import narrow_predictor
from vos_sets import write_masks, write_video

from sam2fast import nano
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.deploy.parallel.runners import in_this_process
from sam2fast.evaluation.vos import VosDone, VosJob, VosSettings, build_for_vos, outputs, run_vos, track_job

DISCS = {0: {1: (30, 30, 18), 3: (80, 50, 20)}}


@pytest.fixture(scope="module")
def predictor():
    made = narrow_predictor()
    made.non_overlap_masks = True
    return made


@pytest.fixture
def job(tmp_path) -> VosJob:
    """A video of four frames and its masks."""
    video = write_video(tmp_path / "videos/a", 4)
    write_masks(tmp_path / "masks/a", DISCS)
    return VosJob("a", video, tmp_path / "masks/a", tmp_path / "out", made_from="this")


def test_done(predictor, job):
    done = track_job(predictor, pickle.loads(pickle.dumps(job)))
    assert (done.name, done.frames, done.objects, done.problem) == ("a", 4, 2, None)
    assert set(done.seconds) == {"opening", "tracking", "writing"} and min(done.seconds.values()) >= 0
    assert sorted(os.listdir(job.out)) == [".a.json", "a"]
    assert json.loads((job.out / ".a.json").read_text()) == {"made_from": "this", "masks": 4}
    before = files_of(job.out)
    assert [path for path in before if path.startswith("a/")] == [f"a/{t:05d}.png" for t in range(4)]
    assert track_job(predictor, job).problem is None  # its own folder it may always replace
    assert files_of(job.out) == before


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda predictor, job: VosSettings(-1024.0), "more than -1024"),
        (lambda predictor, job: VosSettings(float("nan")), "more than -1024"),
        (lambda predictor, job: build_for_vos("configs/sam2.1/sam2.1_hiera_t.yaml", None), "random weights"),
        (
            lambda predictor, job: track_job(
                predictor, dataclasses.replace(job, settings=VosSettings(per_object=True))
            ),
            "non_overlap_masks of the predictor is True",
        ),
    ],
)
def test_refusals(predictor, job, call, word):
    with pytest.raises(ValueError, match=word):
        call(predictor, job)
    assert not job.out.exists()


def test_a_palette_with_too_few_colours(predictor, job):
    """A PNG has as many bits a pixel as its colours need: here two, and an id of 9."""
    colours = bytes(range(10, 22))
    path = job.masks / "00000.png"
    labels = np.array(Image.open(path))
    labels[labels == 3] = 9
    path.unlink()
    Image.fromarray(labels).save(path)
    write_masks(job.masks, {3: {1: (30, 30, 18)}}, colours=colours)
    done = track_job(predictor, dataclasses.replace(job, settings=VosSettings(late_objects=True)))
    assert done.objects == 2
    found = Image.open(job.out / "a/00000.png")
    assert set(np.unique(np.array(found))) == {0, 1, 9}
    assert bytes(found.getpalette())[:12] == colours and len(found.getpalette()) >= 30


def test_video_files(predictor, job, tmp_path):
    """Frames are named by five digits."""
    video = moving_shapes.write_video(tmp_path / "videos/b.mp4", moving_shapes.make_frames(5))
    write_masks(tmp_path / "masks/b", {0: {2: (60, 45, 30)}})
    done = track_job(predictor, dataclasses.replace(job, name="b", video=video, masks=tmp_path / "masks/b"))
    assert done.frames == 5 and done.problem is None
    assert list(files_of(job.out / "b")) == [f"{t:05d}.png" for t in range(5)]
    assert np.array(Image.open(job.out / "b/00004.png")).shape == (moving_shapes.HEIGHT, moving_shapes.WIDTH)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda job: cut(job.video / "00002.jpg"), "00002.jpg, cannot be read"),
        (lambda job: (job.masks / "00000.png").unlink(), "no input mask .*00000.png"),
        (lambda job: (job.out / "a/mine").mkdir(parents=True), "does not say what it was made from"),
        (lambda job: job.out.write_text(""), "out"),
    ],
)
def test_unusable_files_become_the_problem(predictor, job, spoil, problem):
    spoil(job)
    before = files_of(job.out) if job.out.is_dir() else {}
    done = track_job(predictor, job)
    assert done.problem is not None and "\n" not in done.problem
    assert re.search(problem, done.problem)
    assert done.frames == 0 and (files_of(job.out) if job.out.is_dir() else {}) == before


def disk_full(job):
    raise OSError("the disk is full")


@pytest.mark.parametrize(
    ("count", "fail", "problem"),
    [
        (1, disk_full, "the disk is full"),
        (4, disk_full, "the disk is full"),
        # If the folder was made again, it would have only the later frames.
        (2, lambda job: shutil.rmtree(next(job.out.glob(".a.*.part"))), "00001.png: No such file"),
    ],
)
def test_images_that_cannot_be_written(predictor, job, monkeypatch, count, fail, problem):
    """The first one, and the last one, whose error is raised at the end; a folder that is removed meanwhile."""
    act_at(monkeypatch, outputs, "label_png", count, lambda: fail(job))
    assert problem in track_job(predictor, job).problem
    assert os.listdir(job.out) == []


def test_interrupted(predictor, job, monkeypatch):
    monkeypatch.setattr(outputs.MaskWriter, "add", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        track_job(predictor, job)
    assert os.listdir(job.out) == []


def test_the_longest_come_first_and_failures_are_results(predictor, job, monkeypatch):
    write_video(job.video.with_name("b"), 2)
    jobs = [
        dataclasses.replace(job, name="short", video=job.video.with_name("b"), frames=2),
        dataclasses.replace(job, name="broken", masks=job.masks.with_name("nowhere"), frames=3),
        dataclasses.replace(job, name="wrong", settings=VosSettings(per_object=True), frames=9),
        dataclasses.replace(job, name="long", frames=4),
    ]
    (job.out / ".long.0123abcd.part").mkdir(parents=True)
    results = list(run_vos(jobs, in_this_process("cpu"), lambda device: predictor))
    assert all(job.name == done.name for job, done in results)
    assert [(d.name, d.frames) for _, d in results] == [("wrong", 0), ("long", 4), ("broken", 0), ("short", 2)]
    wrong, long, broken, short = (done.problem for _, done in results)
    assert long is short is None and wrong.startswith("ValueError: non_overlap_masks") and "nowhere" in broken
    assert sorted(os.listdir(job.out)) == [".long.json", ".short.json", "long", "short"]


def leave(job) -> None:
    """Creates the leftovers of a process killed during a video."""
    (job.out / f".{job.name}.0123abcd.part").mkdir(parents=True)


def finish(function, jobs, build):
    """A runner that tracks nothing."""
    return in_this_process("cpu")(lambda predictor, job: VosDone(job.name), jobs, build)


def test_leftovers_are_removed_before_and_after(job):
    """Those of an earlier run first, those of this run when its processes have ended."""

    def runner(*arguments):
        assert os.listdir(job.out) == []
        try:
            yield from finish(*arguments)
        finally:
            leave(job)

    leave(job)
    results = run_vos([job, job], runner, lambda device: None)
    next(results)
    results.close()
    assert os.listdir(job.out) == []


def test_leftovers_of_other_machines_stay(job):
    """Neither at the beginning nor at the end, when tasks of an earlier or of this run may still write."""
    leave(job)
    assert len(list(run_vos([job], finish, lambda device: None, is_spread=True))) == 1
    assert os.listdir(job.out) == [".a.0123abcd.part"]


def test_without_a_checkpoint_the_weights_of_the_package_are_used():
    built = build_for_vos(nano.CONFIG, None, device="cpu").state_dict()
    expected = build_sam2_video_predictor(nano.CONFIG, nano.WEIGHTS, device="cpu").state_dict()
    assert all(torch.equal(value, built[name]) for name, value in expected.items())
