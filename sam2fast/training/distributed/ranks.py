"""The processes of a run: which one this is, and what they agree on."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from sam2fast.build_sam import available_device
from sam2fast.checkpoints.errors import first_line
from sam2fast.training.settings import DistributedConf

# What torchrun, and everything else that starts the processes of a run, tells each of them.
PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
MEETING = ("MASTER_ADDR", "MASTER_PORT")
# Flags and names go through gloo wherever gradients go: they must not wait for a GPU.
BACKENDS = {"nccl": "cpu:gloo,cuda:nccl", "gloo": "gloo"}
# How libraries say that the other end of a connection is gone, or silent for too long.
_GONE = (
    "gloo",
    "NCCL",
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection was likely closed",
    "Timed out waiting",
    "Broken pipe",
)


class LostRankError(RuntimeError):
    """Another process of the run has ended, or has said nothing for too long."""


@dataclass(frozen=True)
class Ranks:
    """This process's place among those of a run; by default there is no other.

    Args:
        device: that this process computes on.
        rank, world_size: its number, and how many there are.
        local_rank: its number on its machine.
        is_group: whether torch's process group is to be used, which a single process may have as well.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    is_group: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this process writes what a run writes."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all of them ask at the same place."""
        if not self.is_group:
            return flag
        count = torch.tensor(int(flag))
        dist.all_reduce(count)
        return bool(count)

    def mean(self, values: Sequence[float]) -> list[float]:
        """The means over all processes; no number where it is none in any of them."""
        if not self.is_group:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums)
        return (sums / self.world_size).tolist()

    def gather(self, value: Any) -> list[Any]:
        """What each process has, in the order of their numbers; pickled on the way."""
        if not self.is_group:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Returns when every process has come here."""
        self.any(False)

    @contextmanager
    def losses_named(self) -> Iterator[None]:
        """Raises :class:`LostRankError` for what libraries raise when another process is gone."""
        try:
            yield
        except RuntimeError as error:
            if self.is_group and any(sign in str(error) for sign in _GONE):
                reason = first_line(error)
                raise LostRankError(f"process {self.rank} of {self.world_size} lost the others: {reason}") from error
            raise

    def leave(self) -> None:
        """Ends the process group once all have come here; nothing where there is none.

        Raises:
            LostRankError: another process has ended before.
        """
        if self.is_group:
            with self.losses_named():
                self.wait()
            dist.destroy_process_group()


def join(conf: DistributedConf | None = None, accelerator: str = "auto") -> Ranks:
    """This process's place in the run that it was started for, its process group made if there is none yet.

    Without ``WORLD_SIZE`` in the environment, and without a process group, it is alone. A group that is there already
    must be able to send from the CPU, as gloo's can.

    Args:
        accelerator: ``cuda``, ``cpu``, ``mps``, or ``auto``; of CUDA's devices the one with the local number is taken.

    Raises:
        ValueError: the environment is incomplete or contradicts itself, or several processes cannot share the
            accelerator, or it was left open and there is no GPU.
        RuntimeError: the accelerator is not available.
        LostRankError: the others did not come.
    """
    conf = conf or DistributedConf()
    device = available_device(accelerator)
    if not dist.is_available() or not (dist.is_initialized() or "WORLD_SIZE" in os.environ):
        return Ranks(device)
    rank, local_rank, world_size = _place()
    if device.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"process {local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}; "
                "start as many processes as there are GPUs"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)  # fully_shard knows no other way to be told
    elif device.type != "cpu":
        raise ValueError(f"several processes need CUDA or the CPU, not {device}; set trainer.accelerator=cpu")
    elif accelerator == "auto":
        # Whoever starts processes for GPUs would not notice before the bill that they all computed on the CPU.
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


def _place() -> tuple[int, int, int]:
    """Number, number on this machine, how many."""
    if dist.is_initialized():
        rank = dist.get_rank()
        return rank, int(os.environ.get("LOCAL_RANK", rank)), dist.get_world_size()
    if missing := [name for name in (*PLACE, *MEETING) if name not in os.environ]:
        raise ValueError(
            f"WORLD_SIZE is set and {', '.join(missing)} is not: start the processes with torchrun or "
            "sam2fast train --num-gpus, or unset WORLD_SIZE"
        )
    try:
        rank, local_rank, world_size = (int(os.environ[name]) for name in PLACE)
    except ValueError as error:
        raise ValueError(f"{', '.join(PLACE)} must be whole numbers: {error}") from error
    if not 0 <= local_rank <= rank < world_size:
        raise ValueError(f"RANK {rank}, LOCAL_RANK {local_rank} and WORLD_SIZE {world_size} contradict each other")
    return rank, local_rank, world_size
