"""Saved states continue with the same bits, and invalid files are refused."""

import os
import random

import numpy as np
import pytest
import torch
from comparable import snapshot
from mini_model import mini_predictor
from safetensors.torch import load_file, save_file
from video import SMALL, Session, clip, narrow_predictor

from sam2fast.tracking import saved_state
from sam2fast.tracking.saved_state import DIGEST, FACTS, StateError


@pytest.fixture(scope="module")
def busy_for_all(video_predictor, video) -> Session:
    """Two objects that are tracked, corrected, and have new prompts."""
    s = Session(video_predictor, video, max_history=15)
    s.points(0, "a", (60, 40, 1))
    s.points(2, 7, box=[20, 20, 70, 60])
    s.propagate(max_frame_num_to_track=5)
    s.points(3, "a", (61, 42, 0))
    s.mask(6, 7, np.eye(90, 120))
    s.points(4, "late", (30, 30, 1), (50, 60, 0))
    s.points(1, "late", (33, 30, 1))  # out of order; sums are taken in this order
    return s


@pytest.fixture
def busy(video_predictor, busy_for_all) -> Session:
    """A copy of it."""
    return restored(video_predictor, video_predictor.move_state(busy_for_all.state))


def restored(predictor, state) -> Session:
    s = object.__new__(Session)
    s.predictor, s.state, s.records = predictor, state, []
    return s


def saved_and_loaded(s: Session, video, file) -> Session:
    s.predictor.save_state(s.state, file)
    return restored(s.predictor, s.predictor.load_state(file, video))


def test_bfloat16_memories_are_unchanged(video_predictor, video, tmp_path):
    """Also mixed with fp32 and archived memories: results do not change."""
    s = Session(video_predictor, video)
    with torch.autocast("cpu", torch.bfloat16):
        s.points(0, 1, (60, 40, 1))
        s.propagate(max_frame_num_to_track=3)
        other = saved_and_loaded(s, video, tmp_path / "bf16")
        for session in (s, other):
            session.propagate(start_frame_idx=4, max_frame_num_to_track=0)
    assert torch.equal(s.records[-1].masks, other.records[-1].masks)
    assert other.state.bank.memories.data.dtype == torch.bfloat16
    tensors = load_file(tmp_path / "bf16")
    assert tensors["0.tracked.memory"].dtype == torch.bfloat16 and tensors["0.tracked.pointer"].dtype == torch.float32
    s.propagate(start_frame_idx=5, max_frame_num_to_track=0)
    other = saved_and_loaded(s, video, tmp_path / "mixed")
    for session in (s, other):
        session.propagate(start_frame_idx=6)
        assert session.state.bank.memories.data.dtype == torch.float32
    for a, b in zip(s.records[-2:], other.records, strict=True):
        assert torch.equal(a.masks, b.masks)


def test_moved_to_another_predictor(busy):
    """To one with the same weights; tests/sessions/test_video_sessions.py goes on with both."""
    second = narrow_predictor()
    assert snapshot(second.move_state(busy.state)) == snapshot(busy.state)
    with torch.no_grad():
        second.memory_attention.layers[1].linear1.weight.mul_(1.5)
    with pytest.raises(StateError, match="saved with another model: weights"):
        second.move_state(busy.state)


def test_a_model_without_memories(tmp_path):
    predictor, frames = mini_predictor(("++model.num_maskmem=0", "++model.image_size=64")), clip(3)
    state = predictor.init_state(frames)
    predictor.add_new_points_or_box(state, 0, "a", [[60, 40]], [1])
    list(predictor.propagate_in_video(state, progress=False))
    predictor.save_state(state, tmp_path / "state")
    assert snapshot(predictor.load_state(tmp_path / "state", frames)) == snapshot(state)


def test_ids_that_json_cannot_represent(video_predictor, video, tmp_path):
    s = Session(video_predictor, video)
    s.points(0, (1, 2), (60, 40, 1))
    with pytest.raises(StateError, match="of type tuple"):
        video_predictor.save_state(s.state, tmp_path / "state")
    s.reset()
    s.points(0, frozenset({3}), (60, 40, 1))
    with pytest.raises(StateError, match="id of type frozenset"):
        video_predictor.move_state(s.state)
    assert not os.listdir(tmp_path)


