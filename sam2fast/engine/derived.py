"""Caches tensors that are computed only from parameters. A cached tensor is valid until the parameters change."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from operator import attrgetter
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

Value = TypeVar("Value")


class TensorCache(Generic[Value]):
    """Caches a value that is computed from source tensors, such as parameters, until a source changes.

    A value is a tensor, or a tree of tuples and lists, on the device of the first source.

    On the CPU, the values of the sources are compared. On other devices, a comparison of values would wait for the
    device, so addresses and version counters are compared. Every write changes a counter, except through ``.data``. If
    gradients are enabled, nothing is cached. CUDA graphs may outlive a cached value, so graphs read :class:`Constants`,
    or compute the value if no constants are in use. Copies and pickles of the owner have an empty cache.
    """

    def __init__(self) -> None:
        # Tuple of the key with the sources' devices and dtypes, copies or fingerprints of the sources, and the value. A
        # single attribute stores the tuple, so that other threads always read a consistent entry.
        self._entry: tuple[tuple[Any, ...], list[Any], Value] | None = None

    def __call__(self, key: Hashable, sources: tuple[Tensor, ...], compute: Callable[[], Value]) -> Value:
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return compute()
        constants = _constants.get()
        needs_version = constants is not None or not sources[0].is_cpu
        if needs_version and any(map(Tensor.is_inference, sources)):  # inference tensors have no version
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
    """Values at fixed addresses that recorded functions read instead of computing them.

    Inside :meth:`in_use`, each value of a :class:`TensorCache` is computed once and stored in this object. The caller
    ensures that the source tensors keep their addresses while recordings are in use.
    """

    def __init__(self) -> None:
        self._values: dict[Hashable, tuple[Any, Callable[[], Any]]] = {}  # value, function that computes the value
        self._sources: list[Tensor] = []
        self._versions: list[int] = []

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Context manager for each run of a recorded function."""
        tokens = _constants.set(self), current_step.set(None)
        try:
            yield
        finally:
            _constants.reset(tokens[0])
            current_step.reset(tokens[1])

    def value_of(
        self, cache: TensorCache[Value], key: Hashable, sources: tuple[Tensor, ...], compute: Callable[[], Value]
    ) -> Value:
        """Returns the stored value of a cache. The first run stores the value. Captures of graphs store nothing."""
        if (cache, key) not in self._values:
            if sources[0].is_cuda and torch.cuda.is_current_stream_capturing():
                return compute()
            self.refresh()  # makes all versions current
            self._values[cache, key] = compute(), compute
            self._sources += sources
            self._versions += [s._version for s in sources]
        return cast(Value, self._values[cache, key][0])

    @property
    def are_outdated(self) -> bool:
        """True if a source tensor was written after the values were computed."""
        return list(map(_version, self._sources)) != self._versions

    def refresh(self) -> None:
        """Recomputes all values in place if a value is outdated. Called before each replay."""
        versions = list(map(_version, self._sources))
        if versions == self._versions:
            return
        self._versions = versions
        with self.in_use():  # values may depend on earlier values, which are refreshed first
            for value, compute in list(self._values.values()):
                for old, new in zip(_tensors(value), _tensors(compute()), strict=True):
                    if new is not old:  # new is old if the value contains a parameter
                        old.copy_(new)

    def expire(self) -> None:
        """Marks all values as outdated. Writes through ``.data`` change no version, so they need this call."""
        self._versions = []

    def clear(self) -> None:
        """Frees all values. On CUDA, the memory of the values is reused only after the work on the current stream.

        The current stream waits for the last replay. A replay may run on another stream than the computation of values.
        """
        for value, _ in self._values.values():
            for x in _tensors(value):
                if x.is_cuda:
                    x.record_stream(torch.cuda.current_stream(x.device))
        self._values.clear()
        self._sources.clear()
        self._versions.clear()


_constants: ContextVar[Constants | None] = ContextVar("sam2fast_constants", default=None)
# The _Step of Engine.one_step, or None. Recorded functions run without a _Step.
current_step: ContextVar[Any] = ContextVar("sam2fast_step", default=None)


def is_recorded() -> bool:
    """Returns True inside functions that are recorded. Recorded functions read :class:`Constants`."""
    return _constants.get() is not None


_version = attrgetter("_version")


def _tensors(value: Any) -> list[Tensor]:
    """Returns the tensors in a tree of tuples and lists."""
    if isinstance(value, tuple | list):
        return [x for item in value for x in _tensors(item)]
    return [value] if isinstance(value, Tensor) else []
