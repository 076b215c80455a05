"""Training configurations: reading them, and building what they describe."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sam2fast.config import (
    TARGETS,
    ConfigError,
    build_from_config,
    check_targets,
    finish_config,
    load_config,
    read_config,
)
from sam2fast.training.distributed.ranks import LostRankError, join
from sam2fast.training.official.notes import Notes
from sam2fast.training.official.yaml import from_official, is_official
from sam2fast.training.trainer import Trainer

_log = logging.getLogger(__name__)

SCHEDULES = (
    "ConstantParamScheduler",
    "LinearParamScheduler",
    "CosineParamScheduler",
    "StepParamScheduler",
    "CompositeParamScheduler",
    "WarmUpParamScheduler",
)
TRANSFORMS = (
    "ComposeAPI",
    "RandomHorizontalFlip",
    "RandomAffine",
    "RandomResizeAPI",
    "RandomMosaicVideoAPI",
    "RandomGrayscale",
    "ColorJitter",
    "ToTensorAPI",
    "NormalizeAPI",
)
OPTIMIZERS = ("AdamW", "Adam", "SGD", "NAdam", "RAdam", "RMSprop", "Adagrad")
# With states of 8 bits, or, on GPUs alone, in memory of the host where that of the GPU is short.
OPTIMIZERS_OF_BITSANDBYTES = ("AdamW8bit", "PagedAdamW8bit", "PagedAdamW")
# What a training configuration may build, besides the model's parts.
TRAINING_TARGETS = TARGETS | {
    *(
        f"sam2fast.training.{name}"
        for name in (
            "trainer.Trainer",
            "settings.OptimConf",
            "settings.AmpConf",
            "settings.CheckpointConf",
            "settings.LoggingConf",
            "settings.EmaConf",
            "settings.AuxiliaryConf",
            "settings.DistributedConf",
            "model.SAM2Train",
            "adapters.AdapterConf",
            "feature_cache.EncoderCacheConf",
            "losses.MultiStepMultiMasksAndIous",
            "losses.FromScratchLoss",
            "resolution.AtResolution",
            "auxiliary.DenseAuxiliary",
            "optimizer.GradientClipper",
            "optimizer.ValueScaler",
            "optimizer.layer_decay_param_modifier",
            "data.loader.ClipLoader",
            "data.loader.ClipSource",
            "data.folders.PNGRawDataset",
            "data.sa1b.SA1BRawDataset",
            "data.json_videos.JSONRawDataset",
            "data.coco.CocoRawDataset",
            "data.mask_folders.MaskFolderRawDataset",
            "data.repeat.RepeatFactorWrapper",
            "data.repeat.ConcatDataset",
            "data.repeat.Subset",
            "data.vos.VOSDataset",
            "data.fixed.FixedClips",
            "data.camera.RandomCamera",
            "data.sampling.RandomUniformSampler",
            "data.sampling.EvalSampler",
            "data.synthetic.SyntheticClips",
            *(f"schedules.{name}" for name in SCHEDULES),
            *(f"data.transforms.{name}" for name in TRANSFORMS),
        )
    ),
    *(f"torch.optim.{name}" for name in OPTIMIZERS),
    *(f"bitsandbytes.optim.{name}" for name in OPTIMIZERS_OF_BITSANDBYTES),
}
# Nodes that need no _target_: there is only one thing they can be.
IMPLIED = {
    "trainer": "trainer.Trainer",
    "trainer.model.adapters": "adapters.AdapterConf",
    "trainer.model.encoder_cache": "feature_cache.EncoderCacheConf",
    "trainer.optim": "settings.OptimConf",
    "trainer.optim.amp": "settings.AmpConf",
    "trainer.checkpoint": "settings.CheckpointConf",
    "trainer.logging": "settings.LoggingConf",
    "trainer.ema": "settings.EmaConf",
    "trainer.auxiliary": "settings.AuxiliaryConf",
    "trainer.distributed": "settings.DistributedConf",
    "trainer.data.train": "data.loader.ClipLoader",
    "trainer.data.val": "data.loader.ClipLoader",
}


def load_training_config(
    name: str | Path, overrides: Sequence[str] = (), report: Callable[[str], None] = _log.warning
) -> DictConfig:
    """Reads a training configuration, also one of the original's trainer.

    ``model_config`` in it names the configuration whose ``model`` is trained; ``trainer.model`` adds to that and
    changes it.

    Args:
        name, overrides: see :func:`sam2fast.config.load_config`.
        report: is told, line by line, what becomes of each part of a configuration of the original's.

    Raises:
        FileNotFoundError: no such configuration.
        ConfigError: it is no training configuration, or an override does not fit.
    """
    config, notes = read_config(name), Notes()
    with _misshapen(name):
        if is_official(config):
            config, notes = from_official(config, str(name), overrides, TRAINING_TARGETS)
        else:
            finish_config(config, name, overrides)
        for note in notes:
            report(str(note))
        return _completed(config, name)


@contextmanager
def _misshapen(name: str | Path) -> Iterator[None]:
    """A mapping where a list should be, and the like, whatever stumbles over it."""
    try:
        yield
    except ConfigError:
        raise
    except (OmegaConfBaseException, TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
        raise ConfigError(f"{name} is not built as training configurations are: {error}") from error


def _completed(config: DictConfig, name: str | Path) -> DictConfig:
    """``config`` itself with the model that it names, and with what goes without saying.

    Raises:
        ConfigError: it is no training configuration.
    """
    if OmegaConf.select(config, "trainer") is None:
        raise ConfigError(f"{name} is no training configuration: it has no 'trainer'")
    if "model_config" in config:
        model = OmegaConf.select(load_config(config.model_config), "model")
        if model is None:
            raise ConfigError(f"model_config names {config.model_config}, which has no 'model'")
        own = OmegaConf.select(config, "trainer.model") or OmegaConf.create()
        OmegaConf.update(config, "trainer.model", OmegaConf.merge(model, own), merge=False, force_add=True)
        config.trainer.model._target_ = own.get("_target_", "sam2fast.training.model.SAM2Train")
    for key, target in IMPLIED.items():
        node = OmegaConf.select(config, key)
        if isinstance(node, DictConfig) and "_target_" not in node:
            node._target_ = f"sam2fast.training.{target}"
    validation = OmegaConf.select(config, "trainer.data.val")
    if isinstance(validation, DictConfig):  # every clip, in order
        for key in ("drop_last", "shuffle"):
            validation.setdefault(key, False)
    optimizer = OmegaConf.select(config, "trainer.optim.optimizer")
    if isinstance(optimizer, DictConfig):
        optimizer._partial_ = True
    for modifier in OmegaConf.select(config, "trainer.optim.param_group_modifiers") or ():
        modifier._partial_ = True
    return config


def build_trainer(config: DictConfig, allow_targets: Sequence[str] = ()) -> Trainer:
    """The trainer that a configuration describes, its model drawn from ``trainer.seed_value``.

    In one of several processes it gets that process's share of ``trainer.data.train``.

    Args:
        allow_targets: dotted prefixes of the caller's own classes that the configuration may name.

    Raises:
        ConfigError: a target that is not allowed, or arguments that its class does not take.
    """
    torch.manual_seed(config.trainer.get("seed_value", 123))
    node = _of_this_process(config.trainer, allow_targets)
    trainer: Any = build_from_config(node, allow_targets, TRAINING_TARGETS)
    if not isinstance(trainer, Trainer):
        raise ConfigError(f"'trainer' describes a {type(trainer).__name__}, which is no Trainer")
    return trainer


def check_training_config(config: DictConfig, allow_targets: Sequence[str] = ()) -> None:
    """Checks what a configuration names without making a model: every class is allowed, and the data are there.

    Args:
        allow_targets: as of :func:`build_trainer`.

    Raises:
        ConfigError: a target that is not allowed, arguments that a data set does not take, or data that are not there.
    """
    check_targets(config.trainer, allow_targets, TRAINING_TARGETS)
    for loader in (config.trainer.get("data") or {}).values():
        if isinstance(loader, DictConfig):
            build_from_config(loader, allow_targets, TRAINING_TARGETS)


def _of_this_process(node: DictConfig, allow_targets: Sequence[str]) -> DictConfig:
    """The trainer's node, with this process's place among those that train together filled in."""
    distributed = node.get("distributed")
    conf = None if distributed is None else build_from_config(distributed, allow_targets, TRAINING_TARGETS)
    try:
        ranks = join(conf, node.get("accelerator", "auto"))
    except LostRankError:
        raise
    except RuntimeError as error:
        raise ConfigError(f"trainer.accelerator: {error}") from error
    train = OmegaConf.select(node, "data.train")
    if not ranks.is_group or not isinstance(train, DictConfig):
        return node
    node = node.copy()
    for key, value in (("rank", ranks.rank), ("world_size", ranks.world_size)):
        OmegaConf.update(node, f"data.train.{key}", value, force_add=True)
    return node
