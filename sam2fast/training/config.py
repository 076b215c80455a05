"""Training configurations: reading them, and building what they describe."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from sam2fast.config import TARGETS, ConfigError, build_from_config, load_config
from sam2fast.training.trainer import Trainer

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
            "model.SAM2Train",
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
}
# Nodes that need no _target_: there is only one thing they can be.
IMPLIED = {
    "trainer": "trainer.Trainer",
    "trainer.optim": "settings.OptimConf",
    "trainer.optim.amp": "settings.AmpConf",
    "trainer.checkpoint": "settings.CheckpointConf",
    "trainer.logging": "settings.LoggingConf",
    "trainer.ema": "settings.EmaConf",
    "trainer.auxiliary": "settings.AuxiliaryConf",
    "trainer.data.train": "data.loader.ClipLoader",
    "trainer.data.val": "data.loader.ClipLoader",
}


def load_training_config(name: str | Path, overrides: Sequence[str] = ()) -> DictConfig:
    """Reads a training configuration.

    ``model_config`` in it names the configuration whose ``model`` is trained; ``trainer.model`` adds to that and
    changes it.

    Args:
        name, overrides: see :func:`sam2fast.config.load_config`.

    Raises:
        FileNotFoundError: no such configuration.
        ConfigError: it is no training configuration, or an override does not fit.
    """
    config = load_config(name, overrides)
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

    Args:
        allow_targets: dotted prefixes of the caller's own classes that the configuration may name.

    Raises:
        ConfigError: a target that is not allowed, or arguments that its class does not take.
    """
    torch.manual_seed(config.trainer.get("seed_value", 123))
    trainer: Any = build_from_config(config.trainer, allow_targets, TRAINING_TARGETS)
    if not isinstance(trainer, Trainer):
        raise ConfigError(f"'trainer' describes a {type(trainer).__name__}, which is no Trainer")
    return trainer
