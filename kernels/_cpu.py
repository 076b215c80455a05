"""Matrix products on the CPU as fast as its vector units allow."""

from collections.abc import Callable, Iterable
from typing import Optional  # (what the oldest supported torch reads in a schema)

import torch
import torch.nn.functional as F

# With AVX2 alone MKL is as fast, and oneDNN takes four times as long for some shapes: 448 x 3072 by 3072 x 768.
_ONEDNN_IS_FASTER = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()
# Without vector instructions that oneDNN can use for it, torch's products in bfloat16 take many times those in fp32.
_IMITATES_BFLOAT16 = not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
# Below this many input elements torch hands a 1x1 convolution to a slower routine.
_SMALLEST_CONVOLUTION = 20480

# Keys, values, and how many of its kind each key counts as.
Weighted = tuple[torch.Tensor, torch.Tensor, float]


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``x @ weight.T + bias`` for ``x (..., K)``, ``weight (N, K)``, ``bias (N)``; result ``(..., N)``.

    Same sums as ``F.linear``. In fp32 with AVX-512 they go through oneDNN as a 1x1 convolution: torch gives fp32
    matrix products to MKL, which on processors of other makers stays below AVX-512 and takes about twice as long.
    """
    if imitates_bfloat16(x, weight):
        return in_float32(F.linear, x, weight, bias)
    if not _convolution_pays(x, weight):
        return F.linear(x, weight, bias)
    return _linear_operator(x, weight, bias) if eager_in_graph() else _by_convolution(x, weight, bias)


def eager_in_graph() -> bool:
    """Whether a graph is being made that may hold what the compiler should leave alone, on the CPU: it knows neither
    these products nor blocks that fit the cache. A graph for export may not, since it has to run without this package.
    """
    return torch.compiler.is_compiling() and not _is_exporting() and not torch.is_grad_enabled()


def _is_exporting() -> bool:
    return getattr(torch.compiler, "is_exporting", bool)()


def imitates_bfloat16(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether a product of these is one in bfloat16 on a processor without instructions for it, and wants no gradient.

    Not in a graph for export, which may run elsewhere.
    """
    if not (_IMITATES_BFLOAT16 and x.device.type == "cpu") or torch.is_grad_enabled() or _is_exporting():
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
    return dtype == torch.bfloat16


def in_float32(product: Callable[..., torch.Tensor], *operands: torch.Tensor | None) -> torch.Tensor:
    """``product`` of the operands' bfloat16 values, with its sums in fp32; the result is rounded to bfloat16.

    The same numbers as the product in bfloat16 itself, but for the order of its sums and what it rounds between.
    """
    with torch.autocast("cpu", enabled=False):
        return product(*(x if x is None else x.bfloat16().float() for x in operands)).bfloat16()


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
        and _ONEDNN_IS_FASTER
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
# Sums of exponentials of scores as they are, so far from fp32's ends that nothing which counts is lost.
SAFE_SUMS = 1e-25, 1e30


def attend(query: torch.Tensor, keys_and_values: Iterable[Weighted], scale: float, width: int) -> torch.Tensor:
    """Softmax attention of one head by blocks of scores; scores and sums are fp32.

    torch's own attention runs fp32 products through MKL (see :func:`linear`) and wants values as wide as keys.

    Args:
        query: ``(N, d)`` fp32.
        keys_and_values: keys ``(M, d)`` fp32, values ``(M, width)``, whose dtype is that of the second product, and the
            weight of each of these keys; each is asked for when the ones before are done with. One key at least.

    Returns:
        ``(N, width)`` fp32.
    """
    blocks = [_Rows(rows * scale, width) for rows in query.split(BLOCK)]
    for keys, values, weight in keys_and_values:
        with torch.autocast("cpu", enabled=False):  # unlike what makes the keys
            for key, value in zip(keys.split(BLOCK), values.split(BLOCK), strict=True):
                transposed = value.t().contiguous()
                for block in blocks:
                    block.add(key, transposed, weight)
    return torch.cat([block.means() for block in blocks])


class _Rows:
    """Softmax of a block of queries over keys that come one block after the other.

    Exponentials are taken of the scores themselves, which saves two passes over them, as long as their sums stay
    within ``SAFE_SUMS``. From the first that does not on, they are taken of the distance to the highest score so far.
    """

    def __init__(self, query: torch.Tensor, width: int) -> None:
        self.query = query
        self.total = query.new_zeros(len(query), 1)
        self.out = query.new_zeros(len(query), width)
        self.highest: torch.Tensor | None = None
        self.is_empty = True

    def add(self, key: torch.Tensor, value: torch.Tensor, count: float) -> None:
        if self.highest is None and not self._add_as_they_are(key, value, count):
            self._go_by_the_highest()
        if self.highest is not None:
            self._add_below_the_highest(self.highest, key, value, count)
        self.is_empty = False

    def _add_as_they_are(self, key: torch.Tensor, value: torch.Tensor, count: float) -> bool:
        weights = linear(self.query, key).exp_()
        total = self.total.add(weights.sum(dim=1, keepdim=True), alpha=count)
        lowest, highest = (float(end) for end in total.aminmax())
        if not SAFE_SUMS[0] < lowest <= highest < SAFE_SUMS[1]:
            return False
        self.total = total
        self.out.add_(linear(weights.to(value.dtype), value), alpha=count)
        return True

    def _go_by_the_highest(self) -> None:
        """As if all that was added had been one score, the logarithm of its sum."""
        self.highest = torch.full_like(self.total, float("-inf")) if self.is_empty else self.total.log()
        if not self.is_empty:
            self.out.div_(self.total)
            self.total.fill_(1)

    def _add_below_the_highest(
        self, highest: torch.Tensor, key: torch.Tensor, value: torch.Tensor, count: float
    ) -> None:
        scores = linear(self.query, key)
        self.highest = torch.maximum(highest, scores.amax(dim=1, keepdim=True))
        shrink = (highest - self.highest).exp_()
        weights = scores.sub_(self.highest).exp_()
        self.total.mul_(shrink).add_(weights.sum(dim=1, keepdim=True), alpha=count)
        self.out.mul_(shrink).add_(linear(weights.to(value.dtype), value), alpha=count)

    def means(self) -> torch.Tensor:
        return self.out.div_(self.total)
