"""Official YAML files: the same training as with our recipe, changes are kept, and every part gets a note."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sam2
from click.testing import CliRunner
from omegaconf import OmegaConf
from training_sets import write_sa1b
from vos_sets import davis_folder

from sam2fast.cli import main
from sam2fast.config import ConfigError
from sam2fast.training.config import build_trainer, load_training_config
from sam2fast.training.data.dataset_wrappers import RepeatFactorWrapper
from sam2fast.training.distributed import slurm

THEIRS = Path(sam2.__file__).parent / "configs/sam2.1_training/sam2.1_hiera_b+_MOSE_finetune.yaml"
OURS = "sam2.1_training/sam2.1_hiera_b+_MOSE_finetune"
# The trunk's blocks and channels, for speed; both configurations have these keys.
SMALL = (
    "++trainer.model.image_encoder.trunk.embed_dim=16",
    "++trainer.model.image_encoder.trunk.num_heads=1",
    "++trainer.model.image_encoder.trunk.stages=[1,2,2,1]",
    "++trainer.model.image_encoder.trunk.global_att_blocks=[3]",
    "++trainer.model.image_encoder.neck.backbone_channel_list=[128,64,32,16]",
    "scratch.resolution=64",
    "scratch.num_train_workers=0",
    "trainer.accelerator=cpu",
)
WEIGHTS = "trainer__checkpoint__model_weight_initializer"
WITHOUT_WEIGHTS = "trainer.checkpoint.model_weight_initializer=null"


def their_content():
    return OmegaConf.to_container(OmegaConf.load(THEIRS), resolve=False)


def theirs_with(folder, *overrides, **changes):
    """The official file with changes, converted, and the notes."""
    content = their_content()
    content["dataset"]["file_list_txt"] = None
    for key, value in changes.items():
        *path, last = key.split("__")
        node = content
        for part in path:
            node = node[part]
        node[last] = value
    OmegaConf.save(OmegaConf.create(content), folder / "theirs.yaml")
    said: list[str] = []
    return load_training_config(folder / "theirs.yaml", overrides, said.append), said


def data(folder):
    """A data set of two videos."""
    davis_folder(folder / "data")
    return [f"dataset.img_folder={folder}/data/JPEGImages", f"dataset.gt_folder={folder}/data/Annotations"]


def groups(trainer, where):
    """Names, learning rate and weight decay."""
    trainer.optimizer.step_schedulers(where)
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    return [([names[p] for p in g["params"]], g["lr"], g["weight_decay"]) for g in trainer.optimizer.param_groups]


def settings(thing):
    """Its class and attributes, without those of torch's modules."""
    return type(thing).__name__, {name: value for name, value in vars(thing).items() if not name.startswith("_")}


def steps(transforms):
    """Transforms in order, without those that do nothing here."""
    flat = [t for part in transforms for t in getattr(part, "transforms", [part])]
    return [repr((type(t), vars(t))) for t in flat if type(t).__name__ not in ("ToTensorAPI", "NormalizeAPI")]


def assert_same_model(ours, theirs):
    shapes = [[(name, value.shape) for name, value in model.named_parameters()] for model in (ours, theirs)]
    assert shapes[0] == shapes[1]
    for a, b in zip(ours.modules(), theirs.modules(), strict=True):
        numbers = [{k: v for k, v in vars(m).items() if isinstance(v, bool | int | float | str)} for m in (a, b)]
        assert type(a) is type(b) and numbers[0] == numbers[1]


