"""Compiles kernels into Triton's cache on disk in parallel processes, before the kernels are launched."""

import hashlib
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, NamedTuple

_log = logging.getLogger(__name__)

# Starting a process takes as long as compiling a few kernels.
MOST_PROCESSES, FEWEST_EACH = 8, 4
_one_at_a_time = threading.Lock()  # lock that is held while functions of Triton are patched


class Compilable(NamedTuple):
    """Stores all inputs of Triton's compiler for a kernel launch: the parts of the key of Triton's cache."""

    module: str
    name: str  # name of the kernel in its Python module
    signature: dict[str, Any]
    constants: dict[Any, Any]
    attributes: dict[Any, Any]
    options: dict[str, Any]
    target: Any  # Triton's target for the current device

    def source(self) -> Any:
        """Returns the kernel and its inputs as Triton's ``ASTSource``."""
        from triton.compiler import ASTSource

        kernel = getattr(import_module(self.module), self.name)
        return ASTSource(kernel, self.signature, self.constants, self.attributes)

    def is_in_cache(self) -> bool:
        """Returns True if ``triton.compile`` would find the kernel on disk."""
        from triton._C.libtriton import get_cache_invalidating_env_vars
        from triton.compiler.compiler import make_backend
        from triton.runtime.cache import get_cache_key, get_cache_manager

        source, backend = self.source(), make_backend(self.target)
        options = backend.parse_options(self.options)
        key = get_cache_key(source, backend, options, env_vars=get_cache_invalidating_env_vars())
        cache = get_cache_manager(hashlib.sha256(key.encode()).hexdigest())
        return cache.get_group(f"{source.name[:150]}.json") is not None

    def compile(self) -> None:
        """Compiles the kernel into Triton's cache on disk."""
        import triton

        triton.compile(self.source(), target=self.target, options=self.options)


@contextmanager
def collecting() -> Iterator[list[Compilable]]:
    """Context manager that collects uncompiled kernels. The calling thread launches no kernels in the block.

    Kernels that are already compiled are not launched either, since a kernel may use results of kernels that were not
    launched as addresses, for example parents of pixels. Only one thread at a time can be in such a block.

    Yields:
        List of uncompiled kernels, filled at the end of the block. Before Triton 3.5, the list stays empty, and kernels
        are launched.
    """
    from triton import runtime

    launches: list[Compilable] = []
    if not hasattr(runtime.cache, "get_cache_key"):
        yield launches
        return
    from triton import knobs
    from triton.runtime.jit import JITFunction

    collected: dict[str, Compilable] = {}
    thread = threading.get_ident()

    def hook(*, fn: Any, compile: dict[str, Any], **others: Any) -> bool | None:
        if threading.get_ident() != thread:
            return None if before is None else before(fn=fn, compile=compile, **others)
        data, inputs = compile["specialization_data"], (compile["signature"], compile["constants"])
        if data not in collected:
            # Triton's JSON key stores tuples as lists.
            options = {key: tuple(x) if isinstance(x, list) else x for key, x in json.loads(data)["options"].items()}
            target = runtime.driver.active.get_current_target()
            launch = Compilable(fn.module, fn.name, *inputs, compile["configs"][0], options, target)
            if launch.is_in_cache():
                return None
            collected[data] = launch
        return True  # True makes Triton skip compilation and launch

    def run_or_warm_up(kernel: Any, *args: Any, warmup: bool, **options: Any) -> Any:
        return run(kernel, *args, warmup=warmup or threading.get_ident() == thread, **options)

    with _one_at_a_time:
        before, run = knobs.runtime.jit_cache_hook, JITFunction.run
        knobs.runtime.jit_cache_hook, JITFunction.run = hook, run_or_warm_up
        try:
            yield launches
        finally:
            knobs.runtime.jit_cache_hook, JITFunction.run = before, run
            launches += collected.values()


def compile_in_processes(launches: Sequence[Compilable]) -> None:
    """Compiles kernels in at most :data:`MOST_PROCESSES` processes. Failures of compilations are ignored."""
    count = min(MOST_PROCESSES, os.cpu_count() or 1, len(launches) // FEWEST_EACH)
    if count < 2:
        return
    _log.info("compiling %d kernels in %d processes", len(launches), count)
    # Processes are started without multiprocessing, since multiprocessing would run the user's script again.
    command = [sys.executable, "-m", __name__]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(count)]  # noqa: S603
    try:
        for i, process in enumerate(processes):
            assert process.stdin is not None
            with suppress(BrokenPipeError), process.stdin:
                pickle.dump([*launches[i::count]], process.stdin)
        for process in processes:
            process.wait()
    finally:
        for process in processes:
            process.kill()


if __name__ == "__main__":
    for launch in pickle.loads(sys.stdin.buffer.read()):  # noqa: S301  from the parent process
        with suppress(Exception):
            launch.compile()
