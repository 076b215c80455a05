"""Compiles functions and methods with ``torch.compile``. Modules can be restored, copied and pickled."""

import inspect
import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from sam2fast.kernels._dispatch import backend_key

_log = logging.getLogger(__name__)

# Maximum number of shapes per method. Torch's default of eight is too low for varying numbers of objects.
SHAPES = 64
# Modes of torch.compile with CUDA graphs. In these modes, the next call overwrites the results of a call.
MODES_WITH_CUDA_GRAPHS = ("reduce-overhead", "max-autotune")

_recording: ContextVar[bool] = ContextVar("sam2fast_recording", default=False)


@contextmanager
def recording() -> Iterator[None]:
    """Context manager that runs methods compiled with CUDA graphs eagerly, because captures cannot be nested."""
    token = _recording.set(True)
    try:
        yield
    finally:
        _recording.reset(token)


class CompiledFunction:
    """Function that ``torch.compile`` compiles per shape and kernel backend. Log messages contain ``name``."""

    def __init__(
        self, eager: Callable[..., Any], name: str, mode: str | None, backend: str | Callable[..., Any]
    ) -> None:
        self._eager, self._name, self._mode, self._backend = eager, name, mode, backend
        self._overwritten = mode in MODES_WITH_CUDA_GRAPHS
        self._compiled: dict[Hashable, Callable[..., Any]] = {}
        self._for_backend()  # raises for an unknown mode or backend
        self._warned = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # is_compiling() is True if the caller compiles or exports a function that calls this function.
        if torch.compiler.is_compiling() or self._overwritten and _recording.get():
            return self._eager(*args, **kwargs)
        if self._overwritten:
            torch.compiler.cudagraph_mark_step_begin()
        try:
            out = self._for_backend()(*args, **kwargs)
        except _limit_errors():
            if not self._warned:
                _log.warning("%s was called with too many shapes to compile; new shapes run eagerly", self._name)
            self._warned = True
            return self._eager(*args, **kwargs)
        return tree_map_only(Tensor, _out_of_graph, out) if self._overwritten else out

    def _for_backend(self) -> Callable[..., Any]:
        """Returns the function compiled for the active kernel backend. Each graph contains the ops of one backend."""
        key = backend_key()
        if key not in self._compiled:
            self._compiled[key] = torch.compile(
                self._eager, fullgraph=True, dynamic=False, mode=self._mode, backend=self._backend, **_limits()
            )
        return self._compiled[key]


class CompiledMethod(CompiledFunction):
    """Compiled method of a module. Copied and unpickled modules compile the method again."""

    def __init__(self, module: nn.Module, name: str, mode: str | None, backend: str | Callable[..., Any]) -> None:
        eager = getattr(type(module), name).__get__(module)
        super().__init__(eager, f"{type(module).__name__}.{name}", mode, backend)
        self._args = (module, name, mode, backend)
        self._functions: dict[Callable[..., Any], CompiledFunction] = {}

    def instead(self, function: Callable[..., Any]) -> CompiledFunction:
        """Compiles a function that computes the method's result, with the method's options of ``torch.compile``."""
        if function not in self._functions:
            self._functions[function] = CompiledFunction(function, self._name, self._mode, self._backend)
        return self._functions[function]

    def __reduce__(self) -> tuple[Any, ...]:
        return CompiledMethod, self._args


def compile_method(
    module: nn.Module, name: str, mode: str | None = None, backend: str | Callable[..., Any] = "inductor"
) -> None:
    """Replaces a method by a :class:`CompiledMethod`. The method may already be compiled."""
    setattr(module, name, CompiledMethod(module, name, mode, backend))


def restore_methods(module: nn.Module) -> None:
    """Restores the uncompiled methods of a module and all its submodules."""
    for part in module.modules():
        for name in [name for name, value in vars(part).items() if isinstance(value, CompiledMethod)]:
            delattr(part, name)


def _out_of_graph(x: Tensor) -> Tensor:
    return x.clone() if x.is_cuda else x


def _limit_errors() -> tuple[type[Exception], ...]:
    """Returns the exceptions that torch raises beyond the limit of shapes. Older torch uses the second name below."""
    from torch._dynamo import exc

    names = ("FailOnRecompileLimitHit", "FailOnCacheLimitHit")
    return tuple(getattr(exc, name) for name in names if hasattr(exc, name))


def _limits() -> dict[str, Any]:
    # Older versions of torch do not support these options, and compile at most eight shapes for all models together.
    supported = inspect.signature(torch.compile).parameters
    options = {"recompile_limit": SHAPES, "isolate_recompiles": True}
    return {name: value for name, value in options.items() if name in supported}
