"""Follows what begins and ends, and builds the tree of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any, NamedTuple, TypeVar

from sam2fast.profiling.probes import Probe
from sam2fast.profiling.tree import Part

Result = TypeVar("Result")


class Cost(NamedTuple):
    """What a part did by itself."""

    flops: float = 0.0
    dtype: str = "float32"
    nbytes: float = 0.0


# Of a call: its result, then its arguments. Where it hangs on values on the device, it is a function, asked at the end.
CostOf = Callable[..., Cost | Callable[[], Cost]]


class Recorder:
    """The parts of one thread's work, while a :meth:`whole` is open.

    Args:
        probe: what is measured of each part.
        counts: products and bytes are counted too.
    """

    def __init__(self, probe: Probe, counts: bool = False) -> None:
        self.root: Part | None = None
        self.counts = counts
        self._probe = probe
        self._thread: int | None = None
        self._open: list[tuple[Part, Any]] = []
        self._later: list[Callable[[], None]] = []

    @contextmanager
    def whole(self, name: str) -> Iterator[None]:
        """What happens inside is a frame, or a picture; it ends with the device's last work."""
        self.root = self.root or Part(name)
        self._thread = get_ident()
        self._begin(self.root)
        try:
            yield
        finally:
            try:
                while self._open:
                    self._end()
            finally:
                self._thread = None
                self._open.clear()
                self._probe.finish()
        for settle in self._later:
            settle()
        self._later.clear()

    @property
    def listens(self) -> bool:
        """Whether this is the thread that is followed, and something is open."""
        return self._thread == get_ident()

    def run(self, names: Sequence[str], call: Callable[[], Result]) -> Result:
        """``call()`` as a part of these names, each inside the one before; one that is open already stays so."""
        depth = len(self._open)
        for name in names:
            top = self._open[-1][0]
            if top.name != name:
                self._begin(top.child(name))
        try:
            return call()
        finally:
            while len(self._open) > depth:
                self._end()

    def add(self, cost: Cost | Callable[[], Cost]) -> None:
        """Counts what the innermost part did."""
        part = self._open[-1][0]
        if callable(cost):
            self._later.append(lambda: _add(part, cost()))
        else:
            _add(part, cost)

    def add_published(self, flops: Callable[[], float]) -> None:
        """What the original computes for the innermost part, in place of what is counted in it; asked at the end."""
        part = self._open[-1][0]

        def settle() -> None:
            part.published_flops = (part.published_flops or 0.0) + flops()

        self._later.append(settle)

    def _begin(self, part: Part) -> None:
        part.calls += 1
        path = "/".join([*(p.name for p, _ in self._open), part.name])
        self._open.append((part, self._probe.begin(path)))

    def _end(self) -> None:
        part, token = self._open.pop()
        self._probe.end(part, token)


def _add(part: Part, cost: Cost) -> None:
    if cost.flops:
        part.own_flops[cost.dtype] += cost.flops
    part.own_bytes += cost.nbytes
