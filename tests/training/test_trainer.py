"""The training loop: interrupted runs resume bitwise, and faults lose nothing."""

import random

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from mini_model import NARROW
from small_training import AUXILIARY, RECIPE, assert_same, build, checkpoint_of, reports
from training_sets import masklet, write_mask_folders, write_masklets, write_sa1b, write_video
from vos_sets import davis_folder

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.checkpoints import CheckpointError
from sam2fast.cli import main
from sam2fast.config import shipped_recipes
from sam2fast.training.config import build_trainer, load_training_config
from sam2fast.training.losses import AtResolution
from sam2fast.training.settings import AmpConf
from sam2fast.training.trainer import NonFiniteError

FOUR = "scratch.updates=4"
TWO = ("scratch.updates=2", "+trainer.mode=train_only")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    build(folder, FOUR).run()
    return folder


def test_a_stopped_run_resumes_bitwise(undisturbed, tmp_path, caplog):
    """Also from the previous checkpoint, where the current one is damaged."""
    for stopped_after in (1, 3):
        trainer = build(tmp_path, FOUR)
        trainer.run(lambda trainer=trainer, steps=stopped_after: trainer.steps == steps)
        assert trainer.steps == stopped_after
        random.random(), np.random.rand(), torch.rand(3)  # other use of the generators
    current = tmp_path / "checkpoints/checkpoint.pt"
    current.write_bytes(current.read_bytes()[:1000])
    build(tmp_path, FOUR).run()
    assert "checkpoint.pt is truncated, damaged" in caplog.text
    assert_same(checkpoint_of(tmp_path), checkpoint_of(undisturbed))
    assert [line["step"] for line in reports(tmp_path, "train")] == [1, 2, 3, 4]


def test_options_of_the_configuration_count_when_a_run_goes_on(tmp_path):
    constant = (*TWO, "trainer.optim.options=null", "+trainer.optim.optimizer.lr=1e-3")
    trainer = build(tmp_path, *constant)
    trainer.run(lambda: trainer.steps == 1)
    build(tmp_path, *constant, "trainer.optim.optimizer.lr=1e-6").run()
    assert [line["lr"] for line in reports(tmp_path, "train")] == [1e-3, 1e-6]


def test_the_last_update_is_reported(tmp_path):
    build(tmp_path, *TWO, "trainer.logging.log_freq=10").run()
    assert [line["step"] for line in reports(tmp_path, "train")] == [2]


def test_losses_of_losses_get_the_completed_share(tmp_path):
    trainer = build(tmp_path, "scratch.updates=2")
    trainer.loss["all"] = AtResolution(trainer.loss["all"], 16)
    trainer.run()
    assert trainer.loss["all"].loss.where == 0.5


def test_clippers_may_read_their_parameters_twice(tmp_path):
    def clip(parameters):
        list(parameters)
        return torch.nn.utils.clip_grad_norm_(list(parameters), 1.0)

    trainer = build(tmp_path, "scratch.updates=1")
    trainer.clipper = clip
    trainer.run()
    assert reports(tmp_path, "train")[0]["gradient_norm"] > 0


def test_the_seed_draws_the_weights(tmp_path):
    first, other = (build(tmp_path, f"trainer.seed_value={seed}").model.no_mem_embed for seed in "12")
    assert not torch.equal(first, other)


def test_several_batches_may_make_one_update(tmp_path):
    """Two batches of one clip each, and one of both, have the same gradient: losses are means over objects."""
    common = (
        "clips.dataset.max_objects=1",
        "trainer.model.prob_to_use_pt_input_for_train=0",
        "+trainer.mode=train_only",
    )
    weights = []
    for size, more in ((2, ("scratch.updates=1",)), (1, ("+trainer.optim.accumulate=2", "scratch.updates=2"))):
        trainer = build(tmp_path / str(size), *common, *more, f"trainer.data.train.datasets.0.batch_size={size}")
        trainer.run()
        assert trainer.steps == 1
        weights.append(trainer.model.state_dict())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-5)


def test_predictors_load_the_checkpoints(undisturbed):
    for name in ("checkpoint.pt", "averaged.pt", "best.pt"):
        path = undisturbed / "checkpoints" / name
        predictor = build_sam2_video_predictor(
            "nano/sam2fast_nano.yaml", path, device="cpu", hydra_overrides_extra=NARROW
        )
        saved = torch.load(path, weights_only=True)["model"]
        assert torch.equal(predictor.state_dict()["no_mem_embed"], saved["no_mem_embed"])


