"""Attention of one head on the CPU, in blocks of scores that fit the cache."""

from collections.abc import Iterable

import torch
from torch import Tensor

from sam2fast.kernels._cpu import linear

# Keys, values, and how many tokens each key counts as.
Weighted = tuple[Tensor, Tensor, float]
# Side of a block of scores: 1024 x 1024 fp32 are 4 MiB, well within a last-level cache, and large enough for full
# speed.
BLOCK = 1024
# Limits of sums of exponentials within which fp32 loses nothing that matters.
SAFE_SUMS = 1e-25, 1e30


def attend(query: Tensor, keys_and_values: Iterable[Weighted], scale: float, width: int) -> Tensor:
    """Softmax attention of one head by blocks of scores; scores and sums are fp32.

    Torch's attention uses MKL for fp32 (see :func:`linear`) and needs values as wide as keys.

    Args:
        query: ``(N, d)`` fp32.
        keys_and_values: keys ``(M, d)`` fp32, values ``(M, width)``, whose dtype is that of the second multiplication
            (fp32 for fp16), and the weight of these keys. It is consumed lazily. At least one key.

    Returns:
        ``(N, width)`` fp32.
    """
    blocks = [_Rows(rows * scale, width) for rows in query.split(BLOCK)]
    for keys, values, weight in keys_and_values:
        with torch.autocast("cpu", enabled=False):  # but not where the keys are made
            for key, value in zip(keys.split(BLOCK), values.split(BLOCK), strict=True):
                # Exponentials of unshifted scores exceed float16's range.
                transposed = (value.float() if value.dtype == torch.float16 else value).t().contiguous()
                for block in blocks:
                    block.add(key, transposed, weight)
    return torch.cat([block.means() for block in blocks])


class _Rows:
    """Softmax of a block of queries over blocks of keys.

    As long as sums stay within ``SAFE_SUMS``, exponentials are taken of the scores themselves, which saves two passes
    over them. After that they are taken of the distance to the highest score so far (online softmax).
    """

    def __init__(self, query: Tensor, width: int) -> None:
        self.query = query
        self.total = query.new_zeros(len(query), 1)
        self.out = query.new_zeros(len(query), width)
        self.highest: Tensor | None = None
        self.is_empty = True

    def add(self, key: Tensor, value: Tensor, count: float) -> None:
        if self.highest is None and not self._add_unshifted(key, value, count):
            self._start_shifting()
        if self.highest is not None:
            self._add_shifted(self.highest, key, value, count)
        self.is_empty = False

    def _add_unshifted(self, key: Tensor, value: Tensor, count: float) -> bool:
        weights = linear(self.query, key).exp_()
        total = self.total.add(weights.sum(dim=1, keepdim=True), alpha=count)
        lowest, highest = (float(end) for end in total.aminmax())
        if not SAFE_SUMS[0] < lowest <= highest < SAFE_SUMS[1]:
            return False
        self.total = total
        self.out.add_(linear(weights.to(value.dtype), value), alpha=count)
        return True

    def _start_shifting(self) -> None:
        """Replaces all that was added by one score, the logarithm of its sum."""
        self.highest = torch.full_like(self.total, float("-inf")) if self.is_empty else self.total.log()
        if not self.is_empty:
            self.out.div_(self.total)
            self.total.fill_(1)

    def _add_shifted(self, highest: Tensor, key: Tensor, value: Tensor, count: float) -> None:
        scores = linear(self.query, key)
        self.highest = torch.maximum(highest, scores.amax(dim=1, keepdim=True))
        shrink = (highest - self.highest).exp_()
        weights = scores.sub_(self.highest).exp_()
        self.total.mul_(shrink).add_(weights.sum(dim=1, keepdim=True), alpha=count)
        self.out.mul_(shrink).add_(linear(weights.to(value.dtype), value), alpha=count)

    def means(self) -> Tensor:
        return self.out.div_(self.total)
