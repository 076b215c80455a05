"""Computes strided convolutions with layer norm and GELU in one kernel each, on channels-last maps.

The first kernel interpolates and scales logits in registers, and computes the first convolution. The second kernel
computes other convolutions as matrix products: a row of the left matrix contains the inputs of one output position. The
left matrix of the product is never written to memory.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl
from torch import Tensor

from sam2fast.kernels._launch import LaunchConfig, launch_config, product_precision
from sam2fast.kernels._tiles import exact_gelu, normalized, padded
from sam2fast.kernels.mask_downsampler import result_shape, shape_class
from sam2fast.kernels.mask_ops.kernel import blend, neighbours
from sam2fast.kernels.mask_ops.launch import axes_of


@triton.jit(do_not_specialize=["is_binary"])
def _downsample_logits_kernel(
    logits,  # (B, h, w) of any float dtype
    weight,  # (4, KERNEL, KERNEL)
    bias,  # (4)
    norm_weight,  # (4)
    norm_bias,  # (4)
    out,  # (B, out_h, out_w, 4) out
    h, w, H, W, out_h, out_w,
    scale_y, scale_x, reach_y, reach_x,
    scale, shift, is_binary,
    stride, padding,
    eps,
    COPY: tl.constexpr,  # True if (h, w) = (H, W), so that logits are not interpolated
    KERNEL: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr,
):  # fmt: skip
    bands = tl.cdiv(out_h, BLOCK_Y)
    image = (tl.program_id(0) // bands).to(tl.int64)
    logits += image * h * w
    out += image * out_h * out_w * 4
    y = (tl.program_id(0) % bands) * BLOCK_Y + tl.arange(0, BLOCK_Y)
    x = tl.program_id(1) * BLOCK_X + tl.arange(0, BLOCK_X)
    a = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32) + tl.load(bias).to(tl.float32)
    b = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32) + tl.load(bias + 1).to(tl.float32)
    c = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32) + tl.load(bias + 2).to(tl.float32)
    d = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32) + tl.load(bias + 3).to(tl.float32)
    for i in tl.static_range(KERNEL):
        row = y * stride - padding + i
        y0, y1, v0, v1 = neighbours(row, scale_y, h, reach_y)
        for j in tl.static_range(KERNEL):
            column = x * stride - padding + j
            x0, x1, u0, u1 = neighbours(column, scale_x, w, reach_x)
            value = blend(logits, w, y0, y1, v0, v1, x0, x1, u0, u1, COPY)
            value = tl.where(is_binary != 0, tl.where(value > 0, 1.0, 0.0), tl.sigmoid(value))
            inside = ((row >= 0) & (row < H))[:, None] & ((column >= 0) & (column < W))[None, :]
            value = tl.where(inside, tl.fma(value, scale, shift), 0.0)
            tap = weight + i * KERNEL + j
            a += value * tl.load(tap).to(tl.float32)
            b += value * tl.load(tap + KERNEL * KERNEL).to(tl.float32)
            c += value * tl.load(tap + 2 * KERNEL * KERNEL).to(tl.float32)
            d += value * tl.load(tap + 3 * KERNEL * KERNEL).to(tl.float32)
    mean = (a + b + c + d) * 0.25
    a, b, c, d = a - mean, b - mean, c - mean, d - mean
    factor = tl.rsqrt((a * a + b * b + c * c + d * d) * 0.25 + eps)
    a = exact_gelu(a * factor * tl.load(norm_weight).to(tl.float32) + tl.load(norm_bias).to(tl.float32))
    b = exact_gelu(b * factor * tl.load(norm_weight + 1).to(tl.float32) + tl.load(norm_bias + 1).to(tl.float32))
    c = exact_gelu(c * factor * tl.load(norm_weight + 2).to(tl.float32) + tl.load(norm_bias + 2).to(tl.float32))
    d = exact_gelu(d * factor * tl.load(norm_weight + 3).to(tl.float32) + tl.load(norm_bias + 3).to(tl.float32))
    # Joining the pairs (a, c) and (b, d) stores the four channels in the order a, b, c, d.
    channels = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (BLOCK_Y, BLOCK_X * 4))
    number = tl.program_id(1) * BLOCK_X * 4 + tl.arange(0, BLOCK_X * 4)
    mask = (y < out_h)[:, None] & (number < out_w * 4)[None, :]
    tl.store(out + (y * out_w * 4)[:, None] + number[None, :], channels.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _downsample_map_kernel(
    x,  # (B, H, W, C)
    weight,  # (N, KERNEL, KERNEL, C)
    bias,  # (N)
    norm_weight,  # (N)
    norm_bias,  # (N)
    out,  # (positions, N) out
    positions,  # number of rows of out: B * out_h * out_w
    H, W, N,
    K,  # KERNEL * KERNEL * C
    out_h, out_w, stride, padding, eps,
    C: tl.constexpr, KERNEL: tl.constexpr, PRECISION: tl.constexpr,
    WIDTH: tl.constexpr,  # smallest power of two >= N
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    position = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    is_position = position < positions
    channel = tl.arange(0, WIDTH)
    used = channel < N
    row = position // out_w % out_h * stride - padding
    column = position % out_w * stride - padding
    left = x + (((position // (out_h * out_w)).to(tl.int64) * H + row) * W + column)[:, None] * C
    inner = tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_M, WIDTH), tl.float32)
    for k in range(0, K, BLOCK_K):
        tap = (k + inner) // C
        i, j = tap // KERNEL, tap % KERNEL
        y, z = row[:, None] + i[None, :], column[:, None] + j[None, :]
        inside = (y >= 0) & (y < H) & (z >= 0) & (z < W) & is_position[:, None] & (k + inner < K)[None, :]
        a = tl.load(left + ((i * W + j) * C + (k + inner) % C)[None, :], mask=inside, other=0)
        of_weight = channel[None, :] * K + (k + inner)[:, None]
        b = tl.load(weight + of_weight, mask=used[None, :] & (k + inner < K)[:, None], other=0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    total += tl.load(bias + channel, mask=used, other=0).to(tl.float32)[None, :]

    normed = normalized(total, norm_weight, norm_bias, channel, N, eps)
    ptrs = out + position.to(tl.int64)[:, None] * N + channel[None, :]
    tl.store(ptrs, exact_gelu(normed).to(out.dtype.element_ty), mask=is_position[:, None] & used[None, :])


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Returns the number of output positions per program, as rows x columns for the shape class ``logits``.

    For the shape class ``wide``, each program reads all weights: 295 KB for 256 output channels. The instruction wgmma
    needs at least 64 positions per program. With 128 positions, registers spill in Triton 3.2.
    """
    if shape == "logits":
        return LaunchConfig({"BLOCK_Y": 4, "BLOCK_X": 64}, {"num_warps": 4, "num_stages": 1})
    stages = 2 if arch.startswith("gfx") else 3  # AMD GPUs have 64 KB of shared memory
    if dtype == "float32":  # three TF32 products need both operands in registers
        return LaunchConfig({"BLOCK_M": 32, "BLOCK_K": 32}, {"num_warps": 8, "num_stages": 2})
    if shape == "wide":
        # Registers spill with eight warps in fp16 on sm_103 (16 bytes), and with four in bf16 on sm_103 and sm_80 (48).
        warps = 4 if (arch, dtype) == ("sm_103", "float16") else 8
        return LaunchConfig({"BLOCK_M": 64, "BLOCK_K": 64}, {"num_warps": warps, "num_stages": stages})
    return LaunchConfig({"BLOCK_M": 64, "BLOCK_K": 64}, {"num_warps": 4, "num_stages": stages})


