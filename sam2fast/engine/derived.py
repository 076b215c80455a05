"""Caches tensors that are derived from parameters alone, until these change."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from operator import attrgetter
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

Value = TypeVar("Value")


class TensorCache(Generic[Value]):
    """Caches what is computed from sources, such as parameters, until their values change: a tensor, or a tree of
    tuples and lists. The first source also says on which device the value is.

    On the CPU values are compared. Elsewhere a comparison would wait for the device, so addresses and version counters
    are compared; every write but one through ``.data`` changes them. Nothing is cached for autograd. CUDA graphs
    outlive the cache: they read :class:`Constants` where there are some, and compute the value where there are none.
    Copies and pickles of the owner start empty.
    """

    def __init__(self) -> None:
        # Key with the sources' devices and dtypes, copies or fingerprints of the sources, value. One attribute, so that
        # other threads see a consistent entry.
        self._entry: tuple[tuple[Any, ...], list[Any], Value] | None = None

    def __call__(self, key: Hashable, sources: tuple[Tensor, ...], compute: Callable[[], Value]) -> Value:
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return compute()
        constants = _constants.get()
        needs_version = constants is not None or not sources[0].is_cpu
        if needs_version and any(map(Tensor.is_inference, sources)):  # inference tensors have none
            return compute()
        if constants is not None:
            return constants.value_of(self, key, sources, compute)
        if sources[0].is_cuda and torch.cuda.is_current_stream_capturing():
            return compute()
        entry, key = self._entry, (key, [(s.device, s.dtype) for s in sources])
        if sources[0].is_cpu:
            if entry is None or entry[0] != key or not all(map(torch.equal, entry[1], sources)):
                entry = self._entry = (key, [s.detach().clone() for s in sources], compute())
        else:
            fingerprints = [(s.data_ptr(), s._version) for s in sources]
            if entry is None or entry[0] != key or entry[1] != fingerprints:
                entry = self._entry = (key, fingerprints, compute())
        return entry[2]

    def __reduce__(self) -> tuple[type["TensorCache[Any]"], tuple[()]]:
        return TensorCache, ()


class Constants:
    """What functions that are recorded read instead of computing it, at addresses that do not change.

    Within :meth:`in_use`, values of a :class:`TensorCache` are computed once and kept here. The sources keep their
    addresses as long as the recordings are used.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[Any, Callable[[], Any]]] = {}
        self._sources: list[Tensor] = []
        self._versions: list[int] = []

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Context manager around each run of a function that is recorded."""
        tokens = _constants.set(self), current_step.set(None)
        try:
            yield
        finally:
            _constants.reset(tokens[0])
            current_step.reset(tokens[1])

    def value_of(
        self, cache: TensorCache[Value], key: Hashable, sources: tuple[Tensor, ...], compute: Callable[[], Value]
    ) -> Value:
        """The value of a cache, which is computed in the first run, and not while a graph is captured."""
        if (cache, key) not in self._kept:
            if sources[0].is_cuda and torch.cuda.is_current_stream_capturing():
                return compute()
            self.refresh()  # so that the versions are of one time
            self._kept[cache, key] = compute(), compute
            self._sources += sources
            self._versions += [s._version for s in sources]
        return cast(Value, self._kept[cache, key][0])

    @property
    def are_outdated(self) -> bool:
        """Whether a source was written since the values were computed."""
        return list(map(_version, self._sources)) != self._versions

    def refresh(self) -> None:
        """Computes all values again, in place, if they are outdated; before each replay."""
        versions = list(map(_version, self._sources))
        if versions == self._versions:
            return
        self._versions = versions
        with self.in_use():  # what a value is computed from is kept, too, and was refreshed before
            for value, compute in list(self._kept.values()):
                for old, new in zip(_tensors(value), _tensors(compute()), strict=True):
                    if new is not old:  # a parameter itself
                        old.copy_(new)

    def expire(self) -> None:
        """From now on the values are outdated, also where a source was written through ``.data``, which no version
        shows."""
        self._versions = []

    def clear(self) -> None:
        """Frees everything, on CUDA for use after what the current stream was given, which waits for the last replay:
        replays may run on other streams than the values were computed on."""
        for value, _ in self._kept.values():
            for x in _tensors(value):
                if x.is_cuda:
                    x.record_stream(torch.cuda.current_stream(x.device))
        self._kept.clear()
        self._sources.clear()
        self._versions.clear()


_constants: ContextVar[Constants | None] = ContextVar("sam2fast_constants", default=None)
# What Engine.one_step chose for the calls inside it. It does not hold for functions that are recorded.
current_step: ContextVar[Any] = ContextVar("sam2fast_step", default=None)


def is_recorded() -> bool:
    """Whether what runs now is recorded, or is what is recorded elsewhere: it reads :class:`Constants`."""
    return _constants.get() is not None


_version = attrgetter("_version")


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in a tree of tuples and lists."""
    if isinstance(value, tuple | list):
        return [x for item in value for x in _tensors(item)]
    return [value] if isinstance(value, Tensor) else []