def test_validation_reports_the_averaged_weights(undisturbed, tmp_path):
    weights = undisturbed / "checkpoints/averaged.pt"
    validated = build(tmp_path, "+trainer.mode=val", f"+trainer.checkpoint.initialize_from={weights}").run()
    (reported,) = reports(undisturbed, "val")
    assert validated == {name: reported[name] for name in validated}
    assert 0 <= validated["J"] <= 100 and validated["objects"] >= 4


def test_training_starts_from_given_weights(undisturbed, tmp_path):
    weights = undisturbed / "checkpoints/averaged.pt"
    trainer = build(tmp_path, f"+trainer.checkpoint.initialize_from={weights}")
    given = torch.load(weights, weights_only=True)["model"]
    trainer.run(lambda: trainer.steps == 1)  # with a learning rate of 0
    assert all(torch.equal(value, given[name]) for name, value in trainer.model.state_dict().items())
    trainer.run(lambda: trainer.steps == 2)
    after = trainer.model.state_dict()
    changed = sum(not torch.equal(value, given[name]) for name, value in after.items())
    assert changed > 0.9 * len(after)


@pytest.mark.parametrize(
    ("missing", "extra", "refused"),
    [
        ("draw", {}, None),
        ("error", {}, "lacks weights of memory_attention"),
        ("draw", {"other": torch.zeros(1)}, "other"),
    ],
)
def test_weights_that_a_file_lacks(missing, extra, refused, tmp_path, caplog):
    """From the weights of an image model, those of memory stay as they were drawn, or are an error."""
    state = build(tmp_path / "given", "trainer.seed_value=5").model.state_dict()
    lacking = ("memory_", "mask_downsample", "obj_ptr", "maskmem", "no_mem_pos", "no_obj")
    given = {name: value for name, value in state.items() if not name.startswith(lacking)}
    torch.save({"model": {**given, **extra}}, tmp_path / "image.pt")
    start = (
        f"+trainer.checkpoint.initialize_from={tmp_path}/image.pt",
        "scratch.updates=1",
        "+trainer.mode=train_only",
    )
    trainer = build(tmp_path / "run", *start, f"+trainer.checkpoint.missing_weights={missing}")
    expected = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    if refused is None:
        trainer.run()  # with a learning rate of 0
        expected |= given
        assert 0 < len(given) < len(expected)
        assert "has no weights for" in caplog.text and "memory_attention" in caplog.text
    else:
        with pytest.raises(CheckpointError, match=refused):
            trainer.run()
    assert_same(dict(trainer.model.state_dict()), expected)


def test_epochs_of_several_lengths(tmp_path):
    """With phases and repeat factors; a run stopped within an epoch resumes bitwise."""
    repeated = (
        "{_target_: sam2fast.training.data.dataset_wrappers.RepeatFactorWrapper, factors: 0.6, dataset: '${clips}'}"
    )
    changes = (
        "trainer.max_epochs=3",
        "trainer.checkpoint.save_every_steps=0",
        "trainer.data.train.batches_per_epoch=null",
        "+trainer.data.train.phases_per_epoch=2",
        "trainer.data.train.datasets.0.batch_size=1",
        f"trainer.data.train.datasets.0.dataset={repeated}",
        "+trainer.mode=train_only",
    )
    whole = build(tmp_path / "whole", *changes)
    whole.run()
    lengths = [whole.data["train"].num_batches(epoch) for epoch in range(3)]
    assert lengths == [2, 1, 1] and whole.steps == 4
    expected = [(epoch + step / n) / 3 for epoch, n in enumerate(lengths) for step in range(n)]
    assert [line["where"] for line in reports(tmp_path / "whole")] == pytest.approx(expected)
    stopped = build(tmp_path / "stopped", *changes)
    stopped.run(lambda: stopped.steps == 1)
    build(tmp_path / "stopped", *changes).run()
    assert_same(*(checkpoint_of(tmp_path / name) for name in ("stopped", "whole")))


