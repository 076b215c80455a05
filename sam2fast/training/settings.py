"""Classes for the trainer's settings in training configurations."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sam2fast.training.optimizer import GradientClipper, ParamGroupModifier
from sam2fast.utils.devices import gpu_lacks_bfloat16
from sam2fast.utils.embedded import EMBEDDED

_log = logging.getLogger(__name__)

AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
BACKENDS = ("nccl", "gloo")
STRATEGIES = ("ddp", "fsdp")


@dataclass
class AmpConf:
    """Settings of mixed precision training. With float16, gradients are scaled."""

    enabled: bool = False
    amp_dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        if self.amp_dtype not in AMP_DTYPES:
            raise ValueError(f"amp_dtype must be one of {', '.join(AMP_DTYPES)}, got {self.amp_dtype!r}")

    @property
    def dtype(self) -> torch.dtype:
        return AMP_DTYPES[self.amp_dtype]

    def check_device(self, device: torch.device) -> None:
        """Warns if the device emulates ``amp_dtype``."""
        if self.enabled and self.dtype == torch.bfloat16 and gpu_lacks_bfloat16(device):
            _log.warning(
                "bfloat16 is emulated on %s, which is slow and may take more memory: use amp.amp_dtype=float16, whose "
                "gradients are scaled, or amp.enabled=false",
                device,
            )


@dataclass
class OptimConf:
    """Settings of the optimizer. The first three fields are arguments of :func:`construct_optimizer`."""

    optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
    options: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    param_group_modifiers: Sequence[ParamGroupModifier] = ()
    gradient_clip: GradientClipper | None = None
    amp: AmpConf = field(default_factory=AmpConf)
    accumulate: int = 1  # number of batches per optimizer update

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ValueError(f"accumulate must be at least 1, got {self.accumulate}")


@dataclass
class CheckpointConf:
    """Location and frequency of checkpoints."""

    save_dir: str
    save_freq: int = 0  # number of epochs between kept checkpoints; 0 keeps only the last checkpoint
    save_list: Sequence[int] = ()  # additional numbers of epochs whose checkpoints are kept
    save_every_steps: int = 0  # number of updates between checkpoints within an epoch; 0 saves only between epochs
    # File of initial weights, or sam2fast/nano or sam2fast/mini. Used only if the folder has no checkpoint.
    initialize_from: str | None = None
    missing_weights: str = "error"  # "draw": weights that the file lacks keep random values

    def __post_init__(self) -> None:
        if self.missing_weights not in ("error", "draw"):
            raise ValueError(f"missing_weights must be 'error' or 'draw', got {self.missing_weights!r}")
        if self.initialize_from in EMBEDDED:
            self.initialize_from = str(EMBEDDED[self.initialize_from].weights)


@dataclass
class LoggingConf:
    """Settings of the reports of a training run."""

    log_dir: str
    log_freq: int = 10  # number of updates between reports
    tensorboard: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        if self.log_freq < 1:
            raise ValueError(f"log_freq must be at least 1, got {self.log_freq}")


@dataclass
class EmaConf:
    """Settings of the weights' moving average. The average replaces the weights in validation and exported files."""

    decay: float = 0.999
    warmup: bool = True


@dataclass
class DistributedConf:
    """Settings of distributed training. Runs with a single process ignore these settings.

    Source: ``training.utils.train_utils.DistributedConf``, except for ``strategy`` and the default of
    ``find_unused_parameters``, because the set of unused parameters depends on the prompts of a batch.
    """

    backend: str | None = None  # backend of torch.distributed; by default nccl on GPUs, gloo on the CPU
    comms_dtype: str | None = None  # dtype of exchanged gradients; 16-bit types halve traffic, but round
    find_unused_parameters: bool = True  # argument of DistributedDataParallel; not used by fsdp
    timeout_mins: float = 30  # minutes until a process that does not answer counts as lost
    strategy: str = "ddp"  # "ddp" or "fsdp"; fsdp shards weights, gradients and optimizer state

    def __post_init__(self) -> None:
        for name, known in (("backend", (None, *BACKENDS)), ("comms_dtype", (None, *AMP_DTYPES))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, got {getattr(self, name)!r}")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {self.strategy!r}")
        if not self.timeout_mins > 0:
            raise ValueError(f"timeout_mins must be positive, got {self.timeout_mins}")
