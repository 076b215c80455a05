"""All objects of a frame as one batch: the same logits as each of them alone."""

from pathlib import Path

import pytest
import torch
from video import Session, clip, jpeg_folder, narrow_predictor

from sam2fast.deploy.compilation import compile_model, uncompile
from sam2fast.tracking import eager_runner, memory_bank
from sam2fast.utils.testing import relative_error

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def predictor():
    return narrow_predictor(apply_postprocessing=False)


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return jpeg_folder(tmp_path_factory.mktemp("video"), clip(12))


def life_of(s: Session, obj: str) -> None:
    """Prompts of one object."""
    if obj == "a":
        s.points(0, obj, (60, 40, 1))
    if obj == "b":
        s.points(2, obj, box=[20, 20, 70, 60])
        s.points(5, obj, (40, 40, 1))
    if obj == "c":
        s.points(4, obj, (20, 70, 1))


def logits(s: Session, obj: str, first: int = 0) -> dict[tuple[int, int], torch.Tensor]:
    """Logits of one object in every answer of a propagation, by count and frame."""
    tracked = [r for r in s.records[first:] if r.step.startswith("propagate") and obj in r.ids]
    return {(i, r.frame): r.masks[r.ids.index(obj)] for i, r in enumerate(tracked)}


def assert_equal(together: dict, alone: dict) -> None:
    assert together.keys() == alone.keys() and alone
    for key, expected in alone.items():
        assert relative_error(expected, together[key]) <= TOLERANCE, key


def alone(predictor, video, obj: str, *passes: dict) -> Session:
    s = Session(predictor, video)
    life_of(s, obj)
    for kwargs in passes:
        s.propagate(**kwargs)
    return s


def test_histories_of_different_length(predictor, video):
    forward, backward = {"start_frame_idx": 0}, {"start_frame_idx": 11, "reverse": True}
    s = Session(predictor, video)
    for obj in "abc":
        life_of(s, obj)
    s.propagate(**forward)
    s.propagate(**backward)
    for obj in "abc":
        assert_equal(logits(s, obj), logits(alone(predictor, video, obj, forward, backward), obj))


def test_objects_added_and_removed_in_between(predictor, video):
    first, rest = {"start_frame_idx": 0, "max_frame_num_to_track": 4}, {"start_frame_idx": 5}
    s = Session(predictor, video)
    life_of(s, "a")
    life_of(s, "b")
    s.propagate(**first)
    s.remove("a")
    life_of(s, "c")
    so_far = len(s.records)
    s.propagate(**rest)
    assert_equal(logits(s, "b"), logits(alone(predictor, video, "b", first, rest), "b"))
    assert_equal(logits(s, "c", so_far), logits(alone(predictor, video, "c", rest), "c"))


def test_removal_during_propagation(predictor, video):
    """The others continue unchanged."""
    s = Session(predictor, video)
    for obj in "abc":
        life_of(s, obj)
    seen = {}
    for frame, ids, masks in predictor.propagate_in_video(s.state, start_frame_idx=0):
        if frame == 3:
            predictor.remove_object(s.state, "a")
        seen[frame] = (list(ids), masks)
    assert seen[3][0] == ["a", "b", "c"] and seen[4][0] == ["b", "c"]
    expected = logits(alone(predictor, video, "b", {"start_frame_idx": 0}), "b")
    assert_equal({(i, i): masks[ids.index("b")] for i, (ids, masks) in seen.items()}, expected)


@pytest.mark.parametrize("prompted", [(0,), (0, 1), (0, 1, 2)], ids=str)
def test_shapes_do_not_depend_on_the_amount_of_memory(prompted, predictor, tmp_path, monkeypatch):
    """One shape from the second frame to the twentieth, and one tensor of pages."""
    s = Session(predictor, jpeg_folder(tmp_path, clip(20)))
    for frame in prompted:
        s.points(frame, 1, (60, 40, 1))
    right, seen = eager_runner.gather_memory, set()

    def recorded(*given):
        memory = right(*given)
        seen.add((tuple(tuple(x.shape) for x in memory), memory.pages.data_ptr()))
        return memory

    monkeypatch.setattr(eager_runner, "gather_memory", recorded)
    s.propagate()
    assert len(seen) == 1


