"""Emulates a CUDA device without hardware: its tensors have shapes, dtypes and strides, but no values.

Inside :func:`fake_cuda` the package takes the same path as on a GPU. Tensors on the CPU are real. Tensors on ``cuda``
are fake tensors of torch. Streams, events and graphs are stand-ins. The launcher of a Triton kernel runs, but the
kernel does nothing. An operation that would make the host wait for the device, or would fail there, is recorded as a
:class:`Fault` with its source line. A value that is read from the device is 0.
"""

import contextlib
import linecache
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from sam2fast.engine import Engine
from sam2fast.engine.common import Pixels
from sam2fast.kernels import _dispatch, _launch, _op
from sam2fast.modeling import model_identity, tables
from sam2fast.tracking.propagation import frames_at_once
from sam2fast.video_io import frame_cache

GPU = torch.device("cuda", 0)
ROOT = Path(__file__).resolve().parents[2]

aten = torch.ops.aten
COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
COPIES = {aten.copy_.default, aten._to_copy.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
# Operations that neither launch work on the device nor copy.
NO_LAUNCH = {
    aten._unsafe_view.default,
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.lift_fresh.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
}


class Fault(NamedTuple):
    """Describes a forbidden action on CUDA, such as a synchronisation."""

    kind: str  # a key of EXPLAINED
    operation: str
    place: str  # file, line, function and source of the innermost line of this repository

    def __str__(self) -> str:
        return f"{self.place}\n    {self.operation}: {EXPLAINED[self.kind]}"


EXPLAINED = {
    "blocking copy": "the host waits until the copy is complete",
    "pageable copy": "the host memory is not pinned, and the host may wait for the copy",
    "copy in a recording": "each replay of the graph would use the same host address",
    "reads a value": "the host waits for a value on the device",
    "shape by values": "the host waits for a value that determines the shape of the result",
    "mixed devices": "the operation has tensors on the CPU and on the GPU",
    "waits": "the host waits for work that this frame has started on the device",
}


class Copy(NamedTuple):
    """Describes a copy between the host and the device."""

    to_device: bool
    bytes: int
    is_pinned: bool  # True if the host memory is pinned


class Seen:
    """Stores the events of a time span."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        # Of operations, kernels and copies on the device, also in replayed graphs. A torch operation counts once.
        self.launches: Counter[str] = Counter()
        self.copies: list[Copy] = []  # between the host and the device
        self.encoded: list[int] = []  # images in each call of the image encoder outside of graphs, or in this graph
        self.replayed: list[Seen] = []  # the events of each graph that was replayed
        self.priority: int | None = None  # of the stream on which this graph was captured

    @property
    def replays(self) -> int:
        """Returns the number of graph replays."""
        return len(self.replayed)

    def check(self, *allowed: tuple[str, str]) -> None:
        """Fails if there was any fault but the allowed ones, which are pairs of a kind and a part of the place."""
        left = [f for f in self.faults if not any(f.kind == kind and part in f.place for kind, part in allowed)]
        assert not left, f"{len(left)} faults:\n" + "\n".join(dict.fromkeys(map(str, left)))


class Stream:
    """Emulates a stream that completes its work at once."""

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        self.device, self.priority = torch.device("cuda", 0), priority

    def wait_stream(self, stream: "Stream") -> None:
        pass

    def wait_event(self, event: "Event") -> None:
        pass

    def synchronize(self) -> None:
        _cuda().note("waits", "Stream.synchronize")


class Event:
    """Emulates an event, and stores the time span of its recording."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._span: Seen | None = None

    def record(self, stream: Stream | None = None) -> None:
        self._span = _cuda().seen

    def synchronize(self) -> None:
        if self._span is _cuda().seen:
            _cuda().note("waits", "Event.synchronize")


class Graph:
    """Emulates a recorded graph. A replay counts the recorded events, and computes nothing."""

    def __init__(self) -> None:
        self.recorded = Seen()

    def pool(self) -> tuple[int, int]:
        return 0, 1

    def replay(self) -> None:
        seen = _cuda().seen
        seen.faults += self.recorded.faults
        seen.launches += self.recorded.launches
        seen.replayed.append(self.recorded)


def copies(name: str, given: Any) -> int:
    """Returns the number of launches of an operation: ``_foreach_copy_`` copies lists of several dtypes one by one."""
    if name != "_foreach_copy_":
        return 1
    (targets, sources, *_), _ = given
    return 1 if all(len({x.dtype for x in some}) == 1 for some in (targets, sources)) else len(targets)


class CallingThread:
    """Executor that calls functions in the calling thread, the only one with the fake device."""

    def __init__(self, *_: Any) -> None:
        pass

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self) -> None:
        pass


