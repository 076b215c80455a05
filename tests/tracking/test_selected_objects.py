"""``obj_ids``: a pass tracks some objects as if they were alone in the session, and leaves the others unchanged."""

import numpy as np
import pytest
import torch

from sam2fast.build_sam import build_sam2_video_predictor_hf

HEIGHT = WIDTH = 64
LENGTH = 5
CLICKS = {7: [15, 18], 3: [49, 46], 5: [32, 10]}  # in the order of the session


@pytest.fixture(scope="module")
def predictor():
    smaller = ["++model.image_size=128"]
    return build_sam2_video_predictor_hf("sam2fast/nano", device="cpu", hydra_overrides_extra=smaller)


def prompted(predictor, ids=(7, 3, 5), strategy=None):
    """Session of a clip with squares. Object ``i`` is clicked on frame 1."""
    frames = np.full((LENGTH, HEIGHT, WIDTH, 3), 40, np.uint8)
    for t in range(LENGTH):
        frames[t, 10:26, 4 + 3 * t : 20 + 3 * t] = (220, 60, 60)
        frames[t, 38:54, 44 - 3 * t : 60 - 3 * t] = (60, 220, 60)
    state = predictor.init_state(frames, strategy=strategy)
    for obj_id in ids:
        predictor.add_new_points_or_box(state, 1, obj_id, [CLICKS[obj_id]], [1])
    return state


def passed(predictor, state, **options):
    return list(predictor.propagate_in_video(state, progress=False, **options))


def records(state, ids):
    """Prompts and results of objects, to compare by identity."""
    return {i: {name: dict(entries) for name, entries in vars(state.objects[i]).items()} for i in ids}


def assert_equal(found, expected, ids):
    assert [(frame, seen) for frame, seen, *_ in found] == [(frame, ids) for frame, *_ in expected] != []
    for item, other in zip(found, expected, strict=True):
        assert torch.equal(item[2], other[2])


@pytest.mark.parametrize(
    ("obj_ids", "ids"),
    [
        ([3], [3]),
        ((5, 7), [7, 5]),
        ({5, 3}, [3, 5]),
        (iter([3, 3]), [3]),
        (np.array([5, 3]), [3, 5]),
        (torch.tensor([3]), [3]),
        ({5: "name"}.keys(), [5]),
        (None, [7, 3, 5]),
    ],
    ids=["list", "tuple", "set", "iterator", "array", "tensor", "keys", "all"],
)
def test_forms(predictor, obj_ids, ids):
    state, alone = prompted(predictor), prompted(predictor, ids)
    others = [i for i in CLICKS if i not in ids]
    before = records(state, others)
    assert_equal(passed(predictor, state, obj_ids=obj_ids), passed(predictor, alone), ids)
    assert records(state, others) == before
    assert [*state.objects] == state.obj_ids == [*CLICKS]


@pytest.mark.parametrize("strategy", ["together", "sam2long", "samurai"])
def test_other_objects_do_not_compete(predictor, strategy):
    state, alone = prompted(predictor, strategy=strategy), prompted(predictor, [7, 5], strategy)
    assert_equal(passed(predictor, state, obj_ids=[5, 7]), passed(predictor, alone), [7, 5])


def test_other_objects_remove_no_pixels(predictor, monkeypatch):
    monkeypatch.setattr(predictor, "non_overlap_masks", True)
    state, alone = prompted(predictor), prompted(predictor, [3])
    predictor.add_new_points_or_box(state, 1, 7, [CLICKS[3]], [1])  # the same square
    assert_equal(passed(predictor, state, obj_ids=[3]), passed(predictor, alone), [3])


def test_corrections_and_passes_in_turns(predictor):
    """Objects are tracked one after the other, in both directions, with a correction of another object between."""
    state, alone = prompted(predictor), prompted(predictor, [3])
    for each in (state, alone):
        passed(predictor, each, obj_ids=[3])
        predictor.add_new_points_or_box(each, 3, 3, [[43, 46]], [0])
    predictor.add_new_points_or_box(state, 2, 7, [[18, 18]], [1])
    new = dict(state.objects[7].new_conditioning)
    assert_equal(passed(predictor, state, obj_ids=[3], reverse=True), passed(predictor, alone, reverse=True), [3])
    assert state.objects[7].new_conditioning == new != {} and not state.objects[7].reverse
    assert state.objects[3].reverse == {4: False, 3: False, 2: False, 1: True, 0: True}
    assert [ids for _, ids, _ in passed(predictor, state)] == [[7, 3, 5]] * 4
    assert {1, 2} == state.objects[7].conditioning.keys()


def test_the_first_frame_is_of_the_requested_objects(predictor):
    state = prompted(predictor, [7])
    predictor.add_new_points_or_box(state, 3, 3, [[43, 46]], [1])
    assert [frame for frame, *_ in passed(predictor, state, obj_ids=[7])] == [1, 2, 3, 4]
    assert [frame for frame, *_ in passed(predictor, state, obj_ids=[3])] == [3, 4]


