"""Methods of modules that go through ``torch.compile``, in a way that can be undone and copied."""

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

# Shapes that a method is compiled for; torch's own limit of eight is soon reached by numbers of objects.
SHAPES = 64
# Their results lie in memory that the next call overwrites.
MODES_WITH_CUDA_GRAPHS = ("reduce-overhead", "max-autotune")

_recording: ContextVar[bool] = ContextVar("sam2fast_recording", default=False)


@contextmanager
def recording() -> Iterator[None]:
    """Inside, what is compiled with CUDA graphs of its own runs plainly: graphs cannot record graphs."""
    token = _recording.set(True)
    try:
        yield
    finally:
        _recording.reset(token)


class CompiledMethod:
    """Stands in a module's ``__dict__`` in the place of a method, and is compiled once for each shape and backend of
    the ops that it meets.

    A copy of the module, or one that was pickled, has a compiled method of its own.

    Args:
        module: whose method it is.
        name: of the method.
        mode, backend: as for ``torch.compile``.
    """

    def __init__(self, module: nn.Module, name: str, mode: str | None, backend: str | Callable[..., Any]) -> None:
        self._made_of = (module, name, mode, backend)
        self._plain: Callable[..., Any] = getattr(type(module), name).__get__(module)
        self._overwritten = mode in MODES_WITH_CUDA_GRAPHS
        self._compiled: dict[Hashable, Callable[..., Any]] = {}
        self._for_backend()  # an unknown mode or backend is an error here
        self._warned = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():  # as a part of something that the caller compiles or exports
            return self._plain(*args, **kwargs)
        if self._overwritten and _recording.get():
            return self._plain(*args, **kwargs)
        if self._overwritten:
            torch.compiler.cudagraph_mark_step_begin()
        try:
            out = self._for_backend()(*args, **kwargs)
        except _limit_errors():
            self._warn()
            return self._plain(*args, **kwargs)
        return tree_map_only(Tensor, _out_of_graph, out) if self._overwritten else out

    def _for_backend(self) -> Callable[..., Any]:
        """What is compiled for the backend in force: a graph holds its ops, and does not notice when it changes."""
        key = backend_key()
        if key not in self._compiled:
            _, _, mode, backend = self._made_of
            self._compiled[key] = torch.compile(
                self._plain, fullgraph=True, dynamic=False, mode=mode, backend=backend, **_limits()
            )
        return self._compiled[key]

    def _warn(self) -> None:
        if not self._warned:
            module, name, *_ = self._made_of
            kind = type(module).__name__
            _log.warning("%s.%s has met more shapes than it is compiled for; new ones run uncompiled", kind, name)
        self._warned = True

    def __reduce__(self) -> tuple[Any, ...]:
        return CompiledMethod, self._made_of


def compile_method(
    module: nn.Module, name: str, mode: str | None = None, backend: str | Callable[..., Any] = "inductor"
) -> None:
    """Puts a :class:`CompiledMethod` in the place of a method; one that is there already is replaced."""
    setattr(module, name, CompiledMethod(module, name, mode, backend))


def restore_methods(module: nn.Module) -> None:
    """Takes the compiled methods of a module and of all modules in it away again."""
    for part in module.modules():
        for name in [name for name, value in vars(part).items() if isinstance(value, CompiledMethod)]:
            delattr(part, name)


def _out_of_graph(x: Tensor) -> Tensor:
    return x.clone() if x.is_cuda else x


def _limit_errors() -> tuple[type[Exception], ...]:
    """What torch raises for a shape beyond its limit; the second name is that of older versions."""
    from torch._dynamo import exc

    names = ("FailOnRecompileLimitHit", "FailOnCacheLimitHit")
    return tuple(getattr(exc, name) for name in names if hasattr(exc, name))


def _limits() -> dict[str, Any]:
    # Older versions of torch know neither: eight shapes of all models together are compiled there.
    known = inspect.signature(torch.compile).parameters
    wanted = {"recompile_limit": SHAPES, "isolate_recompiles": True}
    return {name: value for name, value in wanted.items() if name in known}
