"""Launches the Triton kernels of memory attention and self-attention."""

import functools
import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from sam2fast.kernels._dispatch import count_launch, current_backend
from sam2fast.kernels._launch import CTAS_PER_SM, FUSED, MAX_PROGRAMS, LaunchConfig, launch_config, product_precision
from sam2fast.kernels._sdpa import CUDNN, DEFAULT, KERNEL, attention_by
from sam2fast.kernels._tiles import padded
from sam2fast.kernels.layer_norm_triton import launch_norm
from sam2fast.kernels.memory_attention.approximations import NUMBERS, Pooling, rows_for
from sam2fast.kernels.memory_attention.kernel import (
    COMBINE,
    ENCODE,
    ROTATE,
    WARPS,
    _attend_kernel,
    _combine_kernel,
    blocks,
    encode_warps,
)
from sam2fast.kernels.memory_attention.reference import AttendedMemory, KeyValueWeights, of_keys
from sam2fast.kernels.memory_attention.rope_kernel import _encode_kernel, _rotate_kernel

LOG2E = math.log2(math.e)
# Maximum bytes of keys in memory at once. If keys of all objects need more, objects are processed in groups.
MAX_KEY_BYTES = 512 * 2**20
MAX_SPLITS = 16


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Returns tile sizes of queries and keys. Shape class 256x64 has 256 channels per head and 64 channels of values.

    With a bound of 30 %, the kernel reaches at most 30 % of the GPU's peak speed, as computed by ``make sass``. On an
    H100, memory attention in bfloat16 reached 43 to 56 % of the bound for 4 objects, and 31 to 52 % for one object.
    Other tiles were not measured. With two stages, no load is prefetched. GPUs of workstations (sm_86, sm_89, sm_120,
    sm_121) have 100 KiB of shared memory, so three stages need smaller tiles there than on sm_80, sm_90 and sm_100.
    """
    if dtype == "float32":  # fp32 takes three TF32 products, and only 32 channels fit into registers
        queries = 64 if shape in ("256x64", "128x64") else 32  # fp8 needs 64 queries
        tile = {"BLOCK_M": queries, "BLOCK_N": 32, "CHUNK": 32}
        # On an H100, torch takes 0.32 to 0.45 of our kernel's time for heads of 256 channels. For heads of 64 channels,
        # our kernel was not measured.
        if shape == "64x64" or shape == "256x256" and arch == "sm_90":
            tile["SDPA"] = DEFAULT
        return LaunchConfig(tile, {"num_warps": 8, "num_stages": 2})
    if shape == "64x64":  # torch's kernels are optimized for image encoders' heads of 64 channels
        tile = {"BLOCK_M": 64, "BLOCK_N": 32, "CHUNK": 256, "SDPA": DEFAULT}
        return LaunchConfig(tile, {"num_warps": 4, "num_stages": 2})
    wide = {"BLOCK_M": 128, "BLOCK_N": 64, "CHUNK": 256}
    has_memory = arch in ("sm_80", "sm_90", "sm_100")
    if shape == "128x64":  # two programs fit per multiprocessor; bounds are 72 % on sm_90, 32 % on sm_100
        if arch in ("sm_90", "sm_100"):
            warps = 4 if arch == "sm_100" else 8  # with eight warps, one program fits on sm_100
            return LaunchConfig({**wide, CTAS_PER_SM: 2}, {"num_warps": warps, "num_stages": 3})
        if arch.startswith("sm_"):  # bounds: 88 % on sm_86, sm_89 and sm_120, in fp8 83 %; 87 and 65 % with two stages
            return LaunchConfig({**wide, "PEELED": 1}, {"num_warps": 8, "num_stages": 3})
        return LaunchConfig(wide, {"num_warps": 8, "num_stages": 2})
    if shape == "256x64" and has_memory:  # a loop without masks raises bounds: 62 to 65, 51 to 56, 27 to 32 %
        return LaunchConfig({**wide, "PEELED": 1}, {"num_warps": 8, "num_stages": 3})
    if shape == "256x64" and arch.startswith("sm_"):  # bounds: 86 % on sm_86, sm_89 and sm_120; 64 % with two stages
        tile = {"BLOCK_M": 64, "BLOCK_N": 32, "CHUNK": 256, "PEELED": 1}
        return LaunchConfig(tile, {"num_warps": 4, "num_stages": 3})
    if shape == "256x64":
        return LaunchConfig({**wide, "BLOCK_M": 64}, {"num_warps": 4, "num_stages": 2})
    # Bounds: 31 % on sm_80, where tiles of 64 x 32 would need all registers; 80 % on sm_86, sm_89 and sm_120.
    if shape == "256x256" and arch.startswith("sm_") and arch not in ("sm_90", "sm_100"):
        return LaunchConfig({"BLOCK_M": 32, "BLOCK_N": 32, "CHUNK": 256}, {"num_warps": 4, "num_stages": 3})
    if shape == "256x256" and has_memory:  # bounds: 45 % on sm_90, 25 % on sm_100; four warps would spill
        tile = {"BLOCK_M": 128, "BLOCK_N": 32, "CHUNK": 256}
        # On an H100, our kernel takes 61 us for one object, and 191 us for four objects. cuDNN's attention takes 92 us
        # for one object, and 105 us for four objects, without the rotation.
        cudnn = {"SDPA": CUDNN, "SDPA_FROM": 4} if arch == "sm_90" and dtype == "bfloat16" else {}
        return LaunchConfig(tile | cudnn, {"num_warps": 8, "num_stages": 3})
    return LaunchConfig({"BLOCK_M": 64, "BLOCK_N": 32, "CHUNK": 256}, {"num_warps": 4, "num_stages": 2})


class Added(NamedTuple):
    """Stores a residual to which attention is added, and parameters and result of the sum's layer norm."""

    x: Tensor  # (B or 1, N, C) residual
    weight: Tensor  # (C) weight of the layer norm
    bias: Tensor  # (C) bias of the layer norm
    eps: float
    normed: Tensor  # (B, N, C) out: layer norm of the sum

    def of(self, some: slice) -> "Added":
        """Returns residual and norm of the objects with indices ``some``."""
        return self._replace(x=self.x[some] if len(self.x) > 1 else self.x, normed=self.normed[some])

    def empty_sum(self, dtype: torch.dtype) -> Tensor:
        """Returns an empty tensor for the sum of the residual and attention of dtype ``dtype``."""
        return self.normed.new_empty(self.normed.shape, dtype=torch.promote_types(dtype, self.x.dtype))