def test_both_directions(predictor):
    state, alone = prompted(predictor), prompted(predictor, [3, 5])
    predictor.add_new_points_or_box(state, 4, 9, [[32, 60]], [1])  # would be first prompted last
    before = records(state, [7, 9])
    found = list(predictor.propagate_both(state, obj_ids=iter([5, 3]), progress=False))
    assert_equal(found, list(predictor.propagate_both(alone, progress=False)), [3, 5])
    assert [frame for frame, *_ in found] == [1, 2, 3, 4, 0]
    assert records(state, [7, 9]) == before


def test_an_object_that_is_removed_meanwhile(predictor):
    state = prompted(predictor)
    tracking = predictor.propagate_in_video(state, progress=False, obj_ids=[7, 5])
    assert next(tracking)[1] == [7, 5]
    predictor.remove_object(state, 5)
    assert [ids for _, ids, _ in tracking] == [[7]] * 3


@pytest.mark.parametrize(
    ("obj_ids", "error", "message"),
    [
        ([3, 4], RuntimeError, r"there is no object 4 to track; the ids are \[7, 3, 5, 8\]"),
        ("dog", TypeError, r"obj_ids is 'dog'; expected several ids, such as \['dog'\]"),
        ([], ValueError, "obj_ids is empty; expected at least one id, or None for all objects"),
        (3, TypeError, r"obj_ids is 3; expected several ids, such as \[3\]"),
        ([3, 8], RuntimeError, "object 8 has no points, box or mask"),
    ],
    ids=["unknown", "text", "empty", "number", "without prompts"],
)
@pytest.mark.parametrize("method", ["propagate_in_video", "propagate_both", "propagate_in_video_preflight"])
def test_errors_change_nothing(predictor, method, obj_ids, error, message):
    state = prompted(predictor)
    predictor.add_new_points_or_box(state, 1, 8, [[5, 60]], [1])
    predictor.clear_all_prompts_in_frame(state, 1, 8)
    before = records(state, state.objects)
    with pytest.raises(error, match=message):
        list(getattr(predictor, method)(state, obj_ids=obj_ids) or ())
    assert records(state, state.objects) == before
    assert len(passed(predictor, state, obj_ids=[3])) == 4  # object 8 has no prompts, but is not requested


@pytest.mark.parametrize("method", ["propagate_in_video", "propagate_both", "propagate_in_video_preflight"])
def test_the_originals_dict_is_refused(predictor, method):
    state = prompted(predictor, [3])
    new = state["temp_output_dict_per_obj"][0]["cond_frame_outputs"]
    with pytest.raises(RuntimeError, match="obj_ids is not supported: this session is the official dict"):
        list(getattr(predictor, method)(state, obj_ids=[3]) or ())
    assert [*new] == [1]


def test_a_refusal_leaves_the_session_as_it_is(predictor, monkeypatch):
    """With an overridden private method, without which the session would stay ours."""
    state = prompted(predictor, [3])
    monkeypatch.setattr(predictor, "track_step", predictor.track_step, raising=False)
    with pytest.raises(RuntimeError, match="obj_ids is not supported"):
        predictor.propagate_in_video_preflight(state, obj_ids=[3])
    assert state.official is None


def test_a_session_that_becomes_the_originals_dict_meanwhile(predictor):
    state = prompted(predictor)
    tracking = predictor.propagate_in_video(state, progress=False, obj_ids=[3])
    next(tracking)
    assert state["output_dict_per_obj"]
    with pytest.raises(RuntimeError, match="obj_ids is not supported: this session is the official dict"):
        next(tracking)


def test_overridden_methods(predictor, monkeypatch):
    """Methods with the official signatures still work, and methods with ``obj_ids`` get the ids."""
    calls, kind = [], type(predictor)
    preflight, propagate = kind.propagate_in_video_preflight, kind.propagate_in_video

    def original(self, inference_state, start_frame_idx=None, max_frame_num_to_track=None, reverse=False):
        yield from propagate(self, inference_state, start_frame_idx, max_frame_num_to_track, reverse, progress=False)

    def with_ids(self, inference_state, **options):
        calls.append(options)
        return preflight(self, inference_state, **options)

    monkeypatch.setattr(kind, "propagate_in_video_preflight", lambda self, state: preflight(self, state))
    monkeypatch.setattr(kind, "propagate_in_video", original)
    assert len(list(predictor.propagate_both(prompted(predictor)))) == LENGTH
    monkeypatch.setattr(kind, "propagate_in_video_preflight", with_ids)
    monkeypatch.setattr(kind, "propagate_in_video", propagate)
    passed(predictor, prompted(predictor), obj_ids=(5, 3))
    assert calls == [{"obj_ids": [5, 3]}]
