"""Process group of a training run: the rank of this process, and collective operations."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from sam2fast.checkpoints.weight_files import first_line
from sam2fast.training.settings import DistributedConf
from sam2fast.utils.devices import available_device
from sam2fast.utils.errors import FixableError

# Environment variables set by torchrun and other launchers.
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
RENDEZVOUS_VARIABLES = ("MASTER_ADDR", "MASTER_PORT")
# Collective operations on CPU tensors use the backend gloo, so that the CPU does not wait for a GPU.
BACKENDS = {"nccl": "cpu:gloo,cuda:nccl", "gloo": "gloo"}
# Substrings of error messages about lost or silent connections to other processes.
_GONE = (
    "gloo",
    "NCCL",
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection was likely closed",
    "Timed out waiting",
    "Broken pipe",
)


class LostRankError(FixableError, RuntimeError):
    """Raised if another process of the run has exited or was silent for too long."""


@dataclass(frozen=True)
class Ranks:
    """Ranks of this process in a distributed run. The default values describe a run with a single process."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # rank among the processes on this machine
    is_group: bool = False  # True if a process group exists, also with one process

    @property
    def is_main(self) -> bool:
        """Returns True if this process writes the files of the run."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Returns True if ``flag`` is True in any process. All processes must call this collective method."""
        if not self.is_group:
            return flag
        count = torch.tensor(int(flag))
        dist.all_reduce(count)
        return bool(count)

    def mean(self, values: Sequence[float]) -> list[float]:
        """Returns the mean of each value over all processes. Collective. The mean of NaN or infinity is not finite."""
        if not self.is_group:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums)
        return (sums / self.world_size).tolist()

    def gather(self, value: Any) -> list[Any]:
        """Returns the pickled and gathered values of all processes in the order of ranks. Collective."""
        if not self.is_group:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Waits until all processes call this method. Collective."""
        self.any(False)

    @contextmanager
    def reporting_lost_ranks(self) -> Iterator[None]:
        """Converts libraries' errors about lost processes to :class:`LostRankError`."""
        try:
            yield
        except RuntimeError as error:
            if self.is_group and any(sign in str(error) for sign in _GONE):
                reason = first_line(error)
                raise LostRankError(f"process {self.rank} of {self.world_size} lost the others: {reason}") from error
            raise

    def leave(self) -> None:
        """Destroys the process group, if any, after a barrier."""
        if self.is_group:
            with self.reporting_lost_ranks():
                self.barrier()
            dist.destroy_process_group()


def join(conf: DistributedConf | None = None, accelerator: str = "auto") -> Ranks:
    """Returns the ranks of this process. Initializes a process group if ``WORLD_SIZE`` is set and no group exists.

    Without ``WORLD_SIZE`` in the environment and without a process group, the run is a single process. An existing
    process group must support CPU tensors, as gloo does.

    Args:
        conf: settings of distributed training, such as the backend.
        accelerator: device type: ``cuda`` (the GPU whose index is the local rank), ``cpu``, ``mps`` or ``auto``.

    Raises:
        ValueError: If environment variables are missing or inconsistent, several processes cannot share the
            accelerator, or ``accelerator`` is ``auto`` and one of several processes has no GPU.
        RuntimeError: If the accelerator is not available.
        LostRankError: If another process of the run did not join the process group.
    """
    conf = conf or DistributedConf()
    device = available_device(accelerator)
    if not dist.is_available() or not (dist.is_initialized() or "WORLD_SIZE" in os.environ):
        return Ranks(device)
    rank, local_rank, world_size = _read_ranks()
    if device.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"process {local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}; "
                "start as many processes as there are GPUs"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)  # sets the current device, which fully_shard uses
    elif device.type != "cpu":
        raise ValueError(f"several processes need CUDA or the CPU, not {device}; set trainer.accelerator=cpu")
    elif accelerator == "auto":
        # Raises an error, because silent training on the CPU would waste machines with GPUs.
        raise ValueError(
            f"no CUDA here for process {rank} of {world_size}; set trainer.accelerator=cpu to train on the CPU"
        )
    ranks = Ranks(device, rank, world_size, local_rank, is_group=True)
    if not dist.is_initialized():
        backend = conf.backend or ("nccl" if device.type == "cuda" else "gloo")
        if backend == "nccl" and device.type == "cpu":
            raise ValueError("backend nccl is for GPUs; on the CPU leave trainer.distributed.backend out, or use gloo")
        try:
            dist.init_process_group(BACKENDS[backend], timeout=timedelta(minutes=conf.timeout_mins))
        except dist.DistError as error:
            reason = first_line(error)
            raise LostRankError(f"process {rank} of {world_size} did not meet the others: {reason}") from error
    return ranks


def _read_ranks() -> tuple[int, int, int]:
    """Returns the rank, local rank and world size from the process group or the environment."""
    if dist.is_initialized():
        rank = dist.get_rank()
        return rank, int(os.environ.get("LOCAL_RANK", rank)), dist.get_world_size()
    if missing := [name for name in (*RANK_VARIABLES, *RENDEZVOUS_VARIABLES) if name not in os.environ]:
        raise ValueError(
            f"WORLD_SIZE is set and {', '.join(missing)} is not: start the processes with torchrun or "
            "sam2fast train --num-gpus, or unset WORLD_SIZE"
        )
    try:
        rank, local_rank, world_size = (int(os.environ[name]) for name in RANK_VARIABLES)
    except ValueError as error:
        raise ValueError(f"{', '.join(RANK_VARIABLES)} must be whole numbers: {error}") from error
    if not 0 <= local_rank <= rank < world_size:
        raise ValueError(f"RANK {rank}, LOCAL_RANK {local_rank} and WORLD_SIZE {world_size} contradict each other")
    return rank, local_rank, world_size
