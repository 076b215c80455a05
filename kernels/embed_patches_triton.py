"""Embeds image patches as seven matrix multiplications, one per row of a token's 7x7 window.

A row of a window consists of seven pixels: 21 adjacent values in memory. Loads start one pixel before the window, so
that words of four bytes are aligned. Values outside the window are multiplied by zero weights.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl
from torch import Tensor

from sam2fast.kernels._launch import LaunchConfig, launch_config, product_precision
from sam2fast.kernels._tiles import padded
from sam2fast.kernels.embed_patches import WHITE


@triton.jit
def _of_colour(colour, value0, value1, value2):
    return tl.where(colour == 0, value0, tl.where(colour == 1, value1, value2))


@triton.jit
def _columns(rows, mask, first, COUNT: tl.constexpr, C):
    """Loads COUNT columns of a weight matrix, starting at column ``first``. ``rows`` points to rows of the matrix."""
    channel = first + tl.arange(0, COUNT)[None, :]
    return tl.load(rows + channel, mask=mask & (channel < C), other=0)


@triton.jit
def _store(total, bias, position, out, token, is_token, first, COUNT: tl.constexpr, C):
    """Adds bias and position embedding to COUNT channels of tokens, starting at ``first``, and stores the sums."""
    channel = first + tl.arange(0, COUNT)[None, :]
    offsets, mask = token * C + channel, is_token & (channel < C)
    total += tl.load(bias + channel, mask=channel < C, other=0).to(tl.float32)
    total += tl.load(position + offsets, mask=mask, other=0).to(tl.float32)
    tl.store(out + offsets, total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _embed_patches_kernel(
    pixels,  # (B, H, W, 3) uint8, or normalized floats
    weight,  # (7, 7, 3, C)
    bias,  # (C)
    position,  # (H / 4, W / 4, C)
    out,  # (B, H / 4, W / 4, C)
    H, W, C,
    scale0,  # scale of the first colour; a normalized pixel is scale * pixel + shift of its colour
    scale1, scale2, shift0, shift1, shift2,
    PRECISION: tl.constexpr,
    WIDTH: tl.constexpr,  # power of two; the first matrix product computes the first WIDTH channels
    REST: tl.constexpr,  # power of two >= C - WIDTH, number of channels of the second product; 0 without one
    BLOCK: tl.constexpr,  # tokens per program
):  # fmt: skip
    # Adjacent programs process the same tokens of different images, so the cache shares position embeddings between
    # programs.
    image = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_token = token < H // 4 * (W // 4)
    y, x = token // (W // 4), token % (W // 4)
    value = tl.arange(0, 32)  # index of a loaded value; the three colours of pixel 4x - 4 have indices 0 to 2
    is_in_window = (value >= 3) & (value < 24)
    scale = _of_colour(value % 3, scale0, scale1, scale2)
    shift = _of_colour(value % 3, shift0, shift1, shift2)
    # Only the windows of tokens in the first row or the first column extend beyond the image.
    is_right = is_token[:, None] & (value < 24)[None, :] & ((x > 0)[:, None] | (value >= 12)[None, :])
    runs = (12 * y - 9) * W + 12 * x - 12
    start = pixels + image * H * W * 3
    total = tl.zeros((BLOCK, WIDTH), tl.float32)
    if REST:
        rest = tl.zeros((BLOCK, REST), tl.float32)
    for row in range(7):
        is_inside = is_right & (4 * y + row >= 3)[:, None]
        left = tl.load(start + (runs + 3 * row * W)[:, None] + value[None, :], mask=is_inside, other=0)
        if pixels.dtype.element_ty == tl.uint8:
            left = (left.to(tl.float32) * scale[None, :] + shift[None, :]) * is_inside.to(tl.float32)
        else:  # values outside the window are masked, since NaN times a zero weight is not zero
            left = tl.where(is_in_window[None, :], left, 0.0)
        left = left.to(weight.dtype.element_ty)
        of_row = weight + (21 * row + value - 3)[:, None] * C
        right = _columns(of_row, is_in_window[:, None], 0, WIDTH, C)
        total = tl.dot(left, right, total, input_precision=PRECISION)
        if REST:
            right_rest = _columns(of_row, is_in_window[:, None], WIDTH, REST, C)
            rest = tl.dot(left, right_rest, rest, input_precision=PRECISION)
    out += image * (H // 4) * (W // 4) * C
    _store(total, bias, position, out, token[:, None], is_token[:, None], 0, WIDTH, C)
    if REST:
        _store(rest, bias, position, out, token[:, None], is_token[:, None], WIDTH, REST, C)


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Returns the number of tokens per program. Times are estimates by ``make sass``.

    With 64 tokens per program, four programs fit on a multiprocessor of sm_90 and overlap their loads. The kernel takes
    16 us for an image and 96 channels with 64 tokens per program, and 18 us with 128 tokens per program. Loads are not
    prefetched, since Triton would overwrite registers that a matrix product still reads.
    """
    return LaunchConfig({"BLOCK": 64}, {"num_warps": 4, "num_stages": 1})


def embed_patches_triton(pixels, weight, bias, position, mean=(), std=()) -> Tensor:
    """Computes :func:`sam2fast.kernels.embed_patches.embed_patches` on the GPU without synchronising."""
    (B, H, W, _), C = pixels.shape, weight.shape[-1]
    out = weight.new_empty(B, *position.shape)
    if out.numel() == 0:
        return out
    launch = launch_config("embed_patches", config, weight)
    scales = [1 / (WHITE * tensor) for tensor in std] or [1.0] * 3
    shifts = [-m / s for m, s in zip(mean, std, strict=True)] or [0.0] * 3
    launch.launch(
        "embed_patches", _embed_patches_kernel, (B, triton.cdiv(H // 4 * (W // 4), launch.meta["BLOCK"])),
        *(tensor.contiguous() for tensor in (pixels, weight, bias, position)), out, H, W, C,
        *scales, *shifts, PRECISION=product_precision(weight.dtype), **widths(C), **launch.meta,
    )  # fmt: skip
    return out


def widths(channels: int) -> dict[str, int]:
    """Returns one or two powers of two that hold all channels with little padding: 128 and 16 for 144 channels."""
    whole = padded(channels)
    rest = padded(channels - whole // 2)
    return {"WIDTH": whole // 2, "REST": rest} if 16 <= whole // 2 > rest else {"WIDTH": whole, "REST": 0}
