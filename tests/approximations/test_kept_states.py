"""Approximations of sessions that are saved, moved and restored, and of the command."""

import json

import pytest
import torch
from commands import invoke
from track_runs import ONE
from video import Session, clip

from sam2fast.cli import track_run
from sam2fast.tracking.approximations import EXACT, Approximations

ASKED = ["memory_slots=4", "still_frames=0.01", "fp8_attention=emulated"]
COMMAND = ["track", "--model", "nano", *ONE]


def begun(predictor, video):
    """Prompts, tracked frames, a correction; conditioning and tracked memories."""
    s = Session(predictor, video)
    s.points(0, 1, (60, 40, 1))
    s.points(3, 2, box=[20, 20, 70, 60])
    s.propagate(max_frame_num_to_track=5)
    s.points(2, 1, (65, 45, 0))
    return s


def assert_go_on_alike(predictor, *states):
    runs = [predictor.propagate_in_video(state, 4, 4, progress=False) for state in states]
    assert all(torch.equal(a, b) for (_, _, a), (_, _, b) in zip(*runs, strict=True))


@pytest.mark.parametrize("way", ["saved", "moved"])
def test_a_restored_session_goes_on_as_it_was_opened(rough, video, tmp_path, way):
    rough.approximations = ASKED
    s = begun(rough, video)
    rough.approximations = None
    if way == "saved":
        rough.save_state(s.state, tmp_path / "state")
        other = rough.load_state(tmp_path / "state", str(video))
    else:
        other = rough.move_state(s.state)
    assert other.bank.approximations == Approximations.of(ASKED) and rough._tracker.rules(other).memory_slots == 4
    assert other.bank.fp8 == "emulated"
    assert_go_on_alike(rough, s.state, other)
    assert other.features._reuse.threshold == 0.01


def test_a_restored_stream(rough, tmp_path):
    rough.approximations = "memory_slots=2"
    video = clip(8)
    with rough.open_stream() as stream:
        for frame in video[:5]:
            stream.step(frame)
            if stream.frame == 0:
                stream.add_new_points_or_box(1, [[60, 40]], [1])
        stream.save(tmp_path / "stream")
        rough.approximations = None
        with rough.restore_stream(tmp_path / "stream") as other:
            for frame in video[5:]:
                assert torch.equal(stream.step(frame).masks, other.step(frame).masks)
            assert other._opened().bank.approximations == Approximations(memory_slots=2)


def test_files_from_before_have_none(rough, video, tmp_path):
    from sam2fast.tracking import saved_state

    s = begun(rough, video)
    packed = saved_state.packed(s.state)
    del packed.facts["approximations"]
    saved_state.save(packed, tmp_path / "state")
    other = rough.load_state(tmp_path / "state", str(video))
    assert other.bank.approximations == EXACT
    assert_go_on_alike(rough, s.state, other)


def test_the_command_refuses(video, tmp_path, monkeypatch):
    monkeypatch.setattr(track_run, "build_sam2_video_predictor", None)  # would fail
    command = [*COMMAND, video, "--out", tmp_path / "out", "--approximate"]
    for asked, reason in (("fast", "no approximation 'fast'; the known ones are"), ("still_frames=2", "from 0 to 1")):
        result = invoke(*command, asked)
        assert result.exit_code == 2 and reason in " ".join(result.stderr.split()) and not (tmp_path / "out").exists()


def test_the_command_tracks_by_them(video, tmp_path):
    command = [*COMMAND, video, "--device", "cpu", "--format", "json", "--out", tmp_path / "out"]
    asked = ("memory_slots=2", "fp8_attention=emulated")
    assert invoke(*command, "--end", "2", *(word for name in asked for word in ("--approximate", name))).exit_code == 0
    said = json.dumps(json.loads((tmp_path / "out" / "track.json").read_text()))
    for entry in ('"memory_slots": 2', '"fp8_attention": "emulated"'):
        assert entry in said
    # Without them it would be another run, whose frames do not belong into the same file.
    refused = invoke(*command, "--end", "2")
    assert refused.exit_code == 1 and str(tmp_path / "out") in refused.stderr
    beyond = invoke(*command, "--overwrite", "--approximate", "memory_slots=9")
    assert beyond.exit_code == 1 and "9 is more than the 7 memories" in beyond.stderr
