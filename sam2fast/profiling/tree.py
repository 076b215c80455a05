"""Stores a profile, a tree of parts with calls, seconds and FLOPs, and formats the profile as text and JSON."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sam2fast.profiling.limits import Limits

COLUMNS = ("part", "calls", "ms", "self", "share", "GFLOP", "GFLOP/s", "limit")


@dataclass
class Part:
    """Stores measurements of a part of the work. Measurements include the part's children.

    Attributes:
        calls: Number of calls.
        seconds: Total seconds of all calls.
        flops: FLOPs counted by ``FlopCounterMode``, two for each multiply-add.
        flops_per_s: Rate of a large matrix multiplication in the model's dtype, used as the limit.
    """

    name: str
    calls: float = 0
    seconds: float = 0.0
    flops: float = 0.0
    flops_per_s: float = float("inf")
    children: dict[str, "Part"] = field(default_factory=dict)

    def __getitem__(self, path: str) -> "Part":
        """Returns the descendant at a path of names separated by slashes. Raises KeyError for unknown paths."""
        part = self
        for name in path.split("/"):
            part = part.children[name]
        return part

    def walk(self, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], "Part"]]:
        """Yields paths and parts: this part and all descendants, parents first."""
        path = (*path, self.name)
        yield path, self
        for child in self.children.values():
            yield from child.walk(path)

    @property
    def self_seconds(self) -> float:
        """Seconds outside of all children."""
        return self.seconds - sum(child.seconds for child in self.children.values())

    @property
    def fraction(self) -> float | None:
        """Minimum seconds of the FLOPs divided by measured seconds, or None without FLOPs or seconds."""
        return self.flops / self.flops_per_s / self.seconds if self.flops and self.seconds else None

    def as_json(self, whole: float) -> dict[str, Any]:
        """Returns the tree as JSON values. Shares are fractions of ``whole`` seconds."""
        return {
            "name": self.name,
            "calls": self.calls,
            "seconds": self.seconds,
            "self_seconds": self.self_seconds,
            "share": self.seconds / whole,
            "flops": self.flops,
            "fraction_of_the_limit": self.fraction,
            "children": [child.as_json(whole) for child in self.children.values()],
        }

    def cells(self, depth: int, whole: float) -> tuple[str, ...]:
        """Returns the cells of this part's row in the text table."""
        return (
            "  " * depth + self.name,
            f"{self.calls:g}" if self.calls else "",
            f"{self.seconds * 1e3:.2f}",
            f"{self.self_seconds * 1e3:.2f}" if self.children else "",
            f"{self.seconds / whole:.1%}",
            f"{self.flops / 1e9:.2f}" if self.flops else "",
            f"{self.flops / self.seconds / 1e9:.1f}" if self.fraction else "",
            f"{self.fraction:.0%}" if self.fraction else "",
        )


@dataclass(frozen=True)
class Profile:
    """Stores the profile of an image or an average frame, and the limits of the device.

    Attributes:
        subject: Sizes of input and model, and numbers of objects and runs.
        root: Tree of parts. Calls, seconds and FLOPs are per image or frame.
        limits: Limits of the device.
        plain: Seconds of each image or frame without a profiler and without CUDA graphs.
        as_it_is: Seconds of each image or frame with CUDA graphs, or None if the predictor uses no CUDA graphs.
        machine: Processor, device and versions.
    """

    subject: dict[str, Any]
    root: Part
    limits: Limits
    plain: list[float]
    as_it_is: list[float] | None
    machine: dict[str, Any]

    @property
    def overhead(self) -> float:
        """Relative increase of mean seconds that the profiler causes."""
        return self.root.seconds / statistics.mean(self.plain) - 1

    def as_json(self) -> dict[str, Any]:
        """Returns the profile as JSON values."""
        return {
            "subject": self.subject,
            "machine": self.machine,
            "limits": self.limits._asdict(),
            "seconds": {"plain": self.plain, "as_it_is": self.as_it_is},
            "overhead": self.overhead,
            "tree": self.root.as_json(self.root.seconds),
        }

    def as_text(self, depth: int = 3) -> str:
        """Returns a summary, and the tree down to ``depth`` in aligned columns."""
        s, m, root = self.subject, self.machine, self.root
        size = f"{s['image_size']}x{s['image_size']}"
        what = f"{s['kind']} of {s['width']}x{s['height']} at {size}, objects: {s['objects']}"
        if s["kind"] == "video":
            what += f", the average of frames {s['first_frame']} to {s['first_frame'] + s['frames'] - 1}"
        limits = ", ".join(f"{dtype} {flops / 1e9:.0f} GFLOP/s" for dtype, flops in self.limits.flops_per_s.items())
        lines = [
            f"{what}, runs: {s['runs']}",
            f"{m.get('gpu', m['processor'])}, threads: {m['threads']}, torch {m['torch']}, on {m['device']}",
            f"limits seen: {limits}, {self.limits.bytes_per_s / 1e9:.1f} GB/s",
            f"{root.name}: {_ms(self.plain)} without profiler, {_ms([root.seconds])} with it ({self.overhead:+.1%})",
        ]
        if self.as_it_is is not None:
            lines.append(f"{root.name} by CUDA graphs, which have no parts: {_ms(self.as_it_is)}")
        rest = Part("copies and rest", seconds=root.self_seconds)
        shown = [(len(path) - 1, part) for path, part in root.walk() if len(path) - 1 <= depth]
        table = [COLUMNS, *(part.cells(level, root.seconds) for level, part in [*shown, (1, rest)])]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for name, *cells in table:
            numbers = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
            lines.append("  ".join([name.ljust(widths[0]), *numbers]).rstrip())
        lines.insert(-len(table), "")
        return "\n".join(lines)


def _ms(seconds: list[float]) -> str:
    return f"{statistics.mean(seconds) * 1e3:.2f} ms"
