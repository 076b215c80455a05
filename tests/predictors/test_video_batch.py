"""All objects of a frame as one batch: its shapes, its spare rows, and what its objects share."""

import pytest
import torch
from video import Session, clip, errors, jpeg_folder, narrow_predictor

from sam2fast.deploy.compilation import compile_model, uncompile
from sam2fast.engine.cpu import memory
from sam2fast.tracking import memory_bank, step
from sam2fast.utils.testing import relative_error

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def predictor():
    return narrow_predictor(apply_postprocessing=False)


def prompted(predictor, video) -> Session:
    """A session with three objects, one of them prompted twice."""
    s = Session(predictor, video)
    s.points(0, "a", (60, 40, 1))
    s.points(2, "b", box=[20, 20, 70, 60])
    s.points(5, "b", (40, 40, 1))
    s.points(4, "c", (20, 70, 1))
    return s


def test_removal_during_propagation(predictor, video):
    """The others continue unchanged."""
    whole, s = prompted(predictor, video), prompted(predictor, video)
    whole.propagate(start_frame_idx=0)
    for record, (frame, ids, masks) in zip(
        whole.records[4:], predictor.propagate_in_video(s.state, start_frame_idx=0), strict=True
    ):
        assert record.frame == frame and ids == (["a", "b", "c"] if frame <= 3 else ["b", "c"])
        for expected, actual in zip(record.masks[-2:], masks[-2:], strict=True):
            assert relative_error(expected, actual) <= TOLERANCE
        if frame == 3:
            predictor.remove_object(s.state, "a")


def test_shapes_do_not_depend_on_the_amount_of_memory(predictor, tmp_path, monkeypatch):
    """One shape from the second frame to the twentieth, and one tensor of pages."""
    s = Session(predictor, jpeg_folder(tmp_path, clip(20)))
    for frame in (0, 1, 2):
        s.points(frame, 1, (60, 40, 1))
    right, seen = step.attended_by_tables, set()

    def recorded(*given):
        memory = right(*given)
        seen.add((tuple(tuple(x.shape) for x in memory[:8]), memory.pages.data_ptr()))
        return memory

    monkeypatch.setattr(step, "attended_by_tables", recorded)
    s.propagate()
    assert len(seen) == 1


def test_capacity_in_buckets(predictor, video, monkeypatch):
    """Rows beyond the objects, as in recorded steps, change nothing; nor does a wider table."""
    s = prompted(predictor, video)
    s.propagate(start_frame_idx=0)
    right, shapes = memory_bank.MemoryBank.shape_of, set()

    def with_spare_rows(bank, objects, rules, in_buckets):
        shape = right(bank, objects, rules, in_buckets=True)
        shapes.add(shape[:2])
        return shape

    monkeypatch.setattr(memory_bank.MemoryBank, "shape_of", with_spare_rows)
    wide = prompted(predictor, video)
    wide.propagate(start_frame_idx=0)
    for a, b in zip(s.records, wide.records, strict=True):
        assert a.ids == b.ids and max(errors(a, b)) <= TOLERANCE, a.step
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
        return s.state.bank.shape_of(pages, rules, in_buckets=step.is_compiled(model)).objects

    # The image encoder knows of no objects.
    for parts, expected in (([], 3), (["mask_decoder"], 4), (["memory_attention"], 4), (["image_encoder"], 3)):
        compile_model(predictor, parts, backend="eager")
        assert (rows(OnCuda()), rows(predictor)) == (expected, 3), parts
        uncompile(predictor)
    part = predictor.memory_encoder
    for how in ("its forward", "itself", "a module around it"):
        if how == "its forward":  # as the official VOS predictor does
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


def test_the_first_self_attention_is_shared(predictor, video, monkeypatch):
    """Layer 0 attends to the frame itself once, whatever the number of objects; later layers once per object."""
    rows, attend = [], memory._attend_to_itself

    def counted(layer, x, rotation):
        rows.append(len(x))
        return attend(layer, x, rotation)

    monkeypatch.setattr(memory, "_attend_to_itself", counted)
    s = prompted(predictor, video)
    rows.clear()
    s.propagate(start_frame_idx=6, max_frame_num_to_track=0)
    assert rows == [1, 3]