class FakeCuda(TorchDispatchMode):
    """Runs operations with a tensor on ``cuda`` on fake tensors, and other operations unmodified."""

    capability = 9, 0  # compute capability

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.seen = Seen()
        self.graph: Graph | None = None  # the graph being recorded
        self.stream = Stream()
        self._pinned: dict[int, StorageWeakRef] = {}  # by address, which other tensors may get later
        self._functions = {op.operator._opoverload: op.compute for op in _op.OPS.values()}

    # ---- recording ----

    @contextlib.contextmanager
    def watched(self) -> Iterator[Seen]:
        """Records the events inside the block."""
        before, self.seen = self.seen, Seen()
        try:
            yield self.seen
        finally:
            self.seen = before

    def note(self, kind: str, operation: str) -> None:
        self._target().faults.append(Fault(kind, operation, place()))

    def launched(self, name: str, func: Any, given: Any, result: Any = None) -> None:
        """Counts a launch on the device: a torch operation ``func`` with these arguments, or a kernel."""
        self._target().launches[name] += copies(name, given)

    def _target(self) -> Seen:
        return self.seen if self.graph is None else self.graph.recorded

    @contextlib.contextmanager
    def recording(self, graph: Graph) -> Iterator[None]:
        self.graph = graph
        try:
            yield
        finally:
            self.graph = None

    def is_pinned(self, tensor: Tensor) -> bool:
        storage = self._pinned.get(tensor.untyped_storage().data_ptr())
        return storage is not None and not storage.expired()

    # ---- operations ----

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = _tensors((*args, *kwargs.values()))
        fakes = [x for x in tensors if isinstance(x, FakeTensor)]
        asked = kwargs.get("device") or next((x for x in args if isinstance(x, torch.device)), None)
        to_device = asked is not None and torch.device(asked).type == "cuda"
        if not fakes and not to_device:
            return self._on_cpu(func, args, kwargs)
        if func.namespace == "prim":  # reads a tensor's device
            return func(*args, **kwargs)
        if func in self._functions:  # runs the op's CUDA code instead of its fake implementation
            with self:
                return self._functions[func](*args, **kwargs)
        if func is aten.scaled_dot_product_attention.default:
            return self._attention(*args, **kwargs)
        if _is_composite(func):
            with self:  # not func.decompose, which decomposes differently for compilers
                return func._op_dk(COMPOSITE, *args, **kwargs)
        return self._on_device(func, args, kwargs, tensors)

    def _on_cpu(self, func: Any, args: Any, kwargs: Any) -> Any:
        pinned = kwargs.get("pin_memory") or func is aten._pin_memory.default
        if pinned:
            kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}
            func = aten.clone.default if func is aten._pin_memory.default else func
        with unset_fake_temporarily():
            if func is aten.is_pinned.default:
                return self.is_pinned(args[0])
            result = func(*args, **kwargs)
        if pinned:
            storage = result.untyped_storage()
            self._pinned[storage.data_ptr()] = StorageWeakRef(storage)
        return result

    def _on_device(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        name = func.name().removeprefix("aten::")
        real = [x for x in tensors if not isinstance(x, FakeTensor)]
        if func is aten._local_scalar_dense.default:
            self.note("reads a value", name)
            with unset_fake_temporarily():
                return torch.zeros((), dtype=args[0].dtype, device="cpu").item()
        if func is aten.is_pinned.default:
            return False
        indices = [x for x in args[1] if x is not None] if func in INDEXED else []
        # A mask that assigns a single number is not an index.
        is_filled = func is not aten.index.Tensor and bool(indices) and not args[2].dim() and not args[2].is_cuda
        is_mask = any(x.dtype in (torch.bool, torch.uint8) for x in indices) and not is_filled
        if torch.Tag.data_dependent_output in func.tags:
            self.note("reads a value", name)
            if func is aten.equal.default:
                return False
        elif is_mask or (torch.Tag.dynamic_output_shape in func.tags and func not in INDEXED):
            self.note("shape by values", name)
            if func is aten.nonzero.default:
                return args[0].new_empty(0, args[0].dim(), dtype=torch.int64)
            if func is aten.index.Tensor:
                return args[0].new_empty(0, *args[0].shape[indices[0].dim() :])
        elif func in COPIES:
            self._check_copy(func, name, args, kwargs)
        elif any(x.dim() for x in real) or any(not x.is_cuda for x in indices):
            self.note("mixed devices", name)
        given = tuple(self._as_fake(x) for x in args)
        options = {name: self._as_fake(x) for name, x in kwargs.items()}
        result = func(*given, **options)
        if func is aten.convolution.default and given[0].is_contiguous(memory_format=torch.channels_last):
            result = torch.empty_like(result, memory_format=torch.channels_last)  # like cuDNN
        if not (func.is_view or func in NO_LAUNCH):
            self.launched(name, func, (given, options), result)
        if func is aten.copy_.default and not isinstance(args[0], FakeTensor):
            with unset_fake_temporarily():
                return args[0].zero_()
        return _without_values(result)

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *_: Any, **kwargs: Any):
        """Runs one kernel, as on GPUs. For an unknown device, torch would run products and a softmax."""
        given = query, key, value, mask
        operation = aten._scaled_dot_product_efficient_attention.default
        tensors = [x for x in given if x is not None]
        return self._on_device(operation, (*given, False), {"scale": kwargs.get("scale")}, tensors)[0]

    def _as_fake(self, x: Any) -> Any:
        if isinstance(x, (list, tuple)):
            return type(x)(map(self._as_fake, x))
        is_real = isinstance(x, Tensor) and not isinstance(x, FakeTensor)
        return self.fake.from_tensor(x, static_shapes=True) if is_real else x

    def _check_copy(self, func: Any, name: str, args: Any, kwargs: Any) -> None:
        if func is aten.copy_.default:
            target, source, non_blocking = args[0], args[1], bool(kwargs.get("non_blocking", args[2:] and args[2]))
            target_is_cuda, host = target.is_cuda, source if target.is_cuda else target
        else:
            source, non_blocking, device = args[0], bool(kwargs.get("non_blocking")), kwargs.get("device")
            target_is_cuda = source.is_cuda if device is None else torch.device(device).type == "cuda"
            host = source if target_is_cuda else None
        if target_is_cuda == source.is_cuda:
            return
        is_pinned = non_blocking if host is None else self.is_pinned(host)  # torch allocates pinned memory itself
        self._target().copies.append(Copy(target_is_cuda, source.numel() * source.element_size(), is_pinned))
        way = "host to device" if target_is_cuda else "device to host"
        if self.graph is not None:
            self.note("copy in a recording", f"{name}, {way}")
        elif not non_blocking:
            self.note("blocking copy", f"{name}, {way}")
        elif not is_pinned:
            self.note("pageable copy", f"{name}, {way}")


