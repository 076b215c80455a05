"""SAM 3's tracker in all that the package does with a model, on a small one."""

import copy

import fake_cuda
import numpy as np
import pytest
import recorded_ops
import torch
from fake_cuda import steady_frames, steady_steps
from graph_sessions import assert_same, failures
from parity import random_image
from planned import without_plans
from profiled import LIMITS
from recorded_ops import CalledAgain, RecordedOps, recorded_by
from small_sam3 import CONFIG, SHALLOW, SIDE, prompts, small_sam3
from video import clip, jpeg_folder, run

from sam2fast.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.engine import Engine
from sam2fast.profiling import profile_video
from sam2fast.tracking.approximations import Approximations
from sam2fast.tracking.propagation import FRAMES_AT_ONCE_ON_CUDA
from sam2fast.tracking.strategies import STRATEGIES


@pytest.fixture(scope="module")
def predictor():
    return small_sam3()


def test_replayed_steps(predictor, tmp_path, monkeypatch):
    """Replays give the masks of the recorded functions bit by bit, and those of plain steps."""
    video = jpeg_folder(tmp_path / "video", clip(9))
    plain = run(predictor, video, prompts)
    recorded_ops.as_on_a_gpu(monkeypatch)
    found = []
    for recorder in (CalledAgain, RecordedOps):
        recorded_by(monkeypatch, recorder)
        fast = copy.deepcopy(predictor)
        fast.fast = True
        found.append(run(fast, video, prompts))
        assert recorder.made and not failures(fast)
    assert all(torch.equal(a.masks, b.masks) for a, b in zip(*found, strict=True))
    assert_same(plain, found[0])


@pytest.fixture(scope="module")
def made():
    """A device, and a predictor on it."""
    with fake_cuda.fake_cuda() as mode:
        return mode, fake_cuda.build(build_sam2_video_predictor, str(CONFIG), hydra_overrides_extra=SHALLOW)


def test_frames_on_a_gpu(made):
    """A frame of a video or a stream takes one step, and an encoding in its batch. Nothing waits for the device."""
    with fake_cuda.fake_cuda(made[0]) as cuda:
        of_video = steady_frames(cuda, made[1], 1, 4)
        of_stream = steady_steps(cuda, made[1], 1, 2)
        assert not failures(made[1])
        made[1].release_recordings()
    for frames, at_once in ((of_video, FRAMES_AT_ONCE_ON_CUDA), (of_stream, 1)):
        encoded = [graph.encoded for seen in frames for graph in seen.replayed if graph.encoded]
        assert encoded == [[at_once]] * (len(frames) // at_once) and not any(seen.encoded for seen in frames)
        assert sum(seen.replays for seen in frames) == len(frames) + len(encoded)
        for seen in frames:
            seen.check()


def test_streams(predictor):
    """Frame by frame, also by frames that were encoded before: the masks of the whole video."""
    images, click, box = clip(6), ([[60, 40]], [1]), {"box": [20, 20, 70, 60]}
    state = predictor.init_state(images)
    predictor.add_new_points_or_box(state, 0, 1, *click)
    predictor.add_new_points_or_box(state, 0, 2, **box)
    expected = [masks for _, _, masks in predictor.propagate_in_video(state)]
    for prepare in (lambda image: image, predictor.encode_frame):
        with predictor.open_stream(num_frames=len(images)) as stream:
            stream.step(prepare(images[0]))
            stream.add_new_points_or_box(1, *click)
            found = [stream.add_new_points_or_box(2, **box).masks]
            found += [stream.step(prepare(image)).masks for image in images[1:]]
        assert all(map(torch.equal, expected, found))


def test_saved_sessions(predictor, tmp_path):
    images = clip(6)
    state = predictor.init_state(images)
    predictor.add_new_points_or_box(state, 0, 1, points=[[60, 40]], labels=[1])
    predictor.add_new_mask(state, 0, 2, np.tri(90, 120, dtype=bool))
    expected = [masks for _, _, masks in predictor.propagate_in_video(state)]
    predictor.save_state(state, tmp_path / "state")
    restored = predictor.load_state(tmp_path / "state", images)
    assert all(map(torch.equal, expected, (masks for _, _, masks in predictor.propagate_in_video(restored))))


@pytest.mark.parametrize(("threshold", "encoded"), [(0, 4), (1, 1)])
def test_features_of_still_frames(predictor, threshold, encoded, monkeypatch):
    """They are reused if frames differ by at most the threshold."""
    monkeypatch.setattr(predictor, "approximations", Approximations.of([f"still_frames={threshold}"]))
    state = predictor.init_state([clip(1)[0]] * 3 + clip(3, seed=1))
    predictor.add_new_points_or_box(state, 0, 1, points=[[60, 40]], labels=[1])
    assert len(list(predictor.propagate_in_video(state))) == 6
    assert state.features.encoded == encoded


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategies(predictor, strategy):
    state = predictor.init_state(clip(5), strategy=strategy)
    predictor.add_new_points_or_box(state, 0, 1, points=[[60, 40]], labels=[1])
    predictor.add_new_points_or_box(state, 0, 2, box=[20, 20, 70, 60])
    found = [masks for _, _, masks in predictor.propagate_in_video(state)]
    assert [tuple(masks.shape) for masks in found] == [(2, 1, 90, 120)] * 5
    assert all(masks.isfinite().all() for masks in found)


def test_at_most_four_prompted_frames_are_attended_to(predictor, monkeypatch):
    """Besides them the six frames before, among which others of the prompted frames may be."""
    state, attended = predictor.init_state(clip(14)), []
    for frame in range(6):
        predictor.add_new_points_or_box(state, frame, 1, points=[[60, 40]], labels=[1])
    attend = Engine.attend

    def counted(engine, features, memories, *rest):
        attended.append(int((memories.page_table >= 0).sum()))
        return attend(engine, features, memories, *rest)

    monkeypatch.setattr(Engine, "attend", counted)
    list(predictor.propagate_in_video(state, start_frame_idx=6))
    assert attended == [6, 6, 6, 7, 8, 9, 10, 10]


def test_automatic_masks(predictor):
    """From the plan and from the modules: the same records."""
    generator = SAM2AutomaticMaskGenerator(predictor, points_per_side=3, pred_iou_thresh=0, stability_score_thresh=0)
    found = generator.generate(random_image(60, 80))
    with without_plans():
        expected = generator.generate(random_image(60, 80))
    assert found and len(found) == len(expected)
    for a, b in zip(expected, found, strict=True):
        assert a["bbox"] == b["bbox"] and (a["segmentation"] == b["segmentation"]).mean() > 0.999


def test_profile(predictor):
    """Times and FLOPs of parts: the neck is one, blocks have attention, projections, norms and an MLP."""
    root = profile_video(predictor, clip(4), objects=1, frames=2, runs=1, limits=LIMITS).root
    assert set(root["encode"].children) == {"norms", "stage 1", "neck"}
    assert set(root["encode/stage 1"].children) == {"attention", "projections", "norms", "MLP"}
    rows, width = (SIDE // 14) ** 2, 64
    assert root["encode/stage 1/projections"].flops == 4 * 2 * rows * width * 4 * width
    assert sum(part.flops for part in root.children.values()) > 0.9 * root.flops