def memory_attention_triton(
    query: Tensor,
    memory: AttendedMemory,
    *rest: Any,
    splits: int | None = None,
    fp8: bool = False,
    pooling: Pooling = None,
    added: Added | None = None,
) -> Tensor:
    """Computes :func:`sam2fast.kernels.memory_attention.memory_attention` on the GPU, without synchronising.

    With ``added``, returns the sum of attention and residual, and writes the norm of the sum to ``added.normed``.

    Args:
        rest: Fields of :class:`KeyValueWeights`.
        splits: Number of programs that share the keys of a query tile. None uses the result of :func:`splits_for`.
        fp8: If True, queries and keys are rounded to fp8. The GPU must support fp8 matrix multiplications.
        pooling: See :func:`sam2fast.kernels.memory_attention.memory_attention`.
    """
    weights = KeyValueWeights(*(x if x is None else x.contiguous() for x in rest))  # type: ignore[arg-type]
    (B, K), (rows, H, N, d), n = memory.page_table.shape, query.shape, memory.pages.shape[1]
    dtype = query.dtype if added is None else torch.promote_types(query.dtype, added.x.dtype)
    out = query.new_empty(B, N, weights.value_weight.shape[0], dtype=dtype)
    if out.numel() == 0:
        return out
    M = rows_for(K, n, pooling) + memory.pointers.shape[1]
    if M * 2 * half_of(d) >= 2**31:
        raise ValueError(f"{M} memory tokens per object are more than the kernels can address; use fewer memories")
    launch = attention_config(query, d, memory.pages.shape[-1])
    memory = type(memory)(*(x.contiguous() for x in memory[:8]))
    scale = LOG2E * d**-0.5
    count_launch("memory_attention")
    with launch.on_device(query):
        rotated = Rotated.empty(query, rows, H, N, 2 * half_of(d), fp8)
        group = _group(H * M * rotated.data.shape[-1] * rotated.data.element_size(), H)
        for start in range(0, B, group):
            some = slice(start, start + group)
            unrotated = query if start == 0 else query[:0]  # the first group's kernels rotate all queries
            keys, values, lengths, offsets = _encode(unrotated, rotated, pooling, memory.of(some), weights)
            queries = rotated.of(some) if rows > 1 else rotated
            means = _attend(launch, queries, keys, values[:, None], lengths, scale, splits, offsets=offsets)
            assert means is not None
            of_group = None if added is None else added.of(some)
            _combine(means, out[some].unflatten(2, (H, -1)), weights, of_group)
    return out