def test_numpy_ids_are_found_again(video_predictor, video, tmp_path):
    s = Session(video_predictor, video)
    s.points(0, np.int64(3), (60, 40, 1))
    video_predictor.save_state(s.state, tmp_path / "state")
    assert np.int64(3) in video_predictor.load_state(tmp_path / "state", video).objects


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda p, file, video: p.load_state(file.with_name("x"), video), "no saved state"),
        (lambda p, file, video: p.restore_stream(file), r"a whole video; .* load_state\(\)"),
        (lambda p, file, video: p.load_state(file, clip(7)), "another video: frames 8, not 7"),
        (lambda p, file, video: narrow_predictor(SMALL + 32).load_state(file, video), "image_size 128, not 160"),
    ],
    ids=["missing file", "no stream", "shorter video", "larger model"],
)
def test_refused(busy, video, tmp_path, call, word):
    busy.predictor.save_state(busy.state, tmp_path / "state")
    with pytest.raises((StateError, FileNotFoundError), match=word):
        call(busy.predictor, tmp_path / "state", video)


def test_damaged_files(busy, video, tmp_path):
    p, file = busy.predictor, tmp_path / "state"
    p.save_state(busy.state, file)
    content = file.read_bytes()
    rng = random.Random(0)
    flipped = []
    for place in [*rng.sample(range(8, 3000), 40), *rng.sample(range(3000, len(content)), 20)]:
        other = bytearray(content)
        other[place] ^= 1 << rng.randrange(8)
        flipped.append(bytes(other))
    for damaged in (content[: len(content) // 2], b"", b"no safetensors at all", *flipped):
        file.write_bytes(damaged)
        with pytest.raises(StateError, match="damaged"):
            p.load_state(file, video)
    for header in (None, {FACTS: "{}"}, {DIGEST: "x"}):
        save_file({"x": torch.zeros(1)}, file, metadata=header)
        with pytest.raises(StateError, match="not a state that sam2fast saved"):
            p.load_state(file, video)


def test_another_version(busy, video, tmp_path, monkeypatch):
    monkeypatch.setattr(saved_state, "VERSION", 9)
    busy.predictor.save_state(busy.state, tmp_path / "state")
    monkeypatch.undo()
    with pytest.raises(StateError, match="version 9"):
        busy.predictor.load_state(tmp_path / "state", video)


def test_loaded_tensors_do_not_map_the_file(busy, video, tmp_path):
    file = tmp_path / "state"
    p = busy.predictor
    p.save_state(busy.state, file)
    state = p.load_state(file, video)
    expected = snapshot(state)
    file.write_bytes(bytes(file.stat().st_size))
    assert snapshot(state) == expected
    (tmp_path / "other").touch()
    assert file.stat().st_mode == (tmp_path / "other").stat().st_mode  # safetensors alone would hide it from others


def test_prompts_with_any_strides(video_predictor, video, tmp_path):
    s = Session(video_predictor, video)
    coords = np.array([[60.0, 30.0], [40.0, 20.0]]).T
    video_predictor.add_new_points_or_box(s.state, 0, "a", coords, np.array([1, 0]))
    video_predictor.add_new_mask(s.state, 1, "a", torch.eye(SMALL, SMALL).cumsum(0).clamp(max=1).t())
    other = saved_and_loaded(s, video, tmp_path / "state")
    assert snapshot(other.state) == snapshot(s.state)


def test_a_file_that_cannot_be_written(busy, tmp_path):
    """The previous file stays, and no temporary file is left."""
    p = busy.predictor
    with pytest.raises(FileNotFoundError, match=r"nowhere/state'$"):
        p.save_state(busy.state, tmp_path / "nowhere" / "state")
    (tmp_path / "folder").mkdir()
    for folder in (tmp_path / "folder", ""):
        with pytest.raises(IsADirectoryError, match="which is a folder"):
            p.save_state(busy.state, folder)
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_out_of_memory_is_not_reported_as_damage(busy, tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    busy.predictor.save_state(busy.state, tmp_path / "state")
    monkeypatch.setattr(saved_state, "_digest", fail)
    with pytest.raises(MemoryError):
        saved_state.read(tmp_path / "state")
