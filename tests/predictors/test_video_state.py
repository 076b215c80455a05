"""Guarantees besides numbers: bounded memory, views, options, calls in any order, no official defects."""

import copy

import numpy as np
import pytest
import torch
from parity import NARROW
from video import SMALL, Session, build_video_pair, clip, jpeg_folder

from sam2fast.kernels.mask_ops import unpack_masks
from sam2fast.utils.testing import relative_error
from sam2fast.video_io import VideoError


def test_autocast_switched_between_calls(video_predictor, video):
    """Features are cached per dtype, and memories of both dtypes coexist."""
    s = Session(video_predictor, video)
    with torch.autocast("cpu", torch.bfloat16):
        s.points(0, 1, (60, 40, 1))
        s.propagate(max_frame_num_to_track=3)
    assert s.state.bank.memories.data.dtype == torch.bfloat16
    s.propagate(start_frame_idx=3)
    assert s.state.bank.memories.data.dtype == torch.float32
    kinds = {kind for _, kind in s.state.features.kept}
    assert kinds == {None, torch.bfloat16} or kinds == {None}
    assert all(r.masks.isfinite().all() for r in s.records)


def test_device_memory_does_not_grow(video_predictor, tmp_path):
    """Pools, features and decoded frames have the same size on the last frame as on the second."""
    s = Session(video_predictor, jpeg_folder(tmp_path, clip(24)))
    s.points(0, 1, (60, 40, 1))
    s.points(0, 2, box=[20, 20, 70, 60])
    sizes = set()
    for frame, _, _ in video_predictor.propagate_in_video(s.state):
        if frame > 0:
            bank, features = s.state.bank, s.state.features
            sizes.add((bank.memories.data.shape[0], bank.pointers.data.shape[0]))
            assert len(features.kept) <= 4 and len(s.state.frames._cache._frames) <= 32
    assert sizes == {(16, 40)}  # two objects' 7 pages and 16 pointers, and one of each to be written


def test_max_history(video_predictor, tmp_path, monkeypatch):
    """Memories that a pass attends to are kept, so results do not change; dropped ones are freed."""
    monkeypatch.setattr(video_predictor, "max_obj_ptrs_in_encoder", 5)
    video = jpeg_folder(tmp_path, clip(12))
    sessions = [Session(video_predictor, video), Session(video_predictor, video, max_history=6)]
    for s in sessions:
        s.points(0, 1, (60, 40, 1))
        s.propagate()
    for a, b in zip(*(s.records for s in sessions), strict=True):
        assert torch.equal(a.masks, b.masks)
    everything, bounded = (s.state.objects[1] for s in sessions)
    assert list(everything.tracked) == list(range(1, 12)) and list(bounded.tracked) == list(range(6, 12))
    sessions[1].points(3, 1, (61, 41, 1))  # a tracked frame whose memory was dropped: still a correction
    assert list(bounded.new_tracked) == [3] and sessions[1].records[-1].masks.isfinite().all()
    sessions[1].propagate(start_frame_idx=2)
    assert len(bounded.tracked) == 6


def test_the_originals_keys(tracked):
    tracked.propagate(start_frame_idx=7)
    state = tracked.state
    official_keys = {
        "images", "num_frames", "offload_video_to_cpu", "offload_state_to_cpu", "video_height", "video_width",
        "device", "storage_device", "point_inputs_per_obj", "mask_inputs_per_obj", "cached_features", "constants",
        "obj_id_to_idx", "obj_idx_to_id", "obj_ids", "output_dict_per_obj", "temp_output_dict_per_obj",
        "frames_tracked_per_obj",
    }  # fmt: skip
    assert set(state) == official_keys and len(state) == len(official_keys)
    assert (state["num_frames"], state["video_height"], state["video_width"]) == (8, 90, 120)
    assert state["obj_ids"] == ["a", "b"] and state["obj_id_to_idx"] == {"a": 0, "b": 1}
    assert state["obj_idx_to_id"][1] == "b" and state["device"].type == "cpu" == state["storage_device"].type
    assert state["images"][3].shape == (3, SMALL, SMALL) and len(state["images"]) == 8
    assert state["point_inputs_per_obj"][1][2]["point_labels"].tolist() == [[2, 3]]
    assert state["frames_tracked_per_obj"][0][5] == {"reverse": False}
    assert state.get("unknown") is None and "unknown" not in state
    with pytest.raises(KeyError):
        state["unknown"]
    image, features = state["cached_features"][7]
    assert image.shape == (1, 3, SMALL, SMALL) and [x.shape[1] for x in features["backbone_fpn"]] == [32, 64, 256]


