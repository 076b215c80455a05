"""Loads training configurations and builds trainers from them."""

import logging
from collections.abc import Callable, Sequence
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
from sam2fast.training.official_classes import Notes
from sam2fast.training.official_yaml import from_official, is_official
from sam2fast.training.trainer import Trainer

_log = logging.getLogger(__name__)

# Classes and functions that a training configuration may name as targets, in addition to the targets of models.
_ALLOWED = {
    "sam2fast.training.trainer": "Trainer",
    "sam2fast.training.settings": "OptimConf AmpConf CheckpointConf LoggingConf EmaConf DistributedConf",
    "sam2fast.training.model": "SAM2Train",
    "sam2fast.training.adapters": "AdapterConf",
    "sam2fast.training.feature_cache": "EncoderCacheConf",
    "sam2fast.training.losses": "MultiStepMultiMasksAndIous FromScratchLoss AtResolution",
    "sam2fast.training.optimizer": "GradientClipper ValueScaler layer_decay_param_modifier",
    "sam2fast.training.schedules": "ConstantParamScheduler LinearParamScheduler CosineParamScheduler "
    "StepParamScheduler CompositeParamScheduler WarmUpParamScheduler",
    "sam2fast.training.data.loader": "ClipLoader ClipSource",
    "sam2fast.training.data.png_datasets": "PNGRawDataset MaskFolderRawDataset",
    "sam2fast.training.data.json_datasets": "SA1BRawDataset JSONRawDataset CocoRawDataset",
    "sam2fast.training.data.dataset_wrappers": "RepeatFactorWrapper ConcatDataset Subset FixedClips",
    "sam2fast.training.data.vos": "VOSDataset",
    "sam2fast.training.data.camera": "RandomCamera",
    "sam2fast.training.data.sampling": "RandomUniformSampler EvalSampler",
    "sam2fast.training.data.synthetic": "SyntheticClips",
    "sam2fast.training.data.transforms": "ComposeAPI RandomHorizontalFlip RandomAffine RandomResizeAPI "
    "RandomMosaicVideoAPI RandomGrayscale ColorJitter ToTensorAPI NormalizeAPI",
    "torch.optim": "AdamW Adam SGD NAdam RAdam RMSprop Adagrad",
    # Optimizers with 8-bit states or states paged to host memory. 8-bit and paged optimizers run only on CUDA.
    "bitsandbytes.optim": "AdamW8bit PagedAdamW8bit PagedAdamW",
}
TRAINING_TARGETS = TARGETS | {f"{module}.{name}" for module, names in _ALLOWED.items() for name in names.split()}
# Default ``_target_`` of configuration nodes, by key.
IMPLIED = {
    "trainer": "trainer.Trainer",
    "trainer.model.adapters": "adapters.AdapterConf",
    "trainer.model.encoder_cache": "feature_cache.EncoderCacheConf",
    "trainer.optim": "settings.OptimConf",
    "trainer.optim.amp": "settings.AmpConf",
    "trainer.checkpoint": "settings.CheckpointConf",
    "trainer.logging": "settings.LoggingConf",
    "trainer.ema": "settings.EmaConf",
    "trainer.distributed": "settings.DistributedConf",
    "trainer.data.train": "data.loader.ClipLoader",
    "trainer.data.val": "data.loader.ClipLoader",
}