def test_capacity_in_buckets(predictor, video, monkeypatch):
    """Rows beyond the objects, as in recorded steps, change nothing; nor does a wider table."""
    s = Session(predictor, video)
    for obj in "abc":
        life_of(s, obj)
    s.propagate(start_frame_idx=0)
    right = eager_runner.gather_memory
    shapes = set()

    def with_spare_rows(model, bank, objects, rules, num_frames):
        memory = right(model, bank, objects, rules, num_frames)
        spare = memory_bank.bucket(len(objects)) - len(objects)
        padded = {}
        for name in ("page_table", "page_time", "pointers", "pointer_encoding", "pointer_valid"):
            x = getattr(memory, name)
            fill = -1 if name == "page_table" else 0
            padded[name] = torch.cat([x, x.new_full((spare, *x.shape[1:]), fill)])
        memory = memory._replace(**padded)
        shapes.add(tuple(memory.page_table.shape))
        return memory

    monkeypatch.setattr(eager_runner, "gather_memory", with_spare_rows)
    wide = Session(predictor, video)
    for obj in "abc":
        life_of(wide, obj)
    wide.propagate(start_frame_idx=0)
    for obj in "abc":
        assert_equal(logits(wide, obj), logits(s, obj))
    # Two or three objects to track, with one or two conditioning frames.
    assert shapes == {(2, 7), (2, 8), (4, 8)}


def test_rows_fill_a_bucket_for_compiled_parts(video):
    """Only there: idle rows cost as much as others."""
    predictor = narrow_predictor(apply_postprocessing=False)
    s = Session(predictor, video)
    for obj in "abc":
        s.points(0, obj, (60, 40, 1))
    predictor.propagate_in_video_preflight(s.state)
    tracker = predictor._tracker
    rules = tracker.rules(s.state)
    pages = tracker.select(s.state, list(s.state.objects.values()), 1, False, rules)

    class OnCuda:
        """A model that claims to be on CUDA."""

        device = torch.device("cuda")

        def __getattr__(self, name):
            return getattr(predictor, name)

    def rows(model) -> int:
        return len(eager_runner.gather_memory(model, s.state.bank, pages, rules, 12).page_table)

    assert rows(OnCuda()) == 3
    compile_model(predictor, ["mask_decoder"], backend="eager")
    assert rows(OnCuda()) == 4 and rows(predictor) == 3
    uncompile(predictor)
    compile_model(predictor, ["memory_attention"], backend="eager")
    assert rows(OnCuda()) == 4
    uncompile(predictor)
    compile_model(predictor, ["image_encoder"], backend="eager")  # which knows of no objects
    assert rows(OnCuda()) == 3
    part = predictor.memory_encoder
    for how in ("its forward", "itself", "a module around it"):
        if how == "its forward":  # as the original's VOS predictor does
            part.forward = torch.compile(part.forward, backend="eager")
        elif how == "itself":
            part.compile(backend="eager")
        else:
            predictor.memory_encoder = torch.compile(part, backend="eager")
        assert rows(OnCuda()) == 4, how
        predictor.memory_encoder = part
        for name in ("forward", "_compiled_call_impl"):
            vars(part).pop(name, None)
        assert rows(OnCuda()) == 3, how


def test_buckets():
    assert [memory_bank.bucket(n) for n in (1, 2, 3, 5, 8, 9, 33, 64, 65, 200)] == [1, 2, 4, 8, 8, 16, 64, 64, 128, 256]


def test_the_first_self_attention_is_shared(predictor, video, monkeypatch):
    """Layer 0 attends to the frame itself once, whatever the number of objects; later layers once per object."""
    rows = []
    for layer in predictor.memory_attention.layers:
        right = layer.self_attn.forward

        def counted(q, k, v, right=right):
            rows.append(len(q))
            return right(q, k, v)

        monkeypatch.setattr(layer.self_attn, "forward", counted)
    s = Session(predictor, video)
    for obj in "abc":
        life_of(s, obj)
    rows.clear()
    s.propagate(start_frame_idx=6, max_frame_num_to_track=0)
    assert rows == [1, 3]