def test_a_run_stops_at_the_end_of_an_epoch_too(tmp_path):
    epochs = ("trainer.max_epochs=3", "scratch.updates=1")
    for expected in (1, 1, 2):  # the second run only validates
        trainer = build(tmp_path, *epochs)
        trainer.run(lambda: True)
        assert trainer.steps == expected
    build(tmp_path, *epochs).run()
    calm = tmp_path / "calm"
    build(calm, *epochs).run()
    assert_same(checkpoint_of(tmp_path), checkpoint_of(calm))
    assert len(reports(tmp_path, "train")) == len(reports(tmp_path, "val")) == 3


def test_validation_takes_every_clip(tmp_path):
    trainer = build(tmp_path, "clips.count=5")
    assert sum(batch.num_videos for batch in trainer.data["val"].epoch(0)) == 5


def test_tensorboard_gets_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    build(tmp_path, "trainer.logging.tensorboard=true", "scratch.updates=2").run()
    events = EventAccumulator(str(tmp_path / "logs/tensorboard")).Reload()
    shown = [event.value for event in events.Scalars("train/loss")]
    assert shown == pytest.approx([line["loss"] for line in reports(tmp_path, "train")])
    assert events.Scalars("val/J&F")[0].step == 2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision(tmp_path, dtype, monkeypatch):
    asked = []
    monkeypatch.setattr(AmpConf, "check_device", lambda amp, device: asked.append((amp.enabled, device)))
    amp = f"+trainer.optim.amp={{enabled: true, amp_dtype: {dtype}}}"
    trainer = build(tmp_path, amp, *TWO)
    assert asked == [(True, trainer.device)]
    assert trainer.scaler.is_enabled() == (dtype == "float16")
    before = trainer.model.image_encoder.neck.convs[0].conv.weight.detach().clone()
    trainer.run()
    # The first update has a learning rate of 0, and the scaler may skip some while it finds its scale.
    changed = not torch.equal(trainer.model.image_encoder.neck.convs[0].conv.weight, before)
    assert trainer.steps == 2 and (changed or dtype == "float16")
    scaler = checkpoint_of(tmp_path)["scaler"]
    assert bool(scaler) == (dtype == "float16")


class TestFaults:
    def test_a_non_finite_loss_is_named(self, tmp_path):
        trainer = build(tmp_path)
        trainer.run(lambda: trainer.steps == 1)
        before = (tmp_path / "checkpoints/checkpoint.pt").read_bytes()
        broken = build(tmp_path)

        def spoil():
            with torch.no_grad():
                broken.model.sam_mask_decoder.iou_prediction_head.layers[2].bias.fill_(float("nan"))

        with pytest.raises(NonFiniteError, match=r"update 1: .*loss_iou.* is not finite for clips synthetic/"):
            broken.run(started=spoil)
        assert (tmp_path / "checkpoints/checkpoint.pt").read_bytes() == before

    def test_no_readable_checkpoint_is_an_error(self, tmp_path):
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints/checkpoint.pt").write_bytes(b"nothing")
        with pytest.raises(CheckpointError, match="no checkpoint in .* can be read"):
            build(tmp_path).run()

    @pytest.mark.parametrize(
        ("other", "what"),
        [
            (AUXILIARY, "auxiliary is set in only one"),
            ("++trainer.model.num_maskmem=5", "model: 1 tensors, such as maskmem_tpos_enc"),
            ("+trainer.optim.amp={enabled: true, amp_dtype: float16}", "optim.amp"),
            ("+trainer.optim.options.lr.0.param_names=['image_encoder.*']", "optim: "),
            ("trainer.optim.optimizer._target_=torch.optim.Adam", "optim.optimizer: AdamW, now Adam"),
            (None, "the order of parameters"),  # whose numbers name the optimiser's states
        ],
    )
    def test_the_checkpoint_of_another_configuration(self, undisturbed, tmp_path, other, what):
        if other is None:
            (tmp_path / "checkpoints").mkdir()
            content = checkpoint_of(undisturbed)
            content["model"] = dict(reversed(content["model"].items()))
            torch.save(content, tmp_path / "checkpoints/checkpoint.pt")
        else:
            (tmp_path / "checkpoints").symlink_to(undisturbed / "checkpoints")
        trainer = build(tmp_path, *filter(None, [other]))
        before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        with pytest.raises(CheckpointError, match=f"another configuration .{what}"):
            trainer.run()
        assert_same(dict(trainer.model.state_dict()), before)
        assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("recipe", sorted(shipped_recipes()))