def test_the_official_recipe_equals_ours(tmp_path):
    changes = [*SMALL, *data(tmp_path)]
    config, said = theirs_with(tmp_path, *changes, WITHOUT_WEIGHTS)
    theirs = build_trainer(config)
    initial = "trainer.checkpoint.initialize_from=null"
    ours = build_trainer(load_training_config(OURS, [*changes, initial, f"scratch.folder={tmp_path}"]))

    assert_same_model(ours.model, theirs.model)
    assert theirs.model.train_settings == ours.model.train_settings
    assert theirs.model.eval_settings == ours.model.eval_settings
    for where in (0.0, 0.37, 1.0):
        for a, b in zip(groups(theirs, where), groups(ours, where), strict=True):
            assert a[0] == b[0] and a[1] == pytest.approx(b[1]) and a[2] == b[2]
    assert type(theirs.optimizer.optimizer) is type(ours.optimizer.optimizer)
    assert settings(theirs.clipper) == settings(ours.clipper) and theirs.conf.amp == ours.conf.amp
    assert settings(theirs.loss["all"]) == settings(ours.loss["all"])
    for name in ("max_epochs", "mode", "seed_value", "val_epoch_freq"):
        assert getattr(theirs, name) == getattr(ours, name)

    loaders = [trainer.data["train"] for trainer in (theirs, ours)]
    assert len(loaders[0]) == len(loaders[1]) == 4  # two videos, twice
    sources = [loader.sources[0] for loader in loaders]
    assert [(s.batch_size, s.weight, s.key) for s in sources] == [(1, None, "all")] * 2
    repeated: Any = sources[0].dataset
    assert isinstance(repeated, RepeatFactorWrapper)
    clips: list[Any] = [repeated.dataset.datasets[0], sources[1].dataset]  # type: ignore[attr-defined]
    assert steps(clips[0].transforms) == steps(clips[1].transforms) and len(steps(clips[0].transforms)) == 6
    assert settings(clips[0].sampler) == settings(clips[1].sampler) and clips[0].multiplier == clips[1].multiplier == 2
    assert not [line for line in said if line.startswith("not supported")], said
    assert "to do: launcher: tell the command: sam2fast train --num-gpus 8" in said
    assert "to do: launcher: or, on one GPU, ++trainer.optim.accumulate=8 for updates as large" in said


def test_frames_are_normalised_with_the_numbers_of_both(tmp_path):
    changes = [*SMALL, *data(tmp_path), WITHOUT_WEIGHTS, "++trainer.model.pixel_mean=[0.5,0.5,0.5]"]
    with pytest.raises(ConfigError, match=r"mean \(0.5, 0.5, 0.5\) .* but NormalizeAPI has \(0.485, 0.456, 0.406\)"):
        build_trainer(theirs_with(tmp_path, *changes)[0])
    transforms = their_content()["vos"]["train_transforms"]
    transforms[0]["transforms"][-1]["mean"] = [0.5, 0.5, 0.5]
    build_trainer(theirs_with(tmp_path, *changes, vos__train_transforms=transforms)[0])


def test_it_trains(tmp_path):
    small = [*SMALL, *data(tmp_path), "scratch.num_frames=3", f"launcher.experiment_log_dir={tmp_path}/run"]
    less = [WITHOUT_WEIGHTS, "trainer.model.num_correction_pt_per_frame=1", "trainer.data.train.pin_memory=false"]
    added = ["++trainer.logging.progress=false", "++trainer.logging.tensorboard=false"]
    added.append("++trainer.optim.accumulate=2")  # one of our own settings
    config, _ = theirs_with(tmp_path, *small, *less, *added)
    trainer = build_trainer(config)
    trainer.run(lambda: True)
    assert trainer.steps == 1 and trainer.steps_per_epoch == 2
    assert (tmp_path / "run/checkpoints/checkpoint.pt").exists()


