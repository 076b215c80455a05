"""How long GPUs would take at the least for what a kernel computes and moves, by their data sheets."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Work:
    """What is computed and moved. A multiplication with its addition counts two."""

    bytes: float = 0.0
    products: float = 0.0  # FLOPs (for masks: operations on int8) of matrix products
    vector: float = 0.0  # FLOPs outside of products
    exponentials: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.bytes + other.bytes,
            self.products + other.products,
            self.vector + other.vector,
            self.exponentials + other.exponentials,
        )

    def __mul__(self, calls: float) -> "Work":
        return Work(self.bytes * calls, self.products * calls, self.vector * calls, self.exponentials * calls)

    @property
    def intensity(self) -> float:
        """FLOPs for each byte."""
        return (self.products + self.vector) / self.bytes


class Gpu(NamedTuple):
    """Peaks per second: dense products, without sparsity."""

    name: str
    memory: float  # bytes
    products: dict[str, float]  # FLOPs on tensor cores by dtype; fp32 as three products in TF32
    vector: float  # FLOPs in fp32 outside of tensor cores
    exponentials: float  # 16 a clock and multiprocessor


_HOPPER = {"bf16": 989e12, "fp32": 494e12 / 3, "int8": 1979e12}
GPUS = (
    # 64 fp32 lanes a multiprocessor: an eighth as many exponentials as FLOPs; of 128, a sixteenth.
    Gpu("A100", 2.04e12, {"bf16": 312e12, "fp32": 156e12 / 3, "int8": 624e12}, 19.5e12, 19.5e12 / 8),
    Gpu("H100", 3.35e12, _HOPPER, 67e12, 67e12 / 16),
    Gpu("H200", 4.8e12, _HOPPER, 67e12, 67e12 / 16),
)


def floor(work: Work, gpu: Gpu, dtype: str) -> tuple[float, str]:
    """Seconds at the least, and what takes them: memory, products, arithmetic or exponentials."""
    needed = {
        "memory": work.bytes / gpu.memory,
        "products": work.products / gpu.products[dtype],
        "arithmetic": work.vector / gpu.vector,
        "exponentials": work.exponentials / gpu.exponentials,
    }
    what = max(needed, key=lambda name: needed[name])
    return needed[what], what
