"""Prompts are validated on the CPU, before the copy to a GPU: a meta tensor has no values, so reading one fails."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sam2fast.amg.candidates import Candidates
from sam2fast.prompt_inputs import check_boxes, check_numbers, check_points
from sam2fast.tracking.prompting import mask_prompt

AWAY, CPU = torch.device("meta"), torch.device("cpu")


@pytest.mark.parametrize("place", [AWAY, CPU], ids=str)
def test_prompts_are_checked_on_the_cpu(place):
    with torch.device(place):
        coords, labels = check_points([[1, 2], [3, 4]], [1, 0])
        boxes = check_boxes([[0, 0, 5, 5], [1, 1, 2, 2]])
    assert torch.equal(coords, torch.tensor([[[1.0, 2], [3, 4]]])) and coords.is_cpu
    assert torch.equal(labels, torch.tensor([[1, 0]], dtype=torch.int32)) and labels.dtype == torch.int32
    assert torch.equal(boxes, torch.tensor([[0.0, 0, 5, 5], [1, 1, 2, 2]]))
    assert check_numbers(np.zeros((4, 4)), "mask_input", AWAY).is_meta


@pytest.mark.parametrize("place", [AWAY, CPU], ids=str)
@pytest.mark.parametrize(
    ("value", "word"), [(2e6, "too large"), *((x, "NaN or infinite") for x in (torch.nan, torch.inf, -torch.inf))]
)
def test_wrong_masks_are_refused_for_any_device(place, value, word):
    mask = torch.zeros(8, 8)
    mask[2, 2] = value
    with pytest.raises(ValueError, match=f"the mask holds .*{word}"):
        mask_prompt(mask, 8, place)
    with pytest.raises(ValueError, match="logits holds"):
        check_numbers([1e20], "logits", place)


@pytest.mark.parametrize("mask", [np.eye(8), torch.eye(8), torch.eye(8, dtype=torch.uint8), torch.eye(8).bool()])
def test_masks_of_a_video_are_copied_last(mask):
    there, here = mask_prompt(mask, 8, AWAY), mask_prompt(mask, 8, CPU)
    assert there.is_meta and (there.shape, there.dtype) == (here.shape, here.dtype)
    assert torch.equal(here, torch.eye(8)[None, None])


def test_shapes_of_lists_of_tensors_are_reported():
    """NumPy would refuse tensors that require gradients or are on a GPU."""
    points = [torch.zeros(2, requires_grad=True)] * 2
    with pytest.raises(ValueError, match=r"labels has shape \(3,\); expected \(2,\), one per point"):
        check_points(points, [1, 1, 1])


def test_candidates_are_selected_with_one_synchronisation():
    found = Candidates(*(torch.randn(5, *shape) for shape in ((4, 4), (), (2,), (), (4,))), rows=torch.arange(5))
    keep = torch.tensor([True, False, True, True, False])

    class Watch(TorchDispatchMode):
        looks = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.index.Tensor:
                self.looks += any(x is not None and x.dtype == torch.bool for x in args[1])
            self.looks += func is torch.ops.aten.nonzero.default
            return func(*args, **(kwargs or {}))

    with Watch() as watch:
        chosen = found.select(keep)
    assert watch.looks == 1
    for column, expected in zip(chosen, found, strict=True):
        assert torch.equal(column, expected[keep])
    assert torch.equal(found.select(torch.tensor([4, 0])).rows, torch.tensor([4, 0]))
