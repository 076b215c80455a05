"""Estimates of memory equal the measured memory, and leave the trainer unchanged."""

from dataclasses import replace

import pytest
import yaml
from click.testing import CliRunner
from small_training import AUXILIARY, RECIPE, build, overrides
from torch import nn
from training_pair import batch_of_discs

from sam2fast.cli import main
from sam2fast.training.data.camera import RandomCamera
from sam2fast.training.data.dataset_wrappers import ConcatDataset, RepeatFactorWrapper
from sam2fast.training.data.sampling import RandomUniformSampler
from sam2fast.training.data.synthetic import SyntheticClips
from sam2fast.training.data.vos import VOSDataset
from sam2fast.training.memory_estimate import (
    MIB,
    BatchShape,
    bytes_saved,
    bytes_saved_for_batch,
    estimate_memory,
    largest_batch,
    most_expensive_plan_seed,
)
from sam2fast.training.settings import AmpConf

# As in the larger models: with dropout the CPU uses the math backend of attention.
DROPOUT = tuple(f"++trainer.model.memory_attention.layer.{which}_attention.dropout=0.1" for which in ("self", "cross"))
CHANGES = ("trainer.model.num_correction_pt_per_frame=1", *DROPOUT)
SHAPE = BatchShape(num_frames=2, num_objects=2)


@pytest.fixture
def trainer(tmp_path):
    frozen = ("+trainer.model.freeze_image_encoder=true", "+trainer.model.freeze=[sam_mask_decoder.conv_s*]")
    return build(tmp_path, *CHANGES, *frozen, "+trainer.model.encoder_cache={}")


@pytest.mark.parametrize("amp", [AmpConf(), AmpConf(enabled=True)], ids=["fp32", "bf16"])
def test_counted_as_computed(trainer, amp):
    model, loss = trainer.model, trainer.loss["all"]
    assert any(getattr(module, "dropout_p", 0) for module in model.modules())
    plan_seed = most_expensive_plan_seed(model.train_settings, SHAPE.num_frames)
    batch = replace(batch_of_discs(SHAPE.num_frames, (SHAPE.num_objects,), model.image_size), plan_seed=plan_seed)
    computed = bytes_saved_for_batch(model, loss, batch, amp)
    assert bytes_saved(model, loss, SHAPE, amp) == pytest.approx(computed, rel=0.02) and computed > MIB
    # Parameters are not included here.
    assert computed < 4 * sum(p.numel() for p in model.parameters())
    # The model is unchanged: its dropout, its cache, and no gradients.
    assert model.encoder_cache is not None and model.encoder_cache.computed == 0
    assert any(getattr(module, "dropout_p", 0) for module in model.modules())
    assert "_attention" not in vars(model) and all(p.grad is None for p in model.parameters())


def test_memory_grows_linearly_with_the_pixels(tmp_path):
    """Attention scores would grow with the square."""
    sizes = {}
    for side in (64, 128, 256):
        trainer = build(tmp_path, f"scratch.size={side}", *CHANGES, "clips.keep=false")
        sizes[side] = bytes_saved(trainer.model, trainer.loss["all"], SHAPE, AmpConf())
    growth = (sizes[256] - sizes[128]) / (sizes[128] - sizes[64])
    assert growth == pytest.approx((256**2 - 128**2) / (128**2 - 64**2), rel=0.02)


def test_the_parts_of_a_training(tmp_path):
    trainer = build(tmp_path, "+trainer.model.freeze=[image_encoder.trunk.*]", *CHANGES, AUXILIARY)
    everything = sum(p.numel() for p in trainer.model.parameters())
    frozen = sum(p.numel() for p in trainer.model.image_encoder.trunk.parameters())
    assert trainer.auxiliary is not None
    head = sum(p.numel() for p in trainer.auxiliary.parameters())
    found = estimate_memory(trainer)
    assert found.weights == 4 * (everything + head) and found.gradients == 4 * (everything + head - frozen)
    assert found.optimizer == 2 * found.gradients and found.average == 4 * everything
    ((shape, saved),) = found.saved.items()
    assert (shape.num_clips, shape.num_frames) == (2, 2)
    assert found.total == found.weights + found.gradients + found.optimizer + found.average + saved
    said = [" ".join(line.split()) for line in found.lines(64)]
    assert said[-1] == f"total {found.total / MIB:,.0f}" and "64 x 64" in said[0]
    assert trainer.run(lambda: trainer.steps == 1) == {} and trainer.steps == 1  # the trainer still runs
    expensive = replace(found, saved={BatchShape(8, 3): 30 * MIB, BatchShape(1, 12, 4): 50 * MIB})
    assert expensive.total == found.total - saved + 50 * MIB
    assert "for backward, 4 clips of 1 frame with 12 objects 50" in [" ".join(x.split()) for x in expensive.lines(64)]


class Particular(nn.Module):
    """A loss that reads values of tensors."""

    def forward(self, frames, masks):
        value = frames[0].ious[0].sum()
        return {"core_loss": value * (2.0 if value.item() > 0 else 1.0)}


def test_unknown_parts_are_reported_as_unknown(trainer):
    trainer.loss["all"] = Particular()
    found = estimate_memory(trainer)
    assert found.saved == {} and found.total is None
    assert [line.split()[-2:] for line in found.lines(64)[-2:]] == [["not", "known"]] * 2


def test_the_largest_batch_of_a_data_set():
    class Nothing:
        video_names = ()

        def __len__(self):
            return 1

    def videos(sampler):
        return VOSDataset([], True, Nothing(), sampler)  # type: ignore[arg-type]

    several = ConcatDataset([videos(RandomUniformSampler(8, 3)), videos(RandomUniformSampler(4, 5))])
    assert largest_batch(RepeatFactorWrapper(several), 2, "a") == BatchShape(8, 5, 2, "a")
    stills = VOSDataset(RandomCamera(32, 6, 4), True, Nothing(), RandomUniformSampler(1, 16))  # type: ignore[arg-type]
    assert largest_batch(stills, 3) == BatchShape(6, 4, 3)
    # Without a sampler the first clip decides.
    found = largest_batch(SyntheticClips(size=32, num_frames=3, max_objects=1), 1)
    assert found == BatchShape(num_frames=3, num_objects=1)


def test_a_dry_run_prints_yaml_and_the_memory(tmp_path):
    result = CliRunner().invoke(main, ["train", "-c", RECIPE, "--dry-run", *overrides(tmp_path, CHANGES[0])])
    assert result.exit_code == 0, result.output
    assert yaml.safe_load(result.stdout)["trainer"]["model"]["image_size"] == 64
    last = result.stdout.splitlines()[-1].split()
    assert last[:2] == ["#", "total"] and 20 < float(last[2]) < 500
    nothing = overrides(tmp_path, CHANGES[0], "+trainer.model.freeze=['*']")
    result = CliRunner().invoke(main, ["train", "-c", RECIPE, "--dry-run", *nothing])
    assert result.exit_code == 1
    assert "the loss of clips of 2 frames with 1 object depends on no trainable parameter" in result.stderr