# Replaces torch's functions for nested arguments, which take as long as the operations.


def _tensors(items: Iterable[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for x in items:
        if isinstance(x, Tensor):
            found.append(x)
        elif isinstance(x, (list, tuple)):
            found += _tensors(x)
    return found


@cache
def _is_composite(func: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), COMPOSITE)


def _without_values(x: Any) -> Any:
    """Replaces a fake result on the CPU by a real tensor of zeros."""
    if isinstance(x, (list, tuple)):
        return type(x)(map(_without_values, x))
    if not isinstance(x, FakeTensor) or x.is_cuda:
        return x
    with unset_fake_temporarily():
        return torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device="cpu").zero_()


# ---- indexing ----

# torch indexes in C++, which needs CUDA's driver.


def _indexed(x: Tensor, index: Any) -> tuple[Tensor, list[Tensor | None]]:
    """Returns the view selected by slices and integers, and the tensors among the indices."""
    items = list(index) if isinstance(index, tuple) else [index]
    given = sum(1 for item in items if item is not None and item is not Ellipsis)
    gap = next((i for i, item in enumerate(items) if item is Ellipsis), None)
    if gap is not None:
        items[gap : gap + 1] = [slice(None)] * (x.dim() - given)
    dim, tensors = 0, {}
    for item in items:
        if item is None:
            x = x.unsqueeze(dim)
        elif isinstance(item, slice):
            if item != slice(None):
                start, stop = (None if at is None else int(at) for at in (item.start, item.stop))
                x = aten.slice.Tensor(x, dim, start, stop, item.step or 1)
        elif isinstance(item, Tensor) and item.dim() or isinstance(item, list):
            tensors[dim] = item if isinstance(item, Tensor) else torch.tensor(item, device="cpu")
        else:
            x = x.select(dim, int(item))
            continue
        dim += 1
    return x, [tensors.get(i) for i in range(max(tensors) + 1)] if tensors else []