def test_every_recipe_takes_a_step(recipe, tmp_path):
    config = load_training_config(recipe, reduced(recipe, tmp_path))
    trainer = build_trainer(config)
    trainer.run(lambda: True)
    assert trainer.steps == 1 and (tmp_path / "checkpoints/checkpoint.pt").exists()


def reduced(recipe, folder):
    """Settings with which one update of a recipe takes seconds."""
    common = [f"scratch.folder={folder}", "trainer.accelerator=cpu", "++trainer.logging.progress=false"]
    common += ["++trainer.logging.tensorboard=false"]
    if recipe.endswith("overfit"):
        return [*common, "scratch.size=64", "scratch.updates=1"]
    if "own_masks" in recipe:
        return [*common, *of_own_masks(recipe, folder)]
    if recipe.endswith("from_image_weights"):
        sizes = ["scratch.size=64", "scratch.pairs=6", "scratch.clips=3", "scratch.updates=1"]
        return [*common, *sizes, "model_config=nano/sam2fast_nano.yaml", "trainer.checkpoint.initialize_from=null"]
    davis_folder(folder / "data")
    data = [f"{kind}_folder={folder}/data/{name}" for kind, name in (("img", "JPEGImages"), ("gt", "Annotations"))]
    if "mixed" in recipe:
        fewer = ["scratch.image_batch_size=1", "scratch.max_num_objects_per_image=2"]
        data = ["model_config=nano/sam2fast_nano.yaml", *(f"mose.{setting}" for setting in data), *fewer]
        data += mixed_folders(folder)
    else:
        model = "configs/sam2.1/sam2.1_hiera_t" if "MOSE" in recipe else "nano/sam2fast_nano"
        data = [f"model_config={model}.yaml", *(f"dataset.{setting}" for setting in data)]
    return [
        *common,
        "scratch.resolution=64",
        f"scratch.num_frames={2 if 'finetune' in recipe else 3}",
        "scratch.num_train_workers=0",
        *data,
        "trainer.checkpoint.initialize_from=null",
        "trainer.data.train.pin_memory=false",
        "++trainer.model.num_correction_pt_per_frame=1",
        "++trainer.optim.accumulate=1",
    ]


def of_own_masks(recipe, folder):
    """Images with label masks; nano starts from its weights."""
    write_mask_folders(folder / "own")
    first = "trainer.data.train.datasets.0"
    changes = [f"dataset.img_folder={folder}/own/images", f"dataset.gt_folder={folder}/own/masks"]
    changes += ["++trainer.model.image_size=64"]
    if recipe.startswith("nano/"):
        sizes = ["trainer.loss.all.size=32", f"{first}.dataset.transforms.0.size=64", "scratch.batch_size=1"]
        return [*changes, *sizes, *(f"trainer.data.train.datasets.1.{x}" for x in ("dataset.size=64", "batch_size=1"))]
    changes += ["model_config=nano/sam2fast_nano.yaml", "trainer.checkpoint.initialize_from=null"]
    changes += ["scratch.resolution=64", "scratch.num_train_workers=0"]
    changes += ["trainer.model.num_correction_pt_per_frame=1", "trainer.data.train.pin_memory=false"]
    return [*changes, "trainer.optim.accumulate=1"]


def mixed_folders(folder):
    """Photographs in the layout of SA-1B, and videos in that of SA-V."""
    write_sa1b(folder / "sa1b", (1, 2, 3, 4))
    write_video(folder / "sav/sav_000/a.mp4")
    write_masklets(folder / "sav/sav_000", "a", {"masklet": masklet(0)})
    return [f"sa1b.folder={folder}/sa1b", f"sav.folder={folder}/sav"]


@pytest.mark.slow
def test_eight_clips_are_overfitted(tmp_path):
    command = ["train", "-c", RECIPE, "--threads", "2", "--allow-target", "dense_auxiliary"]
    result = CliRunner().invoke(main, [*command, AUXILIARY, f"scratch.folder={tmp_path}"])
    assert result.exit_code == 0, result.output
    losses = [line["loss"] for line in reports(tmp_path, "train")]
    assert sum(losses[-5:]) / 5 < losses[0] / 10
    assert reports(tmp_path, "val")[0]["J&F"] > 95
