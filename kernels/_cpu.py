"""Matrix products on the CPU as fast as its vector units allow."""

import platform
from typing import Optional  # (what the oldest supported torch reads in a schema)

import torch
import torch.nn.functional as F

_ONEDNN_ON_X86 = platform.machine().lower() in ("x86_64", "amd64") and torch.backends.mkldnn.is_available()
# Below this many input elements torch hands a 1x1 convolution to a slower routine.
_SMALLEST_CONVOLUTION = 20480


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x @ weight.T + bias`` for ``x (..., K)``, ``weight (N, K)``, ``bias (N)``; result ``(..., N)``.

    Same sums as ``F.linear``. In fp32 on x86 they go through oneDNN as a 1x1 convolution: torch gives fp32 matrix
    products to MKL, which on processors of other makers stays below AVX-512 and takes about twice as long.
    """
    if not _convolution_pays(x, weight):
        return F.linear(x, weight, bias)
    return _linear_operator(x, weight, bias) if eager_in_graph() else _by_convolution(x, weight, bias)


def eager_in_graph() -> bool:
    """Whether a graph is being made that may hold what the compiler should leave alone, on the CPU: it knows neither
    these products nor blocks that fit the cache. A graph for export may not, since it has to run without this package.
    """
    exporting = getattr(torch.compiler, "is_exporting", bool)
    return torch.compiler.is_compiling() and not exporting() and not torch.is_grad_enabled()


def _by_convolution(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    # (batch, K, 1, rows) in channels-last order is the same memory as (batch, rows, K). With one thread torch picks
    # oneDNN only from a batch of 16 on.
    batch = 1 if torch.get_num_threads() > 1 else 16
    pixels = x.reshape(batch, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
    y = F.conv2d(pixels, weight[:, :, None, None], bias)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


def _convolution_pays(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        (not torch.compiler.is_compiling() or eager_in_graph())
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > _SMALLEST_CONVOLUTION
        and x.numel() // x.shape[-1] % 16 == 0
        and _ONEDNN_ON_X86
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


@torch.library.custom_op("sam2fast::linear", mutates_args=())
def _linear_operator(x: torch.Tensor, weight: torch.Tensor, bias: Optional[torch.Tensor]) -> torch.Tensor:  # noqa: UP045
    return _by_convolution(x, weight, bias)


@_linear_operator.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


# Scores held at once: 1024 x 1024 fp32 are 4 MiB, well within a last-level cache, and large enough for full speed.
BLOCK = 1024


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """Softmax attention of one head by blocks of scores, with a running maximum; scores and sums are fp32.

    torch's own attention runs fp32 products through MKL (see :func:`linear`) and wants values as wide as keys.

    Args:
        query, key: ``(N, d)`` and ``(M, d)`` fp32, M > 0.
        value: ``(M, d_v)``; its dtype is that of the second product.

    Returns:
        ``(N, d_v)`` fp32.
    """
    keys = [block.contiguous() for block in key.split(BLOCK)]
    values = [block.t().contiguous() for block in value.split(BLOCK)]
    out = query.new_empty(len(query), value.shape[-1])
    for start in range(0, len(query), BLOCK):
        rows = query[start : start + BLOCK] * scale
        out[start : start + BLOCK] = _attend_rows(rows, keys, values)
    return out


def _attend_rows(query: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor]) -> torch.Tensor:
    highest = query.new_full((len(query), 1), float("-inf"))
    total = query.new_zeros(len(query), 1)
    out = query.new_zeros(len(query), values[0].shape[0])
    for key, value in zip(keys, values, strict=True):
        scores = linear(query, key)
        higher = torch.maximum(highest, scores.amax(dim=1, keepdim=True))
        shrink = (highest - higher).exp_()
        scores.sub_(higher).exp_()
        total.mul_(shrink).add_(scores.sum(dim=1, keepdim=True))
        out.mul_(shrink).add_(linear(scores.to(value.dtype), value))
        highest = higher
    return out.div_(total)
