"""Forked and spawned processes that use objects of their parent."""

import copy
import multiprocessing
import os
import pickle
import sys
from functools import partial
from pathlib import Path

import forked_jobs
import numpy as np
import pytest
import torch
from at_once import Held
from comparable import plain
from disturbed_calls import known_of_image, make_images
from forked_jobs import in_child
from killed import started
from mini_model import mini_predictor
from numbered_videos import encode

from sam2fast.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.utils.thread_guard import CallGuard
from sam2fast.video_io import VideoError, open_frames

SUPPORT = Path(forked_jobs.__file__).parent


@pytest.fixture(scope="module")
def images() -> SAM2ImagePredictor:
    return forked_jobs.image_predictor()


def test_children_of_a_process_with_threads_predict():
    """In its own process, since the test process has only one thread."""
    path = os.pathsep.join([str(SUPPORT), *sys.path])
    done = started(
        [str(SUPPORT / "forked_jobs.py")], env={**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": path}, seconds=300
    )
    assert done.code == 0 and "answered" in done.stdout, done.stderr
    assert "torch uses one thread" in done.stderr


def test_a_call_interrupted_by_a_fork_is_finished_in_the_child(images, monkeypatch):
    """Another thread is in the middle of a guarded call when the process forks."""
    masks = SAM2AutomaticMaskGenerator(images.model, points_per_side=1, pred_iou_thresh=0.0, stability_score_thresh=0.0)
    for work in (lambda: images.set_image(make_images(1)[0]), lambda: masks.generate(make_images(1)[0])):
        with Held(work).within(monkeypatch, images.model, "encode_image"):
            answer = in_child(work)
            assert not isinstance(answer, Exception), answer


def test_a_forked_child_keeps_its_number_of_threads():
    guards = CallGuard(), CallGuard()

    def work() -> list[int]:
        counts = []
        for guard, count in zip(guards, (3, 2), strict=True):
            torch.set_num_threads(count)
            guard.begin_call(guard, changes=True)
            counts.append(torch.get_num_threads())
        return counts

    assert in_child(work) == [1, 2]


@pytest.mark.parametrize("prefetch", [False, True])
def test_a_video_file_does_not_survive_a_fork(prefetch, tmp_path):
    file = tmp_path / "video.mp4"
    file.write_bytes(encode("libx264", "mp4"))
    frames = open_frames(file, 128, prefetch=prefetch)
    expected = [frames.pixels(i).numpy().copy() for i in range(len(frames))]
    frames = open_frames(file, 128, prefetch=prefetch)
    frames.pixels(0)

    def read() -> None:
        last = len(frames) - 1
        frames.pixels(last)

    error = in_child(read)
    assert isinstance(error, VideoError) and "before this process was forked" in str(error)
    assert in_child(frames.close) is None
    assert in_child(partial(again, file)) == [pixels.tobytes() for pixels in expected]
    for index, pixels in enumerate(expected):  # the parent's file still works
        assert np.array_equal(frames.pixels(index), pixels)
    frames.close()


def again(file: Path) -> list[bytes]:
    with_one = open_frames(file, 128)
    return [with_one.pixels(i).numpy().tobytes() for i in range(len(with_one))]


def test_images_in_memory_survive_a_fork():
    frames = open_frames(make_images(3), 128, prefetch=True)
    expected = [frames.pixels(i).numpy().tobytes() for i in range(3)]
    assert in_child(lambda: [frames.pixels(i).numpy().tobytes() for i in range(3)]) == expected


def test_predictors_can_be_copied_and_pickled(images):
    for clone in (copy.deepcopy(images), pickle.loads(pickle.dumps(images))):
        assert known_of_image(clone) == known_of_image(images)
        clone.set_image(make_images(2)[1][:20])  # its own image
        assert images._orig_hw == [(40, 60)]
    assert copy.copy(images).guard is not images.guard
    videos = mini_predictor()
    clone = pickle.loads(pickle.dumps(videos))
    assert plain(forked_jobs.tracked_by(clone)) == plain(forked_jobs.tracked_by(videos))


# Spawned processes take seconds to import torch.
METHODS = ["fork", "spawn", pytest.param("forkserver", marks=pytest.mark.slow)]


@pytest.mark.parametrize("method", METHODS)
def test_a_pool_of_processes(method, images):
    """Each process unpickles the predictor with its image, and the function that loads images."""
    expected = plain(forked_jobs.masks_of(images)), plain(forked_jobs.loaded(0))
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert plain(pool.apply_async(forked_jobs.masks_of, [images]).get(120)) == expected[0]
        assert plain(pool.apply_async(forked_jobs.loaded, [0]).get(120)) == expected[1]


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow), METHODS[-1]])
def test_workers_of_a_data_loader(method):
    assert plain(forked_jobs.loaded(1, method)) == plain(forked_jobs.loaded(0))