def load_training_config(
    name: str | Path, overrides: Sequence[str] = (), report: Callable[[str], None] = _log.warning
) -> DictConfig:
    """Loads a training configuration of sam2fast or of the official trainer.

    The key ``model_config`` of a training configuration names the model's configuration. Entries of ``trainer.model``
    override entries of the model's configuration.

    Args:
        name, overrides: arguments of :func:`sam2fast.config.load_config`.
        report: function called with each note on the conversion of an official configuration.

    Raises:
        FileNotFoundError: If the configuration does not exist.
        ConfigError: If the configuration is not a training configuration, or an override does not fit.
    """
    config, notes = read_config(name), Notes()
    try:
        if is_official(config):
            config, notes = from_official(config, str(name), overrides, TRAINING_TARGETS)
        else:
            finish_config(config, name, overrides)
        for note in notes:
            report(str(note))
        return _completed(config, name)
    except ConfigError:
        raise
    # Malformed configuration nodes, such as a mapping instead of a list, raise exceptions of the following types.
    except (OmegaConfBaseException, TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
        raise ConfigError(f"{name} is not a valid training configuration: {error}") from error


def _completed(config: DictConfig, name: str | Path) -> DictConfig:
    """Adds default targets and the model that ``model_config`` names to ``config`` in place. Returns ``config``."""
    if not isinstance(OmegaConf.select(config, "trainer"), DictConfig):
        raise ConfigError(f"{name} is not a training configuration: it has no section 'trainer'")
    if "model_config" in config:
        model = OmegaConf.select(load_config(config.model_config), "model")
        if model is None:
            raise ConfigError(f"model_config names {config.model_config}, which has no 'model'")
        overrides = OmegaConf.select(config, "trainer.model") or OmegaConf.create()
        OmegaConf.update(config, "trainer.model", OmegaConf.merge(model, overrides), merge=False, force_add=True)
        config.trainer.model._target_ = overrides.get("_target_", "sam2fast.training.model.SAM2Train")
    for key, target in IMPLIED.items():
        node = OmegaConf.select(config, key)
        if isinstance(node, DictConfig) and "_target_" not in node:
            node._target_ = f"sam2fast.training.{target}"
    validation = OmegaConf.select(config, "trainer.data.val")
    if isinstance(validation, DictConfig):  # by default, validation uses all clips in order
        for key in ("drop_last", "shuffle"):
            validation.setdefault(key, False)
    optimizer = OmegaConf.select(config, "trainer.optim.optimizer")
    if isinstance(optimizer, DictConfig):
        optimizer._partial_ = True
    for modifier in OmegaConf.select(config, "trainer.optim.param_group_modifiers") or ():
        modifier._partial_ = True
    return config


def build_trainer(config: DictConfig, allow_targets: Sequence[str] = ()) -> Trainer:
    """Builds the trainer that a configuration describes. ``trainer.seed_value`` seeds the initial weights.

    In distributed training, ``trainer.data.train`` yields only this rank's samples.

    Args:
        allow_targets: dotted prefixes of custom classes that the configuration may name.

    Raises:
        ConfigError: If a target is not allowed, or the arguments of a target are wrong.
    """
    torch.manual_seed(config.trainer.get("seed_value", 123))
    node = _of_this_process(config.trainer, allow_targets)
    trainer: Any = build_from_config(node, allow_targets, TRAINING_TARGETS)
    if not isinstance(trainer, Trainer):
        raise ConfigError(f"'trainer' describes a {type(trainer).__name__}, which is not a Trainer")
    return trainer


def check_training_config(config: DictConfig, allow_targets: Sequence[str] = ()) -> None:
    """Checks the targets and data sets of a training configuration without building the model.

    Args:
        allow_targets: see :func:`build_trainer`.

    Raises:
        ConfigError: If a target is not allowed, or the arguments or files of a data set are wrong or missing.
    """
    check_targets(config.trainer, allow_targets, TRAINING_TARGETS)
    for loader in (config.trainer.get("data") or {}).values():
        if isinstance(loader, DictConfig):
            build_from_config(loader, allow_targets, TRAINING_TARGETS)


def _of_this_process(node: DictConfig, allow_targets: Sequence[str]) -> DictConfig:
    """Returns the trainer's node, with this process's ``rank`` and ``world_size`` in ``data.train``."""
    distributed = node.get("distributed")
    conf = None if distributed is None else build_from_config(distributed, allow_targets, TRAINING_TARGETS)
    accelerator = node.get("accelerator", "auto")
    try:
        ranks = join(conf, accelerator)
    except LostRankError:
        raise
    except RuntimeError as error:
        kind = str(accelerator).partition(":")[0]
        if kind in ("cuda", "mps") and not getattr(torch, kind).is_available():
            raise ConfigError(
                f"trainer.accelerator is {accelerator}, but no {kind.upper()} device is available; set "
                "trainer.accelerator=cpu or auto"
            ) from error
        raise ConfigError(f"trainer.accelerator: {error}") from error
    train = OmegaConf.select(node, "data.train")
    if not ranks.is_group or not isinstance(train, DictConfig):
        return node
    node = node.copy()
    for key, value in (("rank", ranks.rank), ("world_size", ranks.world_size)):
        OmegaConf.update(node, f"data.train.{key}", value, force_add=True)
    return node