def _getitem(self: Tensor, index: Any) -> Tensor:
    view, tensors = _indexed(self, index)
    if tensors:
        return aten.index.Tensor(view, tensors)
    return aten.alias.default(view) if view is self else view


def _setitem(self: Tensor, index: Any, value: Any) -> None:
    view, tensors = _indexed(self, index)
    if tensors:
        value = value if isinstance(value, Tensor) else torch.tensor(value, dtype=self.dtype, device="cpu")
        aten.index_put_.default(view, tensors, value)
    elif isinstance(value, Tensor):
        while value.dim() > view.dim():
            value = value.squeeze(0)
        view.copy_(value)
    else:
        view.fill_(value)


# Other methods that need the driver in C++, before they reach the operator.
_METHODS: dict[str, Callable[..., Any]] = {
    "__getitem__": _getitem,
    "__setitem__": _setitem,
    "__bool__": lambda self: bool(self.item()),
    "__float__": lambda self: float(self.item()),
    "__int__": lambda self: int(self.item()),
    "__index__": lambda self: int(self.item()),
    "__invert__": lambda self: aten.bitwise_not.default(self),
    "contiguous": lambda self, memory_format=torch.contiguous_format: aten.contiguous.default(
        self, memory_format=memory_format
    ),
    "copy_": lambda self, source, non_blocking=False: aten.copy_.default(self, source, non_blocking),
    "data_ptr": lambda self: id(self),
    "item": lambda self: aten._local_scalar_dense.default(self),
    "new_tensor": lambda self, data: torch.tensor(data, dtype=self.dtype, device=self.device),
    "nonzero": lambda self: aten.nonzero.default(self),
}


# ---- places ----


