"""What was found out about a picture or a video."""

import statistics
from dataclasses import dataclass
from typing import Any

from sam2fast.profiling.limits import Limits
from sam2fast.profiling.tree import Part

MIB = 2.0**20


@dataclass(frozen=True)
class Profile:
    """The parts of one picture, or of the average frame, and what they are measured by.

    Attributes:
        subject: what was profiled: its sizes, the model's, how many objects and repetitions.
        root: the tree; calls, seconds, products and bytes are per picture or frame, peaks the highest seen.
        limits: of the device.
        profiled: seconds of whole pictures or frames while parts were timed, by the host's clock.
        plain: the same without any instrument, on the same path.
        as_it_is: the same by the predictor as it is, where that takes another path than can be looked into.
        memory: what peaks are, in words.
        machine: what it ran on.
    """

    subject: dict[str, Any]
    root: Part
    limits: Limits
    profiled: list[float]
    plain: list[float]
    as_it_is: list[float] | None
    memory: str
    machine: dict[str, Any]

    @property
    def overhead(self) -> float:
        """By which part of itself the time grew by looking; medians."""
        return statistics.median(self.profiled) / statistics.median(self.plain) - 1

    @property
    def named(self) -> float:
        """The share of the time that named parts account for; the rest is copies and Python between them."""
        return 1 - self.root.self_seconds / self.root.seconds if self.root.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "subject": self.subject,
            "machine": self.machine,
            "limits": {"bytes_per_s": self.limits.bytes_per_s, "flops_per_s": dict(self.limits.flops_per_s)},
            "seconds": {"profiled": self.profiled, "plain": self.plain, "as_it_is": self.as_it_is},
            "overhead": self.overhead,
            "named_share": self.named,
            "memory": self.memory,
            "tree": self.root.as_json(self.limits),
        }
