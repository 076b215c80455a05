"""``propose_masks``: the masks from which a prompt would select, without a change of the session."""

import pytest
import torch
from moving_shapes import HEIGHT, WIDTH, make_frames

from sam2fast.build_sam import build_sam2_video_predictor_hf
from sam2fast.kernels.mask_ops import upsample_masks

ON_SQUARE, ON_DISC = [16, 19], [50, 34]


@pytest.fixture(scope="module")
def predictor():
    smaller = ["++model.image_size=128"]
    return build_sam2_video_predictor_hf("sam2fast/nano", device="cpu", hydra_overrides_extra=smaller)


@pytest.fixture
def state(predictor):
    return predictor.init_state(make_frames(4))


def assert_best(candidates, logits):
    """The first candidate is the mask of the prompt."""
    assert candidates.ious == sorted(candidates.ious, reverse=True) and len(candidates.ious) == len(candidates.logits)
    assert torch.equal(upsample_masks(candidates.logits[:1], (HEIGHT, WIDTH)), logits[-1:])


def test_first_clicks(predictor, state):
    single = predictor.propose_masks(state, 0, "a", [ON_SQUARE], [1])
    several = predictor.propose_masks(state, 0, "a", [ON_SQUARE, ON_DISC], [1, 0])
    corners = predictor.propose_masks(state, 0, "a", [[4, 8], [28, 30]], [2, 3])
    assert not state.objects and [len(x.logits) for x in (single, several, corners)] == [3, 1, 1]
    assert_best(single, predictor.add_new_points_or_box(state, 0, "a", [ON_SQUARE], [1])[2])
    assert_best(several, predictor.add_new_points_or_box(state, 0, "b", [ON_SQUARE, ON_DISC], [1, 0])[2])
    assert_best(corners, predictor.add_new_points_or_box(state, 0, "c", box=[4, 8, 28, 30])[2])
    normalized = predictor.propose_masks(state, 0, "d", [[16 / WIDTH, 19 / HEIGHT]], [1], normalize_coords=False)
    assert torch.allclose(normalized.logits, single.logits, atol=1e-3) and normalized.score == pytest.approx(
        single.score
    )


def test_corrections_attend_to_memories(predictor, state):
    predictor.add_new_points_or_box(state, 0, "a", [ON_SQUARE], [1])
    list(predictor.propagate_in_video(state, progress=False))
    before = vars(state.objects["a"].copy())
    of_new_object = predictor.propose_masks(state, 2, "b", [ON_DISC], [1])
    assert [*state.objects] == ["a"]
    correction = predictor.propose_masks(state, 2, "a", [ON_DISC], [1])
    assert vars(state.objects["a"]) == before
    assert correction.score != of_new_object.score
    assert_best(correction, predictor.add_new_points_or_box(state, 2, "a", [ON_DISC], [1])[2])


def test_points_that_replace_prompts(predictor, state):
    predictor.add_new_points_or_box(state, 0, "a", [ON_DISC], [1])
    before = vars(state.objects["a"].copy())
    refined = predictor.propose_masks(state, 0, "a", [ON_SQUARE], [1])
    replaced = predictor.propose_masks(state, 0, "a", [ON_SQUARE], [1], refine=False)
    assert torch.equal(replaced.logits, predictor.propose_masks(state, 0, "b", [ON_SQUARE], [1]).logits)
    assert not torch.equal(refined.logits[0], replaced.logits[0])
    assert vars(state.objects["a"]) == before


def test_errors(predictor, state):
    for frame, points, error, message in (
        (4, [ON_SQUARE], IndexError, "frame 4 is not in this video"),
        ("0", [ON_SQUARE], TypeError, "frame_idx"),
        (0, [[1, 2, 3]], ValueError, "points"),
        (0, [], ValueError, "points"),
    ):
        with pytest.raises(error, match=message):
            predictor.propose_masks(state, frame, 1, points, [1] * len(points))
    with pytest.raises(TypeError, match="expected the session"):
        predictor.propose_masks(None, 0, 1, [ON_SQUARE], [1])
    assert state["output_dict_per_obj"] == {}
    with pytest.raises(RuntimeError, match="propose_masks is not supported: this session is the official dict"):
        predictor.propose_masks(state, 0, 1, [ON_SQUARE], [1])
