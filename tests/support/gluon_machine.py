"""Runs a Gluon kernel for Hopper on a CPU, in any order of its groups of warps, copies and products that it allows.

Triton's interpreter does not take Gluon. Here each group of warps is a thread, and one of them runs at a time. A copy
into shared memory lands at a random time after it was issued, and until then its tile holds NaN. A product reads its
tiles at a random time between issue and wait. So a tile that is read too early or overwritten too early gives a wrong
result, if not an error, for some seed. Barriers count arrivals and bytes as the hardware does.

Not covered: layouts, registers that a product still reads, and memory fences. ``make sass`` and the compiler see those.
"""

import itertools
import random
import threading
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.runtime.jit import JITCallable


class HazardError(AssertionError):
    """A kernel that is right only if it is lucky."""


class _StoppedError(Exception):
    """Another group has failed."""


class Pointer(NamedTuple):
    """A pointer, or a tensor of pointers, into a tensor of the device's memory."""

    memory: Tensor  # flat
    offset: Any

    @property
    def dtype(self) -> Any:
        return types.SimpleNamespace(element_ty=self.memory.dtype)

    def __add__(self, offset: Any) -> "Pointer":
        return Pointer(self.memory, self.offset + offset)


class Tile(NamedTuple):
    """A part of shared memory."""

    data: Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.data.dtype

    def index(self, i: Any) -> Any:
        return Tile(self.data[int(i)])

    def permute(self, order: tuple[int, ...]) -> "Tile":
        return Tile(self.data.permute(order))

    def overlaps(self, other: "Tile") -> bool:
        sizes = [x.data.numel() * x.data.element_size() for x in (self, other)]
        starts = [x.data.data_ptr() for x in (self, other)]
        return starts[0] < starts[1] + sizes[1] and starts[1] < starts[0] + sizes[0]


class Barriers:
    """Barriers of shared memory by index."""

    def __init__(self, batch: int) -> None:
        self.all = [Barrier() for _ in range(batch)]

    def index(self, i: Any) -> "Barrier":
        return self.all[int(i)]


class Barrier:
    """One barrier: phases that ended, and what the current one still waits for."""

    def __init__(self) -> None:
        self.count = self.arrivals = self.bytes = self.phases = 0

    def init(self, count: int) -> None:
        self.count = self.arrivals = count

    def arrive(self, count: int = 1) -> None:
        self.arrivals -= count
        if self.arrivals < 0:
            raise HazardError("a barrier has more arrivals than it counts")
        self._end()

    def copied(self, size: int) -> None:
        self.bytes -= size
        self._end()

    def _end(self) -> None:
        if not self.arrivals and not self.bytes:
            self.phases, self.arrivals = self.phases + 1, self.count

    @property
    def is_even(self) -> bool:
        """Whether nothing is left of a phase that began."""
        return self.arrivals == self.count and not self.bytes


