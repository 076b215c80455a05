"""Repairs Triton's CPU interpreter for tests (checked on triton 3.2.0, 3.7.1 and 3.9.0).

Unrepaired, bfloat16 operations compute on the raw bits, casts truncate, fused multiply-adds round twice, and with numpy
2.4 triton 3.6 cannot use a runtime loop bound. :func:`shuffled_programs` finds kernels that lean on an order.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, ReduceOps, TensorHandle

from sam2fast.kernels import _dispatch

_order: np.random.Generator | None = None


def _widen(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bits to fp32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _narrow(values: np.ndarray) -> np.ndarray:
    """fp32 to bfloat16 bits, rounding to nearest even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def _widen_fp8(bits: np.ndarray) -> np.ndarray:
    """float8_e4m3fn bits to fp32."""
    return torch.from_numpy(np.array(bits, dtype=np.uint8)).view(torch.float8_e4m3fn).float().numpy()


def _narrow_fp8(values: np.ndarray) -> np.ndarray:
    """fp32 to float8_e4m3fn bits, rounding to nearest even; what is too large becomes the largest, as on GPUs."""
    limited = torch.from_numpy(np.array(values, dtype=np.float32)).clamp(-448, 448)
    return limited.to(torch.float8_e4m3fn).view(torch.uint8).numpy()


def _is_bfloat16(handle: TensorHandle) -> bool:
    return handle.dtype.scalar == tl.bfloat16


def _widened(handle: TensorHandle) -> TensorHandle:
    if handle.dtype.scalar == tl.float8e4nv:
        return TensorHandle(_widen_fp8(handle.data), tl.float32)
    return TensorHandle(_widen(handle.data), tl.float32) if _is_bfloat16(handle) else handle


def _repair_elementwise(name: str, operands: int) -> None:
    original = getattr(InterpreterBuilder, name)

    def repaired(self: Any, *arguments: Any) -> TensorHandle:
        if not _is_bfloat16(arguments[0]):
            return original(self, *arguments)
        out = original(self, *map(_widened, arguments[:operands]), *arguments[operands:])
        return out if out.data.dtype == bool else TensorHandle(_narrow(out.data), tl.bfloat16)

    setattr(InterpreterBuilder, name, repaired)


def _repair_where_and_clamp() -> None:
    original = InterpreterBuilder.ternary_op

    def repaired(self: Any, a: TensorHandle, b: TensorHandle, c: TensorHandle, op: Any) -> TensorHandle:
        if op is np.where or not (_is_bfloat16(b) or _is_bfloat16(c)):
            return original(self, a, b, c, op)
        return TensorHandle(_narrow(original(self, _widened(a), _widened(b), _widened(c), op).data), tl.bfloat16)

    InterpreterBuilder.ternary_op = repaired


def _repair_dot() -> None:
    original = InterpreterBuilder.create_dot

    def repaired(self: Any, a: TensorHandle, b: TensorHandle, *rest: Any) -> TensorHandle:
        return original(self, _widened(a), _widened(b), *rest)

    InterpreterBuilder.create_dot = repaired


def _repair_casts() -> None:
    cast_impl, create_fp_to_fp = InterpreterBuilder.cast_impl, InterpreterBuilder.create_fp_to_fp
    floats = {tl.bfloat16, tl.float16, tl.float32, tl.float64}

    def cast(self: Any, source: TensorHandle, target: Any) -> TensorHandle:
        have, want = source.dtype.scalar, target.scalar
        if have == want or tl.bfloat16 not in (have, want):
            return cast_impl(self, source, target)
        if want == tl.bfloat16:
            return TensorHandle(_narrow(source.data.astype(np.float32)), tl.bfloat16)
        return _widened(source) if want == tl.float32 else cast_impl(self, _widened(source), target)

    def between_floats(self: Any, source: TensorHandle, target: Any, mode: Any) -> TensorHandle:
        kinds = {source.dtype.scalar, target.scalar}
        if tl.float8e4nv in kinds:
            wide = _widened(source)
            if target.scalar == tl.float8e4nv:
                return TensorHandle(_narrow_fp8(wide.data), tl.float8e4nv)
            return wide if target.scalar == tl.float32 else cast(self, wide, target)
        if tl.bfloat16 in kinds and kinds <= floats:
            return cast(self, source, target)
        return create_fp_to_fp(self, source, target, mode)

    InterpreterBuilder.cast_impl, InterpreterBuilder.create_fp_to_fp = cast, between_floats
    InterpreterBuilder.get_bf16 = lambda self, value: TensorHandle(_narrow(np.array([value], np.float32)), tl.bfloat16)


