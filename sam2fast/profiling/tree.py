"""A tree of parts: what each took, computed and moved."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sam2fast.profiling.limits import Limits


@dataclass
class Part:
    """A part of the work; what is said of its own is without that of its children.

    Attributes:
        calls: how often it began.
        seconds: from its beginnings to its ends, children included.
        own_flops: of products, two for each multiplication with its addition, by dtype.
        published_flops: what the original computes for the same, children included; None if it computes the same.
        own_bytes: inputs, weights and outputs, once each.
        peak_bytes: by how much memory grew while it ran, at most, over what there was when it began; None if unknown.
    """

    name: str
    calls: float = 0
    seconds: float = 0.0
    own_flops: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    published_flops: float | None = None
    own_bytes: float = 0.0
    peak_bytes: int | None = None
    children: dict[str, "Part"] = field(default_factory=dict)

    def child(self, name: str) -> "Part":
        """The child of this name, which may be new."""
        return self.children.setdefault(name, Part(name))

    def __getitem__(self, path: str) -> "Part":
        """A descendant by names with slashes between them.

        Raises:
            KeyError: there is none.
        """
        part = self
        for name in path.split("/"):
            part = part.children[name]
        return part

    def walk(self, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], "Part"]]:
        """The part and all below it, with their paths, parents first."""
        path = (*path, self.name)
        yield path, self
        for child in self.children.values():
            yield from child.walk(path)

    @property
    def self_seconds(self) -> float:
        """What no child took."""
        return self.seconds - sum(child.seconds for child in self.children.values())

    @property
    def flops(self) -> float:
        """All products, children's included."""
        return sum(self.own_flops.values()) + sum(child.flops for child in self.children.values())

    @property
    def published(self) -> float:
        """What the original computes for the same, children included."""
        if self.published_flops is not None:
            return self.published_flops
        return sum(self.own_flops.values()) + sum(child.published for child in self.children.values())

    @property
    def nbytes(self) -> float:
        """Its own bytes and its children's."""
        return self.own_bytes + sum(child.nbytes for child in self.children.values())

    def floor(self, limits: Limits) -> tuple[float, float]:
        """Seconds at the limit, in which arithmetic bounds and in which memory does; parts are done in turn."""
        arithmetic = sum(n / limits.flops_per_s[dtype] for dtype, n in self.own_flops.items())
        memory = self.own_bytes / limits.bytes_per_s
        arithmetic, memory = (arithmetic, 0.0) if arithmetic >= memory else (0.0, memory)
        for child in self.children.values():
            floor = child.floor(limits)
            arithmetic, memory = arithmetic + floor[0], memory + floor[1]
        return arithmetic, memory

    def bound(self, limits: Limits) -> str | None:
        """``arithmetic`` or ``memory``, whichever takes longer at the limit; None where nothing was counted."""
        arithmetic, memory = self.floor(limits)
        return None if arithmetic == memory == 0 else "arithmetic" if arithmetic >= memory else "memory"

    def fraction(self, limits: Limits) -> float | None:
        """Seconds at the limit over seconds taken; None where nothing was counted or timed."""
        floor = sum(self.floor(limits))
        return floor / self.seconds if floor and self.seconds else None

    def scaled(self, factor: float) -> "Part":
        """The tree with everything but peaks times ``factor``."""
        return Part(
            self.name,
            self.calls * factor,
            self.seconds * factor,
            {dtype: n * factor for dtype, n in self.own_flops.items()},
            None if self.published_flops is None else self.published_flops * factor,
            self.own_bytes * factor,
            self.peak_bytes,
            {name: child.scaled(factor) for name, child in self.children.items()},
        )

    def counted_by(self, other: "Part") -> "Part":
        """The tree with this one's calls and seconds, and the other's products, bytes and peaks."""
        children = {
            name: child.counted_by(other.children.get(name, Part(name))) for name, child in self.children.items()
        }
        return Part(
            self.name,
            self.calls,
            self.seconds,
            other.own_flops,
            other.published_flops,
            other.own_bytes,
            other.peak_bytes,
            children,
        )

    def as_json(self, limits: Limits, whole: float | None = None, split: bool = True) -> dict[str, Any]:
        """The tree as plain values.

        Args:
            whole: what shares are of, in seconds.
            split: what the original computes is known of this part by itself, and not only of one around it.
        """
        whole = self.seconds if whole is None else whole
        return {
            "name": self.name,
            "calls": self.calls,
            "seconds": self.seconds,
            "self_seconds": self.self_seconds,
            "share": self.seconds / whole if whole else 0.0,
            "flops": self.flops,
            "published_flops": self.published if split else None,
            "bytes": self.nbytes,
            "flops_per_s": self.flops / self.seconds if self.seconds else None,
            "bytes_per_s": self.nbytes / self.seconds if self.seconds else None,
            "seconds_at_the_limit": sum(self.floor(limits)),
            "fraction_of_the_limit": self.fraction(limits),
            "bound": self.bound(limits),
            "peak_bytes": self.peak_bytes,
            "children": [
                child.as_json(limits, whole, split and self.published_flops is None) for child in self.children.values()
            ],
        }
