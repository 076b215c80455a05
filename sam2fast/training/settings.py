"""What a training configuration says about the trainer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sam2fast.training.auxiliary import DenseAuxiliary
from sam2fast.training.optimizer import GradientClipper, ParamGroupModifier

AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class AmpConf:
    """Mixed precision; a gradient scaler is used for float16 alone."""

    enabled: bool = False
    amp_dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        if self.amp_dtype not in AMP_DTYPES:
            raise ValueError(f"amp_dtype must be one of {', '.join(AMP_DTYPES)}, got {self.amp_dtype!r}")

    @property
    def dtype(self) -> torch.dtype:
        return AMP_DTYPES[self.amp_dtype]


@dataclass
class OptimConf:
    """How parameters are updated; see :func:`construct_optimizer` for the first three."""

    optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
    options: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    param_group_modifiers: Sequence[ParamGroupModifier] = ()
    gradient_clip: GradientClipper | None = None
    amp: AmpConf = field(default_factory=AmpConf)
    accumulate: int = 1  # batches per update

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ValueError(f"accumulate must be at least 1, got {self.accumulate}")


@dataclass
class CheckpointConf:
    """Where and when checkpoints are written."""

    save_dir: str
    save_freq: int = 0  # epochs between checkpoints that are kept; 0 for the last alone
    save_list: Sequence[int] = ()  # further epochs whose checkpoints are kept
    save_every_steps: int = 0  # updates between checkpoints within an epoch; 0 for none
    initialize_from: str | None = None  # weights to start from, where there is no checkpoint yet


@dataclass
class LoggingConf:
    """What is reported, and where."""

    log_dir: str
    log_freq: int = 10  # updates between reports
    tensorboard: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        if self.log_freq < 1:
            raise ValueError(f"log_freq must be at least 1, got {self.log_freq}")


@dataclass
class EmaConf:
    """A moving average of the weights, which is validated and exported instead of them."""

    decay: float = 0.999
    warmup: bool = True


@dataclass
class AuxiliaryConf:
    """The dense auxiliary task of :class:`DenseAuxiliary`, for models trained from scratch."""

    head: DenseAuxiliary
    affinity: float = 1.0
    boundary: float = 0.5