class Descriptor(NamedTuple):
    """Rows of the device's memory, of which blocks are copied; beyond the sides they are zero."""

    base: Pointer
    shape: tuple[int, int]
    stride: int
    block: tuple[int, int]

    @property
    def nbytes_per_cta(self) -> int:
        return self.block[0] * self.block[1] * self.base.memory.element_size()

    @property
    def block_type(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(nbytes=self.nbytes_per_cta)

    def read(self, row: int, column: int) -> Tensor:
        rows, columns = (torch.arange(first, first + n) for first, n in zip((row, column), self.block, strict=True))
        inside = (rows < self.shape[0])[:, None] & (columns < self.shape[1])[None, :]
        places = torch.where(inside, int(self.base.offset) + rows[:, None] * self.stride + columns[None, :], 0)
        return torch.where(inside, self.base.memory[places], 0)


class Product:
    """A product that was issued; its result may be used after a wait."""

    def __init__(self, left: Any, right: Tile, initial: Tensor | None) -> None:
        self.left, self.right, self.initial, self.result = left, right, initial, None

    def compute(self) -> None:
        left = self.left.data if isinstance(self.left, Tile) else self.left
        product = left.float() @ self.right.data.float()
        self.result = product if self.initial is None else self.initial + product

    def reads(self, tile: Tile) -> bool:
        return any(isinstance(x, Tile) and x.overlaps(tile) for x in (self.left, self.right))


class Group(threading.Thread):
    """A group of warps."""

    def __init__(self, function: Callable[..., None], given: Any) -> None:
        super().__init__(daemon=True)
        self.function, self.given = function, given
        self.turn, self.ready = threading.Semaphore(0), lambda: True
        self.issued: list[Product] = []
        self.is_done, self.error = False, None


class Machine:
    """One program on its multiprocessor, with random delays by ``seed``."""

    def __init__(self, seed: int, program: tuple[int, ...], programs: tuple[int, ...]) -> None:
        self.random, self.program, self.programs = random.Random(seed), program, programs
        self.groups: list[Group] = []
        self.copies: list[tuple[Tile, Tensor, Barrier]] = []
        self.barriers: list[Barrier] = []
        self.back, self.current, self.is_stopped = threading.Semaphore(0), None, False
        # How eager copies, products and each group are in this run.
        self.pace = {name: 10 ** self.random.uniform(-2, 2) for name in ("copy", "product", *range(8))}

    def specialise(self, parts: list[tuple[Callable[..., None], Any]], *_: Any) -> None:
        self.groups = [Group(function, given) for function, given in parts]
        for group in self.groups:
            group.run = self._body(group)
            group.start()
        try:
            while not all(group.is_done for group in self.groups):
                self._step()
        finally:
            self.is_stopped = True
            for group in self.groups:
                group.turn.release()
                group.join()
        if self.copies or not all(barrier.is_even for barrier in self.barriers):
            raise HazardError("the program ends before its copies, or within the phase of a barrier")

    def _body(self, group: Group) -> Callable[[], None]:
        def run() -> None:
            try:
                self._await_turn(group)
                group.function(*group.given)
                if group.issued:
                    raise HazardError("a group ends before its products")
            except _StoppedError:
                return
            except BaseException as error:
                group.error = error
            group.is_done = True
            self.back.release()

        return run

    def _await_turn(self, group: Group) -> None:
        group.turn.acquire()
        if self.is_stopped:
            raise _StoppedError

    def _step(self) -> None:
        """Lets a group go on to its next pause, or a copy or product happen."""
        able: list[tuple[float, Any]] = [
            (self.pace[i], group) for i, group in enumerate(self.groups) if not group.is_done and group.ready()
        ]
        able += [(self.pace["copy"], copy) for copy in self.copies]
        able += [(self.pace["product"], product) for group in self.groups if (product := _next(group))]
        if not able:
            raise HazardError("all groups wait for one another")
        chosen = self.random.choices([x for _, x in able], [weight for weight, _ in able])[0]
        if isinstance(chosen, Product):
            chosen.compute()
        elif isinstance(chosen, tuple):
            self.copies = [copy for copy in self.copies if copy is not chosen]
            tile, data, barrier = chosen
            tile.data.copy_(data)
            barrier.copied(data.numel() * data.element_size())
        else:
            self.current = chosen
            chosen.turn.release()
            self.back.acquire()
            if chosen.error is not None:
                raise chosen.error

    def pause(self, ready: Callable[[], bool] = lambda: True) -> None:
        """Lets others run until it is this group's turn, and ``ready``."""
        group = self.current
        assert group is not None
        group.ready = ready
        self.back.release()
        self._await_turn(group)

    def barrier(self, batch: int | None = None) -> Any:
        made = Barriers(batch or 1)
        self.barriers += made.all
        return made if batch else made.all[0]

    def allocate(self, dtype: torch.dtype, shape: list[int], layout: Any) -> Any:
        """Returns barriers for integers, and a tile for other dtypes."""
        return self.barrier(shape[0]) if dtype == torch.int64 else Tile(torch.full(shape, float("nan"), dtype=dtype))

    def wait(self, barrier: Barrier, parity: Any, pred: bool = True) -> None:
        if pred:
            self.pause(lambda: barrier.phases % 2 != int(parity))

    def arrive(self, barrier: Barrier, count: int = 1) -> None:
        self.pause()
        barrier.arrive(count)

    def expect(self, barrier: Barrier, size: int) -> None:
        self.pause()
        barrier.bytes += size
        barrier.arrive()

    def copy(self, rows: Descriptor, place: list[Any], barrier: Barrier, tile: Tile) -> None:
        self.pause()
        if any(product.result is None and product.reads(tile) for group in self.groups for product in group.issued):
            raise HazardError("a copy overwrites what a product still reads")
        if any(tile.overlaps(other) for other, *_ in self.copies):
            raise HazardError("two copies write one tile")
        tile.data.fill_(float("nan"))
        self.copies.append((tile, rows.read(*map(int, place)).reshape(tile.data.shape), barrier))

    def product(self, left: Any, right: Tile, initial: Any, use_acc: bool = True, is_async: bool = False) -> Product:
        self.pause()
        assert is_async and self.current is not None
        made = Product(left, right, initial if use_acc else None)
        if any(made.reads(tile) for tile, *_ in self.copies):
            raise HazardError("a product may read what a copy has not written")
        self.current.issued.append(made)
        return made

    def wait_for_products(self, left: int, deps: list[Any]) -> Any:
        group = self.current
        assert group is not None
        done = group.issued[: max(0, len(group.issued) - left)]
        self.pause(lambda: all(product.result is not None for product in done))
        group.issued = group.issued[len(done) :]
        found = [x.result if isinstance(x, Product) else x for x in deps]
        if any(x is None for x in found):
            raise HazardError("a wait returns a product that may not be finished")
        return found[0] if len(found) == 1 else tuple(found)

    def names(self) -> dict[str, Any]:
        """What the names that a kernel's module imports from Gluon mean here."""
        language = types.SimpleNamespace(
            float32=torch.float32, int64=torch.int64, static_range=range,
            program_id=lambda axis: torch.tensor(self.program[axis]),
            num_programs=lambda axis: torch.tensor(self.programs[axis]),
            full=lambda shape, value, dtype, layout: torch.full(shape, value, dtype=dtype),
            arange=lambda first, last, layout: torch.arange(first, last),
            where=lambda mask, x, y: torch.where(mask, x, torch.as_tensor(y, dtype=x.dtype)),
            max=lambda x, axis: x.amax(axis), sum=lambda x, axis: x.sum(axis),
            maximum=torch.maximum, exp2=torch.exp2, log2=torch.log2,
            convert_layout=lambda x, layout: x, load=_load, store=_store,
            allocate_shared_memory=self.allocate,
            warp_specialize=self.specialise,
            **dict.fromkeys(("NVMMADistributedLayout", "DotOperandLayout", "SliceLayout"), lambda *given: None),
        )  # fmt: skip
        tma = types.SimpleNamespace(
            make_tensor_descriptor=lambda base, shape, strides, block, layout: Descriptor(
                base, tuple(map(int, shape)), int(strides[0]), tuple(block)
            ),
            async_copy_global_to_shared=self.copy,
        )
        mbarrier = types.SimpleNamespace(
            allocate_mbarrier=self.barrier, MBarrierLayout=lambda: None, init=Barrier.init, wait=self.wait,
            arrive=self.arrive, expect=self.expect,
        )  # fmt: skip
        products = {"warpgroup_mma": self.product, "warpgroup_mma_wait": self.wait_for_products}
        return {"gl": language, "tma": tma, "mbarrier": mbarrier, **products}


def _next(group: Group) -> Product | None:
    """A group's products are computed in order."""
    return next((product for product in group.issued if product.result is None), None)


def _load(pointer: Pointer) -> Tensor:
    return pointer.memory[pointer.offset]


def _store(pointer: Pointer, value: Tensor, mask: Tensor) -> None:
    offset, mask, value = torch.broadcast_tensors(pointer.offset, mask, value)
    pointer.memory[offset[mask]] = value[mask].to(pointer.memory.dtype)


def translated(function: Any, names: dict[str, Any], changes: dict[str, Any]) -> Callable[..., Any]:
    """A kernel's function, and those that it calls, with other meanings of ``names``, and some functions changed."""
    within: dict[str, Any] = {}
    for name, value in function.__globals__.items():
        if isinstance(value, JITCallable) and name in function.__code__.co_names and name not in names:
            value = translated(changes.get(name, value.fn), names, changes)
        within[name] = value.value if isinstance(value, gl.constexpr) else value
    return types.FunctionType(function.__code__, within | names, function.__name__, function.__defaults__)


class OnMachine:
    """Launches a Gluon kernel on :class:`Machine`, each program with a seed of its own, in random order."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.seed, self.launches = kernel, 0, 0
        self.changes: dict[str, Any] = {}  # functions by name that are run instead

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def run(*given: Any, num_warps: int, enable_fp_fusion: bool, **constants: Any) -> None:
            self.launches += 1
            arguments = [Pointer(_flat(x), 0) if isinstance(x, Tensor) else x for x in given]
            programs = list(itertools.product(*map(range, grid)))
            random.Random(self.seed).shuffle(programs)
            for i, program in enumerate(programs):
                names = Machine(self.seed + i, program, grid).names()
                translated(self.kernel.fn, names, self.changes)(*arguments, **constants)

        return run


def _flat(x: Tensor) -> Tensor:
    """The memory of a tensor from its first number on."""
    size = x.untyped_storage().nbytes() // x.element_size() - x.storage_offset()
    return x.as_strided((size,), (1,))
