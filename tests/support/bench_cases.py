"""A case of the microbenchmarks that takes no time."""

import torch
import torch.nn.functional as F
from inputs import small
from registry import Calls, Case, Work

from sam2fast.kernels._cpu import linear


def small_case() -> Case:
    def prepare(device: torch.device) -> Calls:
        x, weight, bias = (small(shape, seed) for seed, shape in enumerate(((2048, 96), (384, 96), (384,))))
        return {"F.linear": lambda: F.linear(x, weight, bias), "sam2fast": lambda: linear(x, weight, bias)}

    return Case("linear", "2048x96 to 384", "float32", prepare, Work(4.2e6, 1.5e8), 1e-5)