def _repair_sum() -> None:
    original = ReduceOps.sum

    def repaired(self: Any, x: Any) -> Any:
        if not _is_bfloat16(x.handle):
            out = original(self, x)
            # Triton 3.2 leaves numpy's sums of int32 in int64, and writes eight bytes of each.
            out.handle.data = np.asarray(out.handle.data).astype(x.handle.data.dtype, copy=False)
            return out
        wide = tl.core.tensor(_widened(x.handle), tl.core.block_type(tl.float32, list(x.shape)))
        return self.to_tensor(_narrow(np.asarray(original(self, wide).handle.data)), tl.bfloat16)

    ReduceOps.sum = repaired


def _repair_fused_multiply_add() -> None:
    """The product of two fp32 numbers is exact in float64."""
    original = InterpreterBuilder.create_fma

    def repaired(self: Any, x: TensorHandle, y: TensorHandle, z: TensorHandle) -> TensorHandle:
        if z.data.dtype != np.float32:
            return original(self, x, y, z)
        exact = x.data.astype(np.float64) * y.data + z.data
        return TensorHandle(exact.astype(np.float32), z.dtype.scalar)

    InterpreterBuilder.create_fma = repaired


def _repair_loop_bounds() -> None:
    """``range(0, n)`` with a runtime n: numpy 2.4 refuses ``int()`` of a one-element array."""
    original = interpreter._patch_lang_tensor

    def repaired(tensor: Any, *rest: Any) -> None:
        original(tensor, *rest)
        tensor.__index__ = lambda self: int(np.asarray(self.handle.data).reshape(-1)[0])

    interpreter._patch_lang_tensor = repaired


def _compute_erf_in_arrays() -> None:
    """In double precision, as ``math.erf``, which it is applied to element by element otherwise."""

    def erf(x: np.ndarray) -> np.ndarray:
        wide = np.array(x, dtype=np.float64)
        return torch.erf(torch.from_numpy(wide)).numpy().astype(x.dtype)

    interpreter.np_erf_fp32 = interpreter.np_erf_fp64 = erf


def _look_dtypes_up() -> None:
    original = interpreter._get_np_dtype
    known: dict[str, np.dtype] = {}

    def repaired(dtype: Any) -> np.dtype:
        scalar = dtype.scalar
        if scalar.is_ptr():
            return original(scalar)
        if scalar.name not in known:
            known[scalar.name] = original(scalar)
        return known[scalar.name]

    interpreter._get_np_dtype = repaired


def _drop_unused_overflow_checks() -> None:
    """Without ``debug`` their result goes to an assertion that does nothing."""
    builder = interpreter.interpreter_builder
    if not builder.options.debug:
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


def _patch_the_language_once() -> None:
    """Once per launch and module with device functions, instead of at every call of one."""
    original = interpreter._patch_lang
    patched: set[int] = set()
    of_launch: Any = None

    def repaired(fn: Any) -> Any:
        nonlocal of_launch
        module = id(fn.__globals__)
        if module in patched:
            return of_launch
        patched.add(module)
        scope = original(fn)
        if scope is None:  # where nothing is taken back after a launch
            return None
        if of_launch is not None:
            of_launch._changes += scope._changes
            return of_launch
        of_launch, restore = scope, scope.restore

        def forget() -> None:
            nonlocal of_launch
            of_launch = None
            patched.clear()
            restore()

        scope.restore = forget
        return scope

    interpreter._patch_lang = repaired


def _let_programs_be_shuffled() -> None:
    set_grid_dim, set_grid_idx = InterpreterBuilder.set_grid_dim, InterpreterBuilder.set_grid_idx

    def dim(self: Any, x: int, y: int, z: int) -> None:
        set_grid_dim(self, x, y, z)
        self._order = None if _order is None else _order.permutation(x * y * z)

    def index(self: Any, x: int, y: int, z: int) -> None:
        if self._order is not None:
            _, ny, nz = self.grid_dim
            x, y, z = map(int, np.unravel_index(self._order[(x * ny + y) * nz + z], self.grid_dim))
        set_grid_idx(self, x, y, z)

    InterpreterBuilder.set_grid_dim, InterpreterBuilder.set_grid_idx = dim, index


@contextlib.contextmanager
def shuffled_programs(seed: int) -> Iterator[None]:
    """Inside, every launch runs its programs in a random order."""
    global _order
    _order = np.random.default_rng(seed)
    try:
        yield
    finally:
        _order = None


def install() -> None:
    """Repairs the interpreter of this process, once, and tells the dispatcher so."""
    if _dispatch.interpreter_supports_bfloat16:
        return
    _repair_elementwise("binary_op", 2)
    _repair_elementwise("unary_op", 1)
    _repair_where_and_clamp()
    _repair_dot()
    _repair_casts()
    _repair_sum()
    _repair_fused_multiply_add()
    _repair_loop_bounds()
    _compute_erf_in_arrays()
    _look_dtypes_up()
    _drop_unused_overflow_checks()
    _patch_the_language_once()
    _let_programs_be_shuffled()
    _dispatch.interpreter_supports_bfloat16 = True