def place() -> str:
    """Returns the innermost line of this repository, or of a test, that is running outside this file."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file != __file__ and "site-packages" not in file and Path(file).resolve().is_relative_to(ROOT):
            path, line = Path(file).resolve(), frame.f_lineno
            source = linecache.getline(file, line).strip()
            return f"{path.relative_to(ROOT)}:{line} {frame.f_code.co_name}: {source}"
        frame = frame.f_back
    return "?"


# ---- replacements of the hardware ----

_active: list[FakeCuda] = []


def _cuda() -> FakeCuda:
    return _active[-1]


@contextlib.contextmanager
def fake_cuda(mode: FakeCuda | None = None) -> Iterator[FakeCuda]:
    """Context manager that provides one fake H100, or continues with the tensors of an earlier ``mode``."""
    if torch.cuda.is_available():
        pytest.skip("only for machines without CUDA: with CUDA, torch's fake tensors use the driver")
    caches, mode = _uncached(), mode or FakeCuda()
    # Enters torch's mode first: it needs no driver as long as torch.cuda reports no device.
    with mode.fake, pytest.MonkeyPatch.context() as patch:
        for cache in caches:
            cache()
        for name, stand_in in _stand_ins(mode).items():
            patch.setattr(torch.cuda, name, stand_in)
        patch.setattr(fake_tensor, "init_gpu_context", lambda device: None)
        patch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
        patch.setattr(tables, "is_traced", lambda: False)  # models store their tables, as on a GPU
        for name, method in _METHODS.items():
            patch.setattr(FakeTensor, name, method, raising=False)
        patch.setattr(_dispatch, "_build_unsupported_reason", lambda: None)
        patch.setattr(frame_cache, "ThreadPoolExecutor", CallingThread)
        patch.setattr(model_identity, "model_facts", lambda model: {})  # weights have no values
        _patch_triton(patch)
        encode = Engine.encode

        def counted(engine: Engine, images: Tensor) -> list[Tensor]:
            mode._target().encoded.append(len(images.values if isinstance(images, Pixels) else images))
            return encode(engine, images)

        patch.setattr(Engine, "encode", counted)
        _active.append(mode)
        try:
            with mode:
                yield mode
        finally:
            _active.remove(mode)
            for cache in caches:
                cache()


def _uncached() -> list[Callable[[], None]]:
    """Returns functions that clear cached device properties, so that real and fake devices do not share them."""
    from sam2fast.kernels.memory_attention import launch

    return [_launch.architecture.cache_clear, launch._processors.cache_clear]


def _stand_ins(mode: FakeCuda) -> dict[str, Any]:
    major, minor = mode.capability
    properties = SimpleNamespace(
        name="fake H100", multi_processor_count=132, major=major, minor=minor, total_memory=80 * 2**30
    )

    @contextlib.contextmanager
    def stream(which: Stream | None) -> Iterator[None]:
        before, mode.stream = mode.stream, which or mode.stream
        try:
            yield
        finally:
            mode.stream = before

    @contextlib.contextmanager
    def graph(which: Graph, pool: Any = None, stream: Any = None, capture_error_mode: str = "global") -> Iterator[None]:
        which.recorded.priority = stream.priority
        with mode.recording(which):
            yield

    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda including_emulation=True: True,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "device": lambda which: contextlib.nullcontext(),
        "stream": stream,
        "current_stream": lambda device=None: mode.stream,
        "default_stream": lambda device=None: mode.stream,
        "Stream": Stream,
        "Event": Event,
        "CUDAGraph": Graph,
        "graph": graph,
        "graph_pool_handle": lambda: (0, 1),
        "is_current_stream_capturing": lambda: mode.graph is not None,
        "synchronize": lambda device=None: mode.note("waits", "torch.cuda.synchronize"),
        "memory_reserved": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "mem_get_info": lambda device=None: (64 * 2**30, 80 * 2**30),
        "get_device_capability": lambda device=None: mode.capability,
        "get_device_properties": lambda device=None: properties,
        "get_device_name": lambda device=None: properties.name,
    }


def _patch_triton(patch: pytest.MonkeyPatch) -> None:
    jit = pytest.importorskip("triton.runtime.jit")

    def launcher(kernel: Any, grid: Any) -> Callable[..., None]:
        def launch(*args: Any, **kwargs: Any) -> None:
            mode, name = _cuda(), kernel.fn.__name__
            tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
            if any(not x.is_cuda for x in tensors):
                mode.note("mixed devices", name)
            mode.launched(name, kernel, (args, kwargs))

        return launch

    patch.setattr(jit.KernelInterface, "__getitem__", launcher)


# ---- the package on the fake device ----

# Number of frames before the steady ones: the frame with the prompts, and the frame that records its step.
SETTLING = 2
# A few layers of each type: the encoder pools queries in three blocks and attends to the whole map in one.
SHALLOW = [
    "model.image_encoder.trunk.stages=[1,1,2,1]",
    "model.image_encoder.trunk.global_att_blocks=[3]",
    *("model.memory_attention.num_layers=1", "model.memory_encoder.fuser.num_layers=1"),
]


def build(builder: Callable[..., Any], config: str, **kwargs: Any) -> Any:
    """Builds a model of a configuration, with weights that have no values."""
    return builder(config, None, device="cpu", **kwargs).to(GPU)


def frames(count: int, height: int = 90, width: int = 120) -> list[np.ndarray]:
    """Returns frames of random noise."""
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def steady_frames(cuda: FakeCuda, predictor: Any, objects: int, count: int, **options: Any) -> list[Seen]:
    """Returns the events of each of ``count`` frames of a video, tracked with ``options``, after the first few."""
    ahead = 2 * frames_at_once(options.get("encode_ahead"), GPU) + options.get("lag", 0)
    state = predictor.init_state(frames(SETTLING + count + ahead))  # the last frames form smaller batches
    for i in range(objects):
        predictor.add_new_points_or_box(state, 0, i, [[20.0 * i, 40.0]], [1])
    answers, found = predictor.propagate_in_video(state, progress=False, **options), []
    for _ in range(SETTLING + count):
        with cuda.watched() as seen:
            next(answers)
        found.append(seen)
    return found[SETTLING:]


def steady_steps(cuda: FakeCuda, predictor: Any, objects: int, count: int, **options: Any) -> list[Seen]:
    """Returns the events of frames passed to a stream's ``step`` with ``options``."""
    found = []
    with predictor.open_stream() as stream:
        for t, frame in enumerate(frames(SETTLING + count)):
            with cuda.watched() as seen:
                stream.step(frame, **options)
            found.append(seen)
            for i in range(objects if t == 0 else 0):
                stream.add_new_points_or_box(i, [[20.0 * i, 40.0]], [1])
    return found[SETTLING:]
