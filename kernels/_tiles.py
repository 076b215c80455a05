"""Computes GELU, layer norm and sizes of tiles, for several Triton kernels."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl


@triton.jit
def exact_gelu(x):
    """Computes x Phi(x) = max(x, 0) - |x| Phi(-|x|) in fp32.

    The tail Phi(-|x|) is approximated by 2^P(|x|). P is the polynomial of degree 7 that minimizes the error of |x|
    Phi(-|x|). The highest coefficient is fixed below zero, so that the tail vanishes for large |x|. Without rounding,
    the approximation's error is at most 8e-8. GELU with an fp32 error function would be as accurate, but would need
    twice as many instructions.
    """
    size = tl.abs(x)
    power = 5.48182725e-05 - 2e-06 * size
    power = -0.0008613026 + size * power
    power = 0.00827511679 + size * power
    power = -0.0536282845 + size * power
    power = -0.458648145 + size * power
    power = -1.1512332 + size * power
    power = -0.999990463 + size * power
    return tl.maximum(x, 0.0) - size * tl.math.exp2(power)


@triton.jit
def normalized(
    rows,  # (BLOCK, WIDTH) fp32; columns beyond the C channels are 0
    weight,  # (C)
    bias,  # (C)
    channel,  # (WIDTH)
    C,
    eps,
):
    """Computes the layer norm of each row, over C channels."""
    used = channel < C
    mean = tl.sum(rows, 1) / C
    centred = tl.where(used[None, :], rows - mean[:, None], 0)
    variance = tl.sum(centred * centred, 1) / C
    scale = tl.load(weight + channel, mask=used, other=0).to(tl.float32)
    shift = tl.load(bias + channel, mask=used, other=0).to(tl.float32)
    return centred * tl.rsqrt(variance + eps)[:, None] * scale[None, :] + shift[None, :]


def padded(size: int) -> int:
    """Returns the smallest power of two >= ``size`` that ``tl.dot`` accepts as a side: at least 16."""
    return max(16, triton.next_power_of_2(size))