def test_stored_outputs_are_the_official_ones(video):
    """Every entry of the output dicts, compared with the official predictor's."""
    from video import float32_memory

    official, ours = build_video_pair(overrides=NARROW, image_size=SMALL)
    sessions = []
    with float32_memory():
        for p in (official, ours):
            s = Session(p, video)
            s.points(0, "a", (60, 40, 1))
            s.propagate()
            s.points(3, "a", (61, 42, 1))
            sessions.append(s.state)
    for key in ("output_dict_per_obj", "temp_output_dict_per_obj"):
        expected, actual = (state[key][0] for state in sessions)
        assert {kind: list(v) for kind, v in expected.items()} == {kind: list(v) for kind, v in actual.items()}
        for kind, frames in expected.items():
            for t, output in frames.items():
                mine = actual[kind][t]
                assert set(mine) == set(output)
                for name, value in output.items():
                    if value is None:
                        assert mine[name] is None
                        continue
                    value, other = (x[0] if isinstance(x, list) else x for x in (value, mine[name]))
                    assert relative_error(value, other) < 1e-4, (kind, t, name)


@pytest.mark.parametrize("non_overlapping", [False, True])
def test_output_formats_of_masks(tracked, non_overlapping, monkeypatch):
    """The same masks, with fewer bytes; the low-resolution ones are the model's own."""
    p, state = tracked.predictor, tracked.state
    monkeypatch.setattr(p, "non_overlap_masks", non_overlapping)

    def masks(output):
        options = {"start_frame_idx": 2, "max_frame_num_to_track": 1, "progress": False, "return_scores": True}
        return [(m, scores) for _, _, m, scores in p.propagate_in_video(state, **options, output=output)]

    for (logits, scores), (cut, _), (bits, _), (low_res, _) in zip(
        *(masks(output) for output in ("logits", "bool", "bits", "low_res")), strict=True
    ):
        assert cut.dtype == torch.bool and torch.equal(cut, logits > 0)
        assert bits.dtype == torch.uint8 and torch.equal(unpack_masks(bits, logits.shape[-1]), cut)
        assert torch.equal(low_res, scores.low_res_logits)
    with pytest.raises(ValueError, match="'low_res'"):
        masks("rle")


def test_progress(tracked, capsys):
    p, state = tracked.predictor, tracked.state
    wrapped = []

    def progress(frames):
        wrapped.extend(frames)
        return frames

    list(p.propagate_in_video(state, progress=False))
    list(p.propagate_in_video(state, progress=progress))
    assert capsys.readouterr().err == "" and wrapped == list(range(8))
    list(p.propagate_in_video(state))
    assert "propagate in video" in capsys.readouterr().err


def test_encoding_ahead(video_predictor, video, monkeypatch):
    """The same masks from batches of three frames; conditioning frames are not encoded."""
    expected, batches = Session(video_predictor, video), []
    expected.points(0, 1, (60, 40, 1))
    expected.propagate()
    right = video_predictor.encode_image

    def counted(images):
        batches.append(len(images))
        return right(images)

    ahead = Session(video_predictor, video)
    ahead.points(0, 1, (60, 40, 1))
    monkeypatch.setattr(video_predictor, "encode_image", counted)
    ahead.propagate(encode_ahead=3)
    assert batches == [2, 3, 2]  # the first three frames begin with the prompted one
    for a, b in zip(expected.records, ahead.records, strict=True):
        assert relative_error(a.masks, b.masks) < 1e-5


def test_features_are_encoded_once(video_predictor, video, monkeypatch):
    """Clicks on a frame, and changes between a few frames, do not encode again."""
    count = []
    right = video_predictor.encode_image
    monkeypatch.setattr(video_predictor, "encode_image", lambda images: count.append(1) or right(images))
    s = Session(video_predictor, video)
    for _ in range(3):
        for frame in (0, 1, 2):
            s.points(frame, frame, (60, 40, 1))
    video_predictor.propagate_in_video_preflight(s.state)
    assert len(count) == 3