def test_changes_are_kept(tmp_path):
    config, said = theirs_with(
        tmp_path,
        "scratch.base_lr=1e-4",
        "scratch.num_epochs=7",
        scratch__phases_per_epoch=3,
        scratch__num_frames=5,
        scratch__train_batch_size=2,
        trainer__loss__all__weight_dict={"loss_mask": 5, "loss_dice": 2, "loss_iou": 1},
        trainer__optim__amp={"enabled": True},
        trainer__distributed__comms_dtype="bfloat16",
        trainer__checkpoint__save_freq=2,
    )
    trainer = config.trainer
    train = trainer.data.train
    assert trainer.max_epochs == 21 and train.phases_per_epoch == 3
    assert trainer.optim.options.lr[0].scheduler.end_value == pytest.approx(1e-5)
    assert train.datasets[0].batch_size == 2
    assert train.datasets[0].dataset.dataset.datasets[0].sampler.num_frames == 5
    assert trainer.loss.all.weight_dict == {"loss_mask": 5, "loss_dice": 2, "loss_iou": 1}
    assert trainer.optim.amp.amp_dtype == "float16"  # the official default
    assert trainer.distributed.comms_dtype == "bfloat16" and trainer.distributed.backend == "nccl"
    assert trainer.checkpoint.save_freq == 2
    assert trainer.checkpoint.initialize_from == "./checkpoints/sam2.1_hiera_base_plus.pt"
    assert trainer.logging.log_dir == "sam2_logs/theirs/logs" and trainer.logging.tensorboard
    assert not [line for line in said if line.startswith("not supported")], said


@pytest.mark.parametrize("strict", [True, False])
def test_weights_that_a_file_lacks_may_be_drawn(strict, tmp_path):
    config, _ = theirs_with(tmp_path, **{f"{WEIGHTS}__strict": strict})
    value, other = ("draw", "error") if strict else ("error", "draw")
    assert config.trainer.checkpoint.get("missing_weights", "error") == other
    config, _ = theirs_with(tmp_path, f"++trainer.checkpoint.missing_weights={value}", **{f"{WEIGHTS}__strict": strict})
    assert config.trainer.checkpoint.missing_weights == value


def test_other_data_sets(tmp_path):
    """As the official README mixes them: images beside videos, one with and one without repeat factors."""
    train = their_content()["trainer"]["data"]["train"]
    videos = train["datasets"][0]
    images = copy.deepcopy(videos["dataset"]["datasets"][0])
    write_sa1b(tmp_path / "sa1b", (1, 2, 3))
    images["video_dataset"] = {
        "_target_": "training.dataset.vos_raw_dataset.SA1BRawDataset",
        "img_folder": f"{tmp_path}/sa1b",
        "gt_folder": f"{tmp_path}/sa1b",
        "mask_area_frac_thresh": 0.9,
    }
    images["sampler"]["num_frames"], images["multiplier"] = 1, 5
    val = {**train, "datasets": [videos], "batch_sizes": [1], "collate_fn": {**train["collate_fn"], "dict_key": "mose"}}
    changes = {
        "trainer__data__train__datasets": [images, videos],
        "trainer__data__train__batch_sizes": [4, 1],
        "trainer__data__train__dataset_prob": [0.25, 0.75],
        "trainer__data__val": val,
    }
    config, said = theirs_with(tmp_path, *data(tmp_path), **changes)
    sources = config.trainer.data.train.datasets
    assert [(s.batch_size, s.weight, s.key) for s in sources] == [(4, 0.25, "all"), (1, 0.75, "all")]
    raw = sources[0].dataset.video_dataset
    assert raw._target_ == "sam2fast.training.data.json_datasets.SA1BRawDataset" and raw.mask_area_frac_thresh == 0.9
    assert sources[0].dataset.multiplier == 1 and sources[1].dataset.dataset.datasets[0].multiplier == 2
    assert "changed: trainer.data.train.datasets.0.multiplier: 1, since in the official package" in "\n".join(said)
    assert config.trainer.data.val.datasets[0].key == "mose"
    assert "changed: trainer.data.val: a validation gives J, F and J&F" in "\n".join(said)


