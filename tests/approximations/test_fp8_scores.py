"""Scores in fp8 where the GPU has them, exact ones with a note elsewhere, and the same rounding on any device."""

import copy
import gc
import logging

import pytest
import torch
from graph_sessions import recorded_steps
from official_memory import fused_step
from video import Session, clip

from sam2fast.kernels.memory_attention import why_no_fp8
from sam2fast.tracking import tracker
from sam2fast.utils.testing import relative_error

EMULATED = "fp8_attention=emulated"


def tracked(predictor, video, frames=4):
    """A prompt, tracked frames, and a correction, which attends to memories too."""
    s = Session(predictor, video)
    s.points(0, 1, (60, 40, 1))
    s.propagate(max_frame_num_to_track=frames)
    s.points(3, 1, (65, 45, 0))
    return s


def test_without_fp8_it_is_exact_and_says_so_once(exact, rough, video, caplog):
    assert why_no_fp8(rough.device) == "there are no kernels for fp8 on cpu"
    with caplog.at_level(logging.WARNING):
        rough.approximations = "fp8_attention"
        assert not caplog.messages
        sessions = [tracked(p, video) for p in (exact, rough, rough)]
        rough.reset_state(sessions[2].state)
        assert caplog.messages == [f"fp8_attention: memory attention stays exact: {why_no_fp8(rough.device)}"]
        other = copy.deepcopy(rough)
        other.init_state(str(video))
        assert len(caplog.messages) == 2
    for a, b in zip(sessions[0].records, sessions[1].records, strict=True):
        assert torch.equal(a.masks, b.masks)
    assert sessions[1].state.bank.fp8 is False and rough.approximations.fp8_attention is True


def test_a_gpu_that_has_it(rough, monkeypatch, caplog):
    rough.approximations = "fp8_attention"
    monkeypatch.setattr(tracker, "why_no_fp8", lambda device: None)
    assert tracker._fp8(rough, rough.approximations) is True and not caplog.messages


def test_what_attends_to_memories_is_rounded(exact, rough, video, caplog):
    """Tracked frames and the correction; the first prompt finds no memory."""
    rough.approximations = EMULATED
    a, b = (tracked(p, video).records for p in (exact, rough))
    differences = [relative_error(x.masks, y.masks) for x, y in zip(a, b, strict=True)]
    assert differences[0] == differences[1] == 0 and all(1e-4 < d < 0.5 for d in differences[2:])
    assert not caplog.messages


def test_corrections_and_a_step_on_official_outputs(rough, video):
    """Of the same history, by what the session rounds, whatever the predictor would now."""
    rough.approximations, corrected, stepped = EMULATED, [], []
    for fp8 in ("emulated", False):
        s = tracked(rough, video)
        s.state.bank.fp8 = fp8
        s.points(2, 1, (65, 45, 0))
        corrected.append(s.records[-1].masks)
    rough.approximations = None
    outputs, image = s.state["output_dict_per_obj"][0], s.state["images"][4][None]
    for fp8 in ("emulated", False):
        with torch.inference_mode():
            stepped.append(fused_step(rough, image, outputs, 4, s.state["num_frames"], fp8)["pred_masks"])
    assert not torch.equal(*corrected) and not torch.equal(*stepped)


def test_replayed_steps(exact, rough, replaying, video):
    """An exact session takes the workspace over, with a step of its own; both have one shape."""
    rough.approximations = replaying.approximations = EMULATED
    gc.freeze()  # the collection passes over what is older
    sessions = [tracked(p, video) for p in (rough, replaying)]
    rounded = recorded_steps(replaying, sessions[1])
    expected = [s.records for s in sessions]
    del sessions
    gc.collect()
    replaying.approximations = None
    session = tracked(replaying, video)
    assert recorded_steps(replaying, session) is rounded
    for a, b in (expected, (tracked(exact, video).records, session.records)):
        for x, y in zip(a, b, strict=True):
            assert relative_error(x.masks, y.masks) < 1e-4, x.step
    assert rounded.made == 2 * len({shape for (_, shape, _), *_ in rounded._calls})


@pytest.mark.parametrize("asked", [EMULATED, None])
def test_streams(exact, rough, asked):
    rough.approximations, found = asked, []
    for predictor in (exact, rough):
        with predictor.open_stream() as stream:
            for i, frame in enumerate(clip(4)):
                stream.step(frame)
                if i == 0:
                    stream.add_new_points_or_box(1, [[60, 40]], [1])
            found.append(stream.step(frame).masks)
    assert torch.equal(*found) == (asked is None)