def test_private_names_that_other_code_calls(tracked):
    p, state = tracked.predictor, tracked.state
    assert p._obj_id_to_idx(state, "b") == 1 and p._obj_idx_to_id(state, 1) == "b" and p._get_obj_num(state) == 2
    assert p._obj_id_to_idx(state, "new") == 2
    p.remove_object(state, "new")
    masks = p._consolidate_temp_output_across_obj(state, 3, is_cond=False)["pred_masks"]
    assert masks.shape == (2, 1, SMALL // 4, SMALL // 4)
    low, high = p._get_orig_video_res_output(state, masks)
    at_video_res = p._consolidate_temp_output_across_obj(state, 3, is_cond=False, consolidate_at_video_res=True)
    assert torch.equal(low, masks) and torch.equal(high, at_video_res["pred_masks_video_res"])
    assert torch.equal(high, next(r.masks for r in tracked.records if r.step.startswith("prop") and r.frame == 3))
    p._clear_non_cond_mem_around_input(state, 3)
    assert not state["output_dict_per_obj"][0]["non_cond_frame_outputs"]
    p._reset_tracking_results(state)
    assert state["obj_ids"] == ["a", "b"] and not state["output_dict_per_obj"][0]["cond_frame_outputs"]


def test_private_inference_from_official_outputs(tracked):
    """The single-frame method accepts the views, or equal dicts, and reproduces tracking."""
    p, state = tracked.predictor, tracked.state
    features = p._get_image_feature(state, 7, batch_size=2)
    assert features[0].shape == (2, 3, SMALL, SMALL) and [x.shape[1] for x in features[2]] == [2, 2, 2]
    outputs = state["output_dict_per_obj"][0]
    without = {
        "cond_frame_outputs": outputs["cond_frame_outputs"],
        "non_cond_frame_outputs": {t: o for t, o in outputs["non_cond_frame_outputs"].items() if t < 7},
    }
    output, masks = p._run_single_frame_inference(state, without, 7, 1, False, None, None, False, True)
    stored = outputs["non_cond_frame_outputs"][7]
    for name in ("maskmem_features", "pred_masks", "obj_ptr", "object_score_logits"):
        assert relative_error(stored[name], output[name]) < 1e-4, name
    high_res = torch.nn.functional.interpolate(masks, (SMALL, SMALL), mode="bilinear")
    memory, position = p._run_memory_encoder(state, 7, 1, high_res, output["object_score_logits"], False)
    assert memory.shape == position[0].shape == (1, 64, SMALL // 16, SMALL // 16)


def test_nothing_global_is_changed(video_predictor, video):
    """While a propagation is suspended, gradients are enabled and inference mode is off."""
    s = Session(video_predictor, video)
    s.points(0, 1, (60, 40, 1))
    generator = video_predictor.propagate_in_video(s.state)
    next(generator)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    generator.close()


@pytest.mark.parametrize(
    ("name", "where"), [("_get_orig_video_res_output", "instance"), ("_apply_non_overlapping_constraints", "class")]
)
def test_overridden_resizing_takes_effect(video_predictor, video, monkeypatch, name, where):
    """In answers to prompts, passes and streams."""
    ours = copy.deepcopy(video_predictor)
    ours.non_overlap_masks = True
    original = getattr(type(ours), name)

    def darker(*args):
        result = original(*(args if where == "class" else (ours, *args)))
        return (result[0], result[1] - 5000) if isinstance(result, tuple) else result - 5000

    monkeypatch.setattr(type(ours) if where == "class" else ours, name, darker)
    state = ours.init_state(video)
    assert ours.add_new_points_or_box(state, 0, 1, [[60, 40]], [1])[2].max() < -3000
    assert all(masks.max() < -3000 for _, _, masks in ours.propagate_in_video(state, progress=False))
    stream = ours.open_stream()
    stream.step(np.zeros((64, 64, 3), np.uint8))
    assert stream.add_new_points_or_box(1, [[30, 30]], [1]).masks.max() < -3000


def test_a_pass_needs_an_object(video_predictor, video):
    with pytest.raises(RuntimeError, match="no object to track"):
        next(video_predictor.propagate_in_video(video_predictor.init_state(video)))


def test_a_video_of_one_frame(video_predictor, tmp_path):
    """Clicking again after propagation divides by zero in the official package, and empties the mask."""
    s = Session(video_predictor, jpeg_folder(tmp_path, clip(1)))
    s.points(0, 1, (60, 40, 1))
    s.propagate()
    s.points(0, 1, (62, 42, 1))
    assert s.records[-1].masks.isfinite().all() and (s.records[-1].masks > 0).any()


def test_a_truncated_video(video_predictor, video):
    """All existing frames are tracked before the error; shorter or backward passes raise none."""
    s = Session(video_predictor, video)
    s.points(0, 1, (60, 40, 1))
    s.state.frames.truncated = "video: read 8 of about 9 frames; the rest of the file is damaged or missing"
    with pytest.raises(VideoError, match="read 8 of about 9 frames"):
        s.propagate()
    assert [r.frame for r in s.records[1:]] == list(range(8))
    with pytest.raises(VideoError, match="read 8 of about 9 frames"):
        s.propagate(start_frame_idx=6, max_frame_num_to_track=2)
    s.propagate(start_frame_idx=6, max_frame_num_to_track=1)
    s.propagate(start_frame_idx=7, max_frame_num_to_track=1, reverse=True)
    assert [r.frame for r in s.records[-4:]] == [6, 7, 7, 6]
