"""CUDA graphs simulated on the CPU: operations are recorded with their tensors and replayed without Python.

Reading a value back, shapes that depend on values, and tensors made from Python's numbers are errors.
"""

from collections.abc import Callable, Sequence
from typing import Any, List  # noqa: UP035  (what the oldest supported torch reads in a schema)

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sam2fast import engine
from sam2fast.engine import common, replay
from sam2fast.engine.derived import Constants
from sam2fast.engine.graphs import RecordingError
from sam2fast.kernels import memory_attention
from sam2fast.kernels.preprocess import resize_and_normalise_reference
from sam2fast.tracking import step_runner

READS_BACK = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.item.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.nonzero_numpy.default,
    torch.ops.aten.argwhere.default,
    torch.ops.aten.where.default,
    torch.ops.aten.lift_fresh.default,
    torch.ops.aten._unique2.default,
}


class ReadBackError(AssertionError):
    """The function does what cannot be recorded."""


class CalledAgain:
    """Runs the functions themselves again, in the place of :class:`sam2fast.engine.graphs.CudaGraphs`."""

    made = 0

    def __init__(self, device: torch.device, priority: int = 0) -> None:
        assert device.type == "cpu"
        self.constants = Constants()

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        function()  # as there, once before
        type(self).made += 1
        return function

    def clear(self) -> None:
        self.constants.clear()


class RecordedOps(CalledAgain):
    """Replays the operations of the functions without Python."""

    made = 0

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        with self.constants.in_use():
            function()  # as there, once before
            with _Recording() as recording:
                function()
        type(self).made += 1

        def replay() -> None:
            self.constants.refresh()
            with torch.autocast("cpu", enabled=False):  # casts are recorded
                recording.replay()

        return replay


class NoRecorder(RecordedOps):
    """Runs a function once, and then cannot record it as long as it is broken."""

    is_broken = True

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        if not self.is_broken:
            return super().record(function)
        function()
        raise RecordingError("not here") from RuntimeError("operation not permitted when stream is capturing")


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        indices = args[1] if func in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default) else ()
        if func in READS_BACK or any(x is not None and x.dtype == torch.bool for x in indices):
            raise ReadBackError(f"{func} waits for the device, or makes a tensor of Python's numbers")
        result = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, result))
        return result

    def replay(self) -> None:
        for func, args, kwargs, result in self.operations:
            given = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
            fresh = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
            for x in fresh:
                # A graph's own memory holds anything before it is written.
                if x.untyped_storage().data_ptr() not in given and x.is_floating_point():
                    x.fill_(float("nan"))
            again = [x for x in tree_leaves(func(*args, **kwargs)) if isinstance(x, Tensor)]
            for old, new in zip(fresh, again, strict=True):
                if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.copy_(new)


def recorded_by(monkeypatch: Any, recorder: type[CalledAgain]) -> None:
    """Lets models whose ``fast`` is True record on the CPU, by this recorder."""
    monkeypatch.setattr(replay, "CudaGraphs", recorder)
    for module in (step_runner, replay):
        monkeypatch.setattr(module, "why_eager", lambda device, fast: None if fast else "fast is not True")
    monkeypatch.setattr(recorder, "made", 0)


def as_on_a_gpu(monkeypatch: Any) -> None:
    """From here on the model computes as it does away from the CPU, where nothing looks at values."""
    monkeypatch.setattr(engine, "_uses_cpu", lambda x: False)
    for name in ("memory_attention", "rope_attention"):
        monkeypatch.setattr(memory_attention, f"{name}_cpu", getattr(memory_attention, f"{name}_reference"))
    monkeypatch.setattr(common, "resize_and_normalise", _preprocess)


def _preprocess(
    pixels: Tensor, size: tuple[int, int], mean: Sequence[float], std: Sequence[float], white: float
) -> Tensor:
    return _preprocess_operator(pixels, *size, list(mean), list(std), white)


@torch.library.custom_op("sam2fast_tests::preprocess", mutates_args=())
def _preprocess_operator(
    pixels: Tensor,
    height: int,
    width: int,
    mean: List[float],  # noqa: UP006
    std: List[float],  # noqa: UP006
    white: float,
) -> Tensor:
    return resize_and_normalise_reference(pixels, (height, width), mean, std, white).clone()
