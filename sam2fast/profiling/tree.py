"""The result of a profile: a tree of parts with calls, seconds and FLOPs."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sam2fast.profiling.limits import Limits


@dataclass
class Part:
    """A part of the work, including the parts inside it.

    Attributes:
        calls: number of calls.
        seconds: measured by the clock, on CUDA by events.
        flops: as counted by ``FlopCounterMode``, two for each multiply-add.
        dtype: of the model; its rate is the limit.
    """

    name: str
    calls: float = 0
    seconds: float = 0.0
    flops: float = 0.0
    dtype: str = "float32"
    children: dict[str, "Part"] = field(default_factory=dict)

    def child(self, name: str) -> "Part":
        """The child of this name, created if there is none."""
        return self.children.setdefault(name, Part(name, dtype=self.dtype))

    def __getitem__(self, path: str) -> "Part":
        """A descendant by its path of names, separated by slashes.

        Raises:
            KeyError: there is none.
        """
        part = self
        for name in path.split("/"):
            part = part.children[name]
        return part

    def walk(self, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], "Part"]]:
        """The part and all its descendants with their paths, parents first."""
        path = (*path, self.name)
        yield path, self
        for child in self.children.values():
            yield from child.walk(path)

    @property
    def self_seconds(self) -> float:
        """Seconds outside of all children."""
        return self.seconds - sum(child.seconds for child in self.children.values())

    def floor(self, limits: Limits) -> float:
        """Seconds that the FLOPs take at the rate of a large matrix multiplication."""
        return self.flops / limits.flops_per_s[self.dtype]

    def fraction(self, limits: Limits) -> float | None:
        """Seconds at the limit over measured seconds; None if nothing was counted or timed."""
        return self.floor(limits) / self.seconds if self.flops and self.seconds else None

    def as_json(self, limits: Limits, whole: float | None = None) -> dict[str, Any]:
        """The tree as plain values.

        Args:
            whole: total seconds, for shares.
        """
        whole = self.seconds if whole is None else whole
        return {
            "name": self.name,
            "calls": self.calls,
            "seconds": self.seconds,
            "self_seconds": self.self_seconds,
            "share": self.seconds / whole if whole else 0.0,
            "flops": self.flops,
            "flops_per_s": self.flops / self.seconds if self.seconds else None,
            "seconds_at_the_limit": self.floor(limits),
            "fraction_of_the_limit": self.fraction(limits),
            "children": [child.as_json(limits, whole) for child in self.children.values()],
        }


@dataclass(frozen=True)
class Profile:
    """The parts of an image or of the average frame, and the rates that they are compared with.

    Attributes:
        subject: what was profiled: its sizes, the model's, the numbers of objects and runs.
        root: the tree; calls, seconds and FLOPs are per image or frame.
        limits: of the device.
        profiled: seconds of each image or frame with timed parts, by the host's clock.
        plain: the same without timed parts, on the same path.
        as_it_is: the same with CUDA graphs, which have no parts, if the predictor uses them.
        machine: processor, device and versions.
    """

    subject: dict[str, Any]
    root: Part
    limits: Limits
    profiled: list[float]
    plain: list[float]
    as_it_is: list[float] | None
    machine: dict[str, Any]

    @property
    def overhead(self) -> float:
        """Relative slowdown by timing the parts, from medians."""
        return statistics.median(self.profiled) / statistics.median(self.plain) - 1

    @property
    def named(self) -> float:
        """The share of time in named parts; the rest is copies and Python code between them."""
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
            "tree": self.root.as_json(self.limits),
        }
