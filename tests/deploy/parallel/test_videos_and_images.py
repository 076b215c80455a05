"""track_videos and segment_images give the predictors' own results as run lengths."""

import argparse

import moving_shapes
import numpy as np
import parallel_jobs
import pytest
import scaling
from mini_model import mini_model
from thread_workers import instead_of_processes

from sam2fast.deploy.parallel import ImageJob, VideoJob, VideoPrompt, segment_images, track_videos
from sam2fast.deploy.parallel.runners import in_this_process
from sam2fast.io.rle import decode_rle
from sam2fast.sam2_image_predictor import SAM2ImagePredictor


def test_videos(monkeypatch, tmp_path):
    """Two valid videos, a missing one, and one with a wrong prompt."""
    instead_of_processes(monkeypatch)
    folder = moving_shapes.jpeg_folder(tmp_path / "frames", moving_shapes.make_frames(5))
    video_file = moving_shapes.write_video(tmp_path / "video.mp4", moving_shapes.make_frames(4))
    prompts = [VideoPrompt(1, "square", points=[[18, 20]], labels=[1]), VideoPrompt(2, "disc", box=[40, 26, 56, 42])]
    jobs = [
        VideoJob(str(folder), prompts, reverse=True),
        VideoJob("nowhere.mp4", prompts),
        VideoJob(str(video_file), prompts[:1]),
        VideoJob(str(video_file), [VideoPrompt(0, 1, box=[0, 0, 9, 9], mask=np.ones((48, 64), bool))]),
    ]
    results = list(track_videos(jobs, "cpu,cpu", parallel_jobs.build_mini, ordered=True))
    assert [r.done for r in results] == [True, False, True, False]
    assert "FileNotFoundError" in results[1].error and "has a mask, and points or a box" in results[3].error

    predictor = parallel_jobs.build_mini("cpu")
    for result in (results[0], results[2]):
        state = predictor.init_state(result.job.video)
        for prompt in result.job.prompts:
            predictor.add_new_points_or_box(
                state, prompt.frame, prompt.obj_id, prompt.points, prompt.labels, box=prompt.box
            )
        expected = {}
        for reverse in (False, True) if result.job.reverse else (False,):
            for frame, ids, masks, scores in predictor.propagate_in_video(
                state, reverse=reverse, progress=False, return_scores=True
            ):
                expected[frame] = (list(ids), masks[:, 0] > 0, scores)
        assert result.value.size == (48, 64) and list(result.value.frames) == sorted(expected)
        for frame, (ids, masks, scores) in expected.items():
            found = result.value.frames[frame]
            assert found.ids == ids and found.iou == pytest.approx(scores.iou.tolist(), abs=1e-6)
            assert found.object_score == pytest.approx(scores.object_score.tolist(), abs=1e-5)
            np.testing.assert_array_equal(np.stack([decode_rle(rle) for rle in found.rles]), masks.numpy())


def test_images(monkeypatch):
    instead_of_processes(monkeypatch)
    image = moving_shapes.make_frames(1)[0]
    jobs = [
        ImageJob(image, points=[[16, 19]], labels=[1]),
        ImageJob(image, box=[40, 26, 60, 42], multimask_output=False),
        ImageJob(image, points=[[16, 19]]),
        ImageJob(image, box=np.zeros((0, 4))),
    ]
    results = {r.index: r for r in segment_images(jobs, ["cpu", "cpu"], lambda device: mini_model().to(device))}
    predictor = SAM2ImagePredictor(mini_model())
    predictor.set_image(image)
    for index, count in ((0, 3), (1, 1)):
        job, found = jobs[index], results[index].unwrap()
        masks, scores, _ = predictor.predict(job.points, job.labels, job.box, multimask_output=job.multimask_output)
        assert found.size == (48, 64) and len(found.rles) == count
        assert found.scores == pytest.approx(scores.tolist(), abs=1e-6)
        np.testing.assert_array_equal(np.stack([decode_rle(rle) for rle in found.rles]), masks > 0)
    with pytest.raises(ValueError, match="point_labels"):
        results[2].unwrap()
    assert results[3].unwrap() == ((48, 64), [], [])


def test_rows(monkeypatch, tmp_path):
    """Of the benchmark of scaling, where nothing is timed."""
    small = argparse.Namespace(workers=[1], clips=2, frames=2, runs=2, empty=5)
    monkeypatch.setattr(scaling, "runners", lambda workers: {"here": lambda: in_this_process("cpu")})
    clips, empty = scaling.measure(small, tmp_path)
    assert clips["efficiency"] == 1.0 and len(clips["samples"]) == 2
    for sample in clips["samples"]:
        assert sample["frames_per_second"] == pytest.approx(4 / sample["seconds"])
        assert sample["seconds_whole"] >= sample["seconds"] > 0
    assert (empty["op"], empty["workers"]) == ("empty jobs", 1) and empty["jobs_per_second"] > 0
    assert "100% of as many single ones" in scaling.report(clips) and "empty jobs/s" in scaling.report(empty)
