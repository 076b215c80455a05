"""The choice of masks in one kernel, in Triton's interpreter if there is no GPU."""

import pytest
import torch
from kernel_checks import by_kernel
from kernel_records.choose_masks import arguments

from sam2fast.kernels.choose_masks import ABSENT, choose_masks, choose_masks_reference
from sam2fast.modeling.sam2_base import NO_OBJ_SCORE, gather_chosen

SHAPES = {"one": (1, 1, 1, 1, 1), "few": (7, 3, 5, 7, 20), "several programs": (2, 4, 50, 90, 256)}


def given(shape, dtype=torch.float32, has_tokens=True, device="cpu"):
    generator = torch.Generator().manual_seed(3)
    return [x.to(device) for x in arguments(shape, dtype, generator, has_tokens)]


def assert_equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    ("dtype", "presence", "has_tokens"),
    [
        (torch.float32, None, True),
        (torch.float32, 0.0, False),
        (torch.float32, 0.3, True),
        (torch.bfloat16, 0.0, True),
        (torch.float16, None, False),
    ],
    ids=str,
)
def test_kernel(triton_device, name, dtype, presence, has_tokens):
    """Tests equal IoUs and NaN, too."""
    tensors = given(SHAPES[name], dtype, has_tokens, triton_device)
    assert_equal(by_kernel(choose_masks, *tensors, presence), choose_masks_reference(*tensors, presence))


def test_rows_apart(triton_device):
    """Heads of the mask decoder are views of one tensor, and are not copied."""
    masks, ious, tokens, scores = given((4, 3, 5, 6, 8), device=triton_device)
    apart = [torch.cat([x, torch.full_like(x, 9)], dim=1)[:, : x.shape[1]] for x in (ious, tokens, scores)]
    found = by_kernel(choose_masks, masks, *apart, 0.0)
    assert_equal(found, choose_masks_reference(masks, ious, tokens, scores, 0.0))


def test_the_reference_is_a_choice_among_suppressed_masks():
    masks, ious, tokens, scores = given((9, 3, 5, 6, 8))
    suppressed = torch.where((scores > 0)[:, None, None], masks, NO_OBJ_SCORE)
    choice = ious.argmax(dim=-1, keepdim=True)
    expected = *(gather_chosen(x, choice) for x in (suppressed, ious)), gather_chosen(tokens, choice)[:, 0]
    assert_equal(choose_masks(masks, ious, tokens, scores, 0.0), (*expected, choice, scores > 0))
    assert ABSENT == NO_OBJ_SCORE


def test_wrong_shapes():
    masks, ious, tokens, scores = given((2, 3, 2, 2, 4))
    for wrong in ((masks[:1], ious), (masks[:, :2], ious), (masks, ious[0])):
        with pytest.raises(ValueError, match="expected masks"):
            choose_masks(*wrong, tokens, scores, 0.0)
    with pytest.raises(ValueError, match="expected masks"):
        choose_masks(masks, ious, tokens[:, :2], scores, 0.0)