UNKNOWN = (
    ("trainer__surprise", 3, "not supported: trainer.surprise"),
    ("trainer__checkpoint__resume_from", "old.pt", "not supported: trainer.checkpoint.resume_from"),
    ("trainer__checkpoint__skip_saving_parameters", ["a"], "left out: trainer.checkpoint.skip_saving_parameters"),
    ("trainer__data__test", {}, "not supported: trainer.data.test"),
    ("trainer__meters", {"val": {}}, "left out: trainer.meters"),
    ("trainer__optim_overrides", [{"key": 1}], "to do: trainer.optim_overrides: write the changes"),
    ("submitit__exclude_nodes", ["n1"], "not supported: submitit.exclude_nodes"),
    ("hydra", {"searchpath": []}, "left out: hydra"),
    (f"{WEIGHTS}__strict", False, "model_weight_initializer.strict: missing_weights=draw"),
    (f"{WEIGHTS}__ignore_missing_keys", ["a"], "initializer.ignore_missing_keys: weights are not chosen by name"),
    ("trainer__env_variables", {"NAME": "1"}, "to do: trainer.env_variables: set them for the command"),
    ("trainer__logging__tensorboard_writer", {"_target_": "mine.W"}, "not supported: trainer.logging.tensorb"),
    ("trainer__model__image_encoder__trunk__weights_path", "h.pt", "not supported: trainer.model.image_encoder.tr"),
    ("trainer__cuda", {"allow_tf32": True}, "left out: trainer.cuda"),
    ("trainer__loss__all___target_", "mine.Loss", "to do: trainer.loss.all: mine.Loss is not a class of SAM 2: pass"),
    ("trainer__data__train__collate_fn", {"_target_": "mine.f"}, "not supported: trainer.data.train.collate_fn"),
    ("dataset__file_list_txt", "training/assets/a.txt", "file_list_txt: training/assets/a.txt is a file of"),
    ("launcher__num_nodes", 2, "sam2fast train --num-gpus 8 --num-nodes 2 --use-cluster 1"),
    ("submitit__use_cluster", True, "--use-cluster 1 --timeout-hours 24 --cpus-per-task 10"),
)


def test_unknown_settings_are_named(tmp_path):
    config, said = theirs_with(tmp_path, **{key: value for key, value, _ in UNKNOWN})
    assert [line for _, _, line in UNKNOWN if line not in "\n".join(said)] == []
    assert "surprise" not in OmegaConf.to_yaml(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("trainer__data__train___target_", "mine.Loader", "trainer.data.train is a mine.Loader"),
        ("trainer__data__train__batch_sizes", [], "1 datasets"),
        (f"{WEIGHTS}___target_", "mine.load", "initialize_from=FILE"),
        ("trainer__model", 3, "trainer"),
    ],
)
def test_refusals(key, value, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        theirs_with(tmp_path, **{key: value})


def test_lists_that_are_computed(tmp_path):
    """As Hydra resolves them in the official package; OmegaConf.resolve refuses them."""
    config, _ = theirs_with(tmp_path, trainer__checkpoint__save_list="${range:3}")
    assert config.trainer.checkpoint.save_list == [0, 1, 2]


def test_the_command_prints_the_notes(tmp_path, monkeypatch):
    """Also when a job is submitted."""
    changes = [*SMALL, *data(tmp_path), WITHOUT_WEIGHTS, "dataset.file_list_txt=null"]
    changes += ["scratch.num_frames=2", "trainer.model.num_correction_pt_per_frame=1"]
    job = SimpleNamespace(job_id=7, paths=SimpleNamespace(stdout="out", stderr="err"))
    monkeypatch.setattr(slurm, "submit", lambda asked, run: job)
    for option, said in (("--dry-run", "_target_: sam2fast.training.model.SAM2Train"), ("--use-cluster=1", "job 7")):
        result = CliRunner().invoke(main, ["train", "-c", str(THEIRS), option, *changes])
        assert result.exit_code == 0, result.output
        assert "mapped: trainer.data.train: batches of 1 clips on each GPU" in result.output and said in result.output