def _added(like: Tensor, B: int, x: Tensor | None, weight: Tensor | None, bias: Tensor | None, eps: float) -> Any:
    """Returns the residual ``x`` and an empty norm in the dtype of ``like``, or None if ``x`` is None."""
    if x is None or weight is None or bias is None:
        return None
    return Added(x.contiguous(), weight.contiguous(), bias.contiguous(), eps, like.new_empty(B, *x.shape[1:]))


def rope_attention_of_tensors(query: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """Calls :func:`rope_attention_triton` with the flat arguments of the torch operator."""
    key, value, cos, sin, x, weight, bias, unrotated, eps, *splits = rest
    added = _added(query, len(query), x, weight, bias, eps)
    output = rope_attention_triton(query, key, value, cos, sin, unrotated, splits[0] if splits else None, added)
    return output, output.new_empty(0) if added is None else added.normed


def memory_attention_of_tensors(query: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """Calls :func:`memory_attention_triton` with the flat arguments of the torch operator."""
    memory, weights = AttendedMemory(*rest[:8]), rest[8:14]
    x, weight, bias, eps, fp8, pooling, *splits = rest[14:]
    added = _added(query, len(memory.page_table), x, weight, bias, eps)
    options = {"splits": splits[0] if splits else None, "fp8": fp8, "pooling": pooling or None, "added": added}
    output = memory_attention_triton(query, memory, *weights, **options)
    return output, output.new_empty(0) if added is None else added.normed


def rope_attention_triton(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    num_unrotated_keys: int = 0,
    splits: int | None = None,
    added: Added | None = None,
) -> Tensor:
    """Computes :func:`sam2fast.kernels.memory_attention.rope_attention` on the GPU, without dropout or synchronising.

    With ``added``, returns the sum of the single head's attention and the residual, and writes the norm of the sum.

    If the launch configuration contains ``SDPA`` (a number of ``_sdpa.py``), torch computes attention of ``SDPA_FROM``
    or more objects, and our kernels only rotate queries and keys. With the backend ``triton``, or if ``splits`` is not
    None, our kernel always computes attention.

    Args:
        splits: See :func:`memory_attention_triton`.
    """
    B, H, N, d = query.shape
    width = value.shape[-1]
    # All heads of a position are adjacent in memory, since the following projection reads all heads.
    out = value.new_empty(B, N, H, width)
    if out.numel() == 0:
        return out.transpose(1, 2) if added is None else added.empty_sum(out.dtype)
    launch = attention_config(query, d, width)
    value = value if value.stride(-1) == 1 else value.contiguous()
    cos, sin = cos.contiguous(), sin.contiguous()
    is_forced = splits is not None or current_backend() == "triton"
    is_kernel = is_forced or launch.meta.get("SDPA_FROM", 1) > B
    choice = KERNEL if is_kernel else launch.meta.get("SDPA", KERNEL)
    count_launch("rope_attention")
    with launch.on_device(query):
        rotated, keys = _rotate_both(query, key, cos, sin, num_unrotated_keys)
        if choice == KERNEL:
            means = _attend(launch, rotated, keys, value, None, LOG2E * d**-0.5, splits, out)
        else:
            means, attend = None, attention_by(choice, d**-0.5)
            out = attend(rotated.data, keys.data, value).transpose(1, 2).contiguous()
        if added is None:
            if means is not None:
                _combine(means, out)
            return out.transpose(1, 2)
        total = added.empty_sum(out.dtype)
        if means is None:
            launch_norm(*added[:4], None, normed=added.normed, delta=out.flatten(2), total=total)
        else:
            _combine(means, total[:, :, None], added=added)
    return total


class Rotated(NamedTuple):
    """Stores rotated queries or keys in the memory layout of the kernels."""

    data: Tensor  # (B, H, M, 2 * HALF) rotated rows: even channels, then odd channels, each half padded
    scales: Tensor | None = None  # (B, H, M) fp32, scale of each row; None if data is not float8_e4m3fn

    @classmethod
    def empty(cls, like: Tensor, B: int, H: int, M: int, D: int, fp8: bool) -> "Rotated":
        if not fp8:
            return cls(like.new_empty(B, H, M, D))
        data = torch.empty(B, H, M, D, dtype=torch.float8_e4m3fn, device=like.device)
        return cls(data, like.new_empty(B, H, M, dtype=torch.float32))

    @property
    def scales_or_any(self) -> Tensor:
        return self.data if self.scales is None else self.scales

    def of(self, some: slice) -> "Rotated":
        """Returns the rotated rows of the objects with indices ``some``."""
        return Rotated(self.data[some], None if self.scales is None else self.scales[some])


class SplitMeans(NamedTuple):
    """Stores weighted means of the values for each split of the keys."""

    sums: Tensor  # (splits, B * H, N, WIDTH) fp32, weighted means
    log_weights: Tensor  # (splits, B * H, N) fp32, log2 of sums of weights
    width: int


def attention_config(query: Tensor, d: int, width: int) -> LaunchConfig:
    """Returns the launch configuration for heads of ``d`` channels and values of ``width`` channels."""
    return launch_config("memory_attention", config, query, f"{2 * half_of(d)}x{padded(width)}")


def half_of(d: int) -> int:
    """Returns the number of channels of one half of a rotated head, including padding."""
    return padded(d // 2)


def splits_for(tiles: int, processors: int, longest: int, programs: int = 1) -> int:
    """Returns the number of programs that share the keys of a query tile, for the shortest estimated time.

    The estimate assumes that programs on a multiprocessor share the speed equally, and that writing and reading the
    results of a split costs a hundredth of the whole work.

    Args:
        tiles: Number of query tiles.
        processors: Number of multiprocessors.
        longest: Number of key blocks of the object with the most keys.
        programs: Number of programs that run at once on a multiprocessor.
    """
    slots = processors * programs

    def time(splits: int) -> float:
        return programs * -(-tiles * splits // slots) / splits + 0.01 * splits * tiles / processors

    return min(range(1, max(1, min(MAX_SPLITS, longest)) + 1), key=time)


def _group(keys: int, heads: int) -> int:
    """Returns the number of objects processed at once, for ``keys`` bytes of keys and ``heads`` heads per object.

    Results above 16 are multiples of 16. The tensors of all groups then begin at multiples of 16 bytes, so that Triton
    compiles only one kernel.
    """
    group = max(1, min(MAX_KEY_BYTES // max(1, keys), MAX_PROGRAMS // heads))
    return group if group < 16 else group // 16 * 16


@functools.cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _rotate_both(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, unrotated: int) -> list[Rotated]:
    """Rotates queries and all keys except the last ``unrotated`` keys, in one launch if both have equal layouts."""
    N, M = query.shape[2], key.shape[2]
    if (M, unrotated, query.stride(), query.dtype) != (N, 0, key.stride(), key.dtype):
        return _rotate((query,), cos, sin, N) + _rotate((key,), cos, sin, M - unrotated)
    return _rotate((query, key), cos, sin, N)


def _rotate(maps: tuple[Tensor, ...], cos: Tensor, sin: Tensor, rotated: int) -> list[Rotated]:
    """Rotates the first ``rotated`` rows of one or two tensors ``(B, H, M, d)`` with equal strides."""
    B, H, M, d = maps[0].shape
    out = maps[0].new_empty(len(maps), B, H, M, 2 * half_of(d))
    _rotate_kernel[triton.cdiv(M, ROTATE["BLOCK"]), B * H, len(maps)](
        maps[0], maps[-1], cos, sin, out, H, M, len(cos), rotated, d // 2, *maps[0].stride(), HALF=half_of(d), **ROTATE,
        **WARPS, **FUSED,
    )  # fmt: skip
    return [Rotated(x) for x in out]


def _encode(
    query: Tensor, rotated: Rotated, pooling: Pooling, memory: AttendedMemory, weights: KeyValueWeights
) -> tuple[Rotated, Tensor, Tensor, Tensor | None]:
    """Computes keys and values of the memory, and writes rotated queries ``(objects, H, N, d)`` to ``rotated``.

    Returns keys ``(B, H, M, 2 * HALF)`` in the dtype of ``rotated``, values ``(B, M, WIDTH)``, the number ``(B)`` int32
    of each object's keys, and numbers ``(B, M)`` fp32 to add to scores, or None except with pooling ``"counted"``.
    """
    (B, K), (_, n, m), L = memory.page_table.shape, memory.pages.shape, memory.pointers.shape[1]
    (objects, H, N, d), fp8 = query.shape, rotated.scales is not None
    HALF, WIDTH, M = half_of(d), padded(m), rows_for(K, n, pooling) + L
    keys, values = Rotated.empty(query, B, H, M, 2 * HALF, fp8), query.new_empty(B, M, WIDTH)
    key_weight, key_bias, _, _, cos, sin = weights
    tables = of_keys(cos, n), of_keys(sin, n)
    offsets = query.new_empty(B, M, dtype=torch.float32) if pooling == "counted" else None
    lengths = torch.empty(B, dtype=torch.int32, device=query.device)
    # Each object needs at least one program, since a program writes the object's number of keys, even if it is 0.
    tiles = max(1, K * triton.cdiv(n, ENCODE["BLOCK"]) + triton.cdiv(L, ENCODE["BLOCK"]))
    others = triton.cdiv(objects * triton.cdiv(N, ENCODE["BLOCK"]), B)  # programs that rotate queries, per object
    _encode_kernel[tiles + others, B, H](
        *memory[:7], memory.pointer_valid.view(torch.uint8), key_weight, key_weight if key_bias is None else key_bias,
        *tables, keys.data, keys.scales_or_any, values, lengths, lengths if offsets is None else offsets,
        query, cos, sin, rotated.data, rotated.scales_or_any, objects, N, *query.stride(),
        H, n, K, L, M, m, cos.shape[1], math.isqrt(n), HAS_BIAS=key_bias is not None, FP8=fp8, POOLING=NUMBERS[pooling],
        SLOTS=triton.next_power_of_2(max(1, K)), HALF=HALF, WIDTH=WIDTH, **ENCODE,
        PRECISION=product_precision(values.dtype), **encode_warps(bool(pooling), values.dtype), **FUSED,
    )  # fmt: skip
    return keys, values, lengths, offsets


def _attend(
    launch: LaunchConfig,
    query: Rotated,
    keys: Rotated,
    values: Tensor,
    lengths: Tensor | None,
    scale: float,
    splits: int | None,
    out: Tensor | None = None,
    offsets: Tensor | None = None,
) -> SplitMeans | None:
    """Computes attention. Scores are multiplied by ``scale``, and ``offsets (B, M)`` are added if not None.

    If ``out (B, N, H, width)`` is not None and keys are not split, writes the result to ``out`` and returns None.
    """
    q, k = query.data, keys.data
    (B, H, M, D), N, width = k.shape, q.shape[2], values.shape[-1]
    WIDTH = padded(width)
    tiles = triton.cdiv(N, launch.meta["BLOCK_M"])
    if splits is None:
        longest, programs = M // launch.meta["BLOCK_N"], launch.meta.get(CTAS_PER_SM, 1)
        splits = splits_for(tiles * B * H, _processors(q.device), longest, programs)
    if out is not None and splits == 1:
        sums = log_weights = out
        strides = out.stride(0), out.stride(2), out.stride(1)
    else:
        sums = torch.empty(splits, B * H, N, WIDTH, dtype=torch.float32, device=q.device)
        log_weights = sums.new_empty(splits, B * H, N)
        strides = 0, 0, 0
    direct = sums is out
    shapes = H, N, M, width, splits, scale
    value_strides = values.stride(0), values.stride(1) if values.shape[1] > 1 else 0, values.stride(2)
    all_strides = q.stride(0) if len(q) > 1 else 0, *value_strides, *strides
    is_even = lengths is None and M % launch.meta["BLOCK_N"] == 0
    _attend_kernel[tiles, splits, B * H](
        q, query.scales_or_any, k, keys.scales_or_any, values, k if lengths is None else lengths,
        log_weights if offsets is None else offsets, sums, log_weights, *shapes, *all_strides,
        FP8=keys.scales is not None, RAGGED=lengths is not None, OFFSETS=offsets is not None, DIRECT=direct,
        PADDED=width < WIDTH, EVEN=is_even, D=D, WIDTH=WIDTH, PRECISION=product_precision(values.dtype),
        **blocks(launch, D), **launch.options, **FUSED,
    )  # fmt: skip
    return None if direct else SplitMeans(sums, log_weights, width)


def _combine(
    means: SplitMeans, out: Tensor, weights: KeyValueWeights | None = None, added: Added | None = None
) -> None:
    """Combines the means of all splits, optionally projects the means, and writes the result ``(B, N, H, outer)``.

    With ``added``, the sum of the single head's result and the residual is written to ``out``.
    """
    (B, N, H, outer), (splits, _, _, WIDTH) = out.shape, means.sums.shape
    weight, bias = (means.sums, None) if weights is None else weights[2:4]
    width = means.width if weights is None else weight.shape[1]
    x, norm_weight, norm_bias, eps, normed = added or (out, out, out, 0.0, out)
    columns = {} if added is None else {"COLUMNS": padded(outer)}
    _combine_kernel[triton.cdiv(N, COMBINE["BLOCK"]), B * H](
        means.sums, means.log_weights, weight, weight if bias is None else bias, out, x, norm_weight, norm_bias, normed,
        H, N, width, outer, splits, x.stride(0) if len(x) > 1 else 0, eps, PROJECT=weights is not None,
        HAS_BIAS=bias is not None, ADDS=added is not None, WIDTH=WIDTH, PRECISION=product_precision(normed.dtype),
        **(COMBINE | columns), **WARPS, **FUSED,
    )  # fmt: skip