def downsample_logits_triton(
    logits, weight, bias, norm_weight, norm_bias, size, scale, shift, is_binary, stride, padding, eps
) -> Tensor:
    """Computes :func:`sam2fast.kernels.mask_downsampler.downsample_logits` on the GPU without synchronising."""
    (h, w), (H, W) = logits.shape[-2:], size
    out = weight.new_empty(len(logits), *result_shape(size, weight, stride, padding))
    if out.numel() == 0:
        return out
    B, out_h, out_w, _ = out.shape
    logits, launch = logits.contiguous(), launch_config("mask_downsampler", config, weight, "logits")
    block_y, block_x = launch.meta["BLOCK_Y"], launch.meta["BLOCK_X"]
    vectors = (tensor.contiguous() for tensor in (weight, bias, norm_weight, norm_bias))
    launch.launch(
        "downsample_logits", _downsample_logits_kernel, (B * triton.cdiv(out_h, block_y), triton.cdiv(out_w, block_x)),
        logits, *vectors, out, h, w, H, W, out_h, out_w, *axes_of(logits, size), scale, shift, int(is_binary),
        stride, padding, eps, COPY=(h, w) == (H, W), KERNEL=weight.shape[1], BLOCK_Y=block_y, BLOCK_X=block_x,
    )  # fmt: skip
    return out


def downsample_map_triton(x, weight, bias, norm_weight, norm_bias, stride, padding, eps) -> Tensor:
    """Computes :func:`sam2fast.kernels.mask_downsampler.downsample_map` on the GPU without synchronising."""
    B, H, W, C = x.shape
    out = weight.new_empty(B, *result_shape((H, W), weight, stride, padding))
    if out.numel() == 0:
        return out
    _, out_h, out_w, N = out.shape
    positions = B * out_h * out_w
    launch = launch_config("mask_downsampler", config, weight, shape_class(N))
    kernel, block_m = weight.shape[1], launch.meta["BLOCK_M"]
    block_k = min(launch.meta["BLOCK_K"], padded(kernel**2 * C))
    vectors = (tensor.contiguous() for tensor in (weight, bias, norm_weight, norm_bias))
    launch.launch(
        "downsample_map", _downsample_map_kernel, (triton.cdiv(positions, block_m),),
        x.contiguous(), *vectors, out, positions, H, W, N, kernel**2 * C, out_h, out_w, stride, padding, eps,
        C=C, KERNEL=kernel, PRECISION=product_precision(x.dtype), WIDTH=padded(N),
        BLOCK_M=block_m, BLOCK_K=block_k,
    )  # fmt: skip
    return out
