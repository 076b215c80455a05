"""Losses at a lower resolution, fixed clips, validation, object ids."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sam2fast.evaluation.j_and_f import boundary_f, jaccard
from sam2fast.training.data.batch import ClipBatch
from sam2fast.training.data.clip import Clip
from sam2fast.training.data.dataset_wrappers import FixedClips
from sam2fast.training.data.loader import ClipLoader, ClipSource
from sam2fast.training.losses import AtResolution, FromScratchLoss, MultiStepMultiMasksAndIous, sample_masks
from sam2fast.training.model import PredictedFrame
from sam2fast.training.validation import validate

WEIGHTS = {"loss_mask": 20.0, "loss_dice": 1.0, "loss_iou": 1.0, "loss_class": 1.0}


class TestResolution:
    def test_an_odd_stride_takes_the_middle_and_an_even_one_shifts_nothing(self) -> None:
        assert sample_masks(torch.arange(81).view(9, 9), 3).tolist() == [[10, 13, 16], [37, 40, 43], [64, 67, 70]]
        x = torch.arange(64).expand(64, 64)
        sampled = sample_masks(x, 32).double()
        cells = torch.arange(32) * 2 + 0.5  # their centres, in pixels
        assert (sampled - cells).abs().max() == 0.5
        assert (sampled - cells).mean() == 0 and (sampled.T - sample_masks(x.T, 32).double()).abs().max() == 0

    def test_the_loss_is_that_of_the_smaller_masks(self) -> None:
        torch.manual_seed(0)
        logits, truth = torch.randn(2, 3, 8, 8), torch.rand(1, 2, 32, 32) > 0.5
        frame = PredictedFrame(
            multimasks=[logits], multimasks_high_res=[torch.zeros(2, 3, 32, 32)], ious=[torch.rand(2, 3)],
            object_scores=[torch.randn(2, 1)],
        )  # fmt: skip
        loss = MultiStepMultiMasksAndIous(WEIGHTS, supervise_all_iou=True, pred_obj_scores=True)
        found = AtResolution(loss, 8)([frame], truth)
        frame.multimasks_high_res = frame.multimasks
        expected = loss([frame], sample_masks(truth, 8))
        assert {k: v.item() for k, v in found.items()} == {k: v.item() for k, v in expected.items()}
        fading = AtResolution(FromScratchLoss(WEIGHTS), 8)
        fading.where = 0.25
        assert fading.where == fading.loss.where == 0.25  # type: ignore[union-attr]
        with pytest.raises(ValueError, match="masks of 32 pixels cannot be sampled at 12"):
            AtResolution(MultiStepMultiMasksAndIous(WEIGHTS), 12)([], torch.zeros(1, 1, 32, 32))


class Noise:
    """Clips of noise that depend on the generator."""

    def __len__(self) -> int:
        return 10

    def sample(self, index: int, rng: np.random.Generator) -> Clip:
        return Clip(rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8), rng.random((2, 1, 8, 8)) > 0.5, f"{index}")


class TestFixedClips:
    def test_every_epoch_is_the_same(self) -> None:
        loader = ClipLoader([ClipSource(FixedClips(Noise(), 4), 2)], shuffle=False)
        first, second = (torch.stack([b.frames for b in loader.epoch(e)]) for e in (0, 1))
        assert torch.equal(first, second)
        other = ClipLoader([ClipSource(FixedClips(Noise(), 4, seed=1), 2)], shuffle=False)
        assert not torch.equal(first, torch.stack([b.frames for b in other.epoch(0)]))
        kept, rng = FixedClips(Noise(), 3, keep=True), np.random.default_rng(0)
        assert kept.sample(1, rng) is kept.sample(1, rng)


def test_validation_measures_what_was_predicted() -> None:
    """A model that answers with given masks: the measures are those of the masks."""
    rng = np.random.default_rng(0)
    truth = torch.from_numpy(rng.random((3, 2, 16, 16)) > 0.5)
    answer = torch.from_numpy(rng.random((3, 2, 16, 16)) > 0.5)
    batch = ClipBatch(torch.zeros(3, 1, 16, 16, 3, dtype=torch.uint8), truth, torch.zeros(2, dtype=torch.long), (0,))
    logits = [torch.where(mask, 1.0, -1.0)[:, None] for mask in answer]
    worse = -torch.ones(2, 1, 16, 16)
    frames = [SimpleNamespace(masks_high_res=[worse, x] if t == 0 else [x]) for t, x in enumerate(logits)]
    model: Any = lambda batch: SimpleNamespace(frames=frames)  # noqa: E731
    loader: Any = SimpleNamespace(epoch=lambda epoch: [batch])
    found = validate(model, loader, torch.device("cpu"))
    j = 100 * np.mean([jaccard(answer[t, o].numpy(), truth[t, o].numpy()) for o in range(2) for t in (1, 2)])
    f = 100 * np.mean([boundary_f(answer[t, o].numpy(), truth[t, o].numpy()) for o in range(2) for t in (1, 2)])
    assert found == pytest.approx({"J&F": (j + f) / 2, "J": j, "F": f, "first": 0.0, "objects": 2})
