"""What a tracked frame starts on a GPU, counted on a fake one: launches, bytes, FLOPs, and an estimate of the time.

    python tests/support/frame_costs.py --model tiny large --objects 1 4 16

prints a table, or JSON with ``--json``. Bytes are those of the arguments and results of each operation, once each, or
twice if it reads and writes them, as if nothing stayed in a cache. The time is that of kernels that run one after the
other: each takes START, or if that is longer its bytes at BANDWIDTH or its FLOPs at the rate of its kind. One operation
of torch counts as one kernel.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import torch
from fake_cuda import FakeCuda, Seen, build, fake_cuda, steady_frames
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.profiling import parts  # registers formulas  # noqa: F401

_EFFICIENTTAM = [f"efficienttam_{size}{kind}" for size in ("s", "ti") for kind in ("", "_1", "_2", "_512x512")]
CONFIGS = {
    "tiny": "configs/sam2.1/sam2.1_hiera_t.yaml",
    "small": "configs/sam2.1/sam2.1_hiera_s.yaml",
    "base_plus": "configs/sam2.1/sam2.1_hiera_b+.yaml",
    "large": "configs/sam2.1/sam2.1_hiera_l.yaml",
    "edgetam": "configs/edgetam/edgetam.yaml",
    **{name: f"configs/efficienttam/{name}.yaml" for name in _EFFICIENTTAM},
    "medsam2": "configs/medsam2/sam2.1_hiera_t512.yaml",
    "mini": "configs/mini/sam2fast_mini.yaml",
    "nano": "configs/nano/sam2fast_nano.yaml",
}
START = 2.5e-6  # seconds from the beginning of a small kernel in a graph to that of the next
BANDWIDTH = 0.8 * 3.0e12  # bytes per second of copies on an H100, less a fifth
PEAK = 790e12  # FLOP per second of large bf16 products on it
PRODUCTS, ATTENTION = 0.8 * PEAK, 0.5 * PEAK


class Cost(NamedTuple):
    """Of one launch."""

    name: str
    bytes: int
    flops: int

    @property
    def seconds(self) -> float:
        is_attention = "attend" in self.name or "attention" in self.name
        return max(START, self.bytes / BANDWIDTH, self.flops / (ATTENTION if is_attention else PRODUCTS))


class Part(NamedTuple):
    """Of a frame."""

    launches: int
    bytes: int
    flops: int
    seconds: float

    @classmethod
    def of(cls, costs: Iterable[Cost]) -> "Part":
        every = list(costs)
        return cls(len(every), sum(c.bytes for c in every), sum(c.flops for c in every), sum(c.seconds for c in every))


class CostedCuda(FakeCuda):
    """Notes the cost of each launch under the :class:`Seen` that counts it."""

    def __init__(self) -> None:
        super().__init__()
        self.costs: dict[int, list[Cost]] = {}
        self._kept: list[Seen] = []  # so that no other gets its id

    def launched(self, name: str, func: Any, given: Any, result: Any = None) -> None:
        super().launched(name, func, given, result)
        seen = self._target()
        if id(seen) not in self.costs:
            self._kept.append(seen)
        self.costs.setdefault(id(seen), []).append(_cost(name, func, given, result))

    def parts(self, seen: Seen) -> dict[str, Part]:
        """What a frame launched: the recorded encoder, the recorded step, and what is not recorded."""
        found = {"eager": Part.of(self.costs.get(id(seen), []))}
        for recorded in seen.replayed:
            is_encoder = "_resize_and_normalise_kernel" in recorded.launches
            found["encoder" if is_encoder else "step"] = Part.of(self.costs[id(recorded)])
        return found


# Operations that read as much of their first argument as they write.
SPARSE = {"index_select", "gather", "index.Tensor", "index_copy_"}
# Operations in place that do not read what they write.
ONLY_WRITE = {"copy_", "_foreach_copy_", "index_put_"}


def _cost(name: str, func: Any, given: Any, result: Any) -> Cost:
    args, kwargs = given
    tensors = {id(x): x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)}
    if name in SPARSE:
        small = args[3] if name == "index_copy_" else result
        return Cost(name, 2 * _size(small), 0)
    if name == "_encode_kernel":  # of the pool it reads what it writes as values
        del tensors[id(args[0])]
        return Cost(name, sum(map(_size, tensors.values())) + _size(args[14]), KERNEL_FLOPS[name](args, kwargs))
    moved = sum(map(_size, tensors.values()))
    if name.partition(".")[0].endswith("_") and name not in ONLY_WRITE:
        moved += _size(args[0])
    if name in KERNEL_FLOPS:
        return Cost(name, moved, KERNEL_FLOPS[name](args, kwargs))
    formula = flop_registry.get(getattr(func, "_overloadpacket", None))
    return Cost(name, moved, 0 if formula is None else formula(*args, **kwargs, out_val=result))


def _size(x: Tensor) -> int:
    """Bytes, without those that strides of 0 repeat."""
    distinct = math.prod(n for n, stride in zip(x.shape, x.stride(), strict=True) if stride)
    return distinct * x.element_size()


def _attend(args: Any, kwargs: Any) -> int:
    q, k, values = args[0], args[2], args[4]
    (B, H, M, D), N = k.shape, q.shape[2]
    return int(2 * B * H * N * M * (D + values.shape[-1]))


def _encode(args: Any, kwargs: Any) -> int:
    n, table, pointers, weight = args[0].shape[1], args[1], args[5], args[8]
    return int(2 * (table.numel() * n + pointers[..., 0].numel()) * weight.numel())


def _combine(args: Any, kwargs: Any) -> int:
    weight, out = args[2], args[4]
    return int(2 * out.numel() * weight.shape[1]) if kwargs["PROJECT"] else 0


def _window(args: Any, kwargs: Any) -> int:
    qkv, bias, out = args[:3]
    window = kwargs["WINDOW"]
    return int(parts.window_attention_flops(qkv, bias, 0, window, out_val=out))


def _linear_gelu(args: Any, kwargs: Any) -> int:
    x, weight = args[:2]
    return int(2 * x.numel() * weight.shape[0])


KERNEL_FLOPS: dict[str, Callable[[Any, Any], int]] = {
    "_attend_kernel": _attend,
    "_encode_kernel": _encode,
    "_combine_kernel": _combine,
    "_window_attention_kernel": _window,
    "_linear_gelu_kernel": _linear_gelu,
}


def frame_costs(model: str, objects: Iterable[int]) -> dict[int, dict[str, Part]]:
    """Of the parts of a steady frame in a bf16 session at 1024 pixels, by the number of objects."""
    cuda, deterministic = CostedCuda(), torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)  # as they are in tests, new memory is filled
    try:
        with fake_cuda(cuda):
            predictor = build(build_sam2_video_predictor, CONFIGS[model], dtype=torch.bfloat16)
            return {n: cuda.parts(steady_frames(cuda, predictor, n, 2)[-1]) for n in objects}
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=True)


def main() -> None:
    """The command above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=CONFIGS, default=["tiny", "large"])
    parser.add_argument("--objects", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = {model: frame_costs(model, arguments.objects) for model in arguments.model}
    if arguments.json:
        rows = {m: {n: {k: p._asdict() for k, p in v.items()} for n, v in by.items()} for m, by in found.items()}
        print(json.dumps(rows, indent=1))
        return
    print(f"{'model':20} {'objects':>7} {'part':8} {'launches':>8} {'GB':>7} {'GFLOP':>8} {'ms':>6} {'limit':>6}")
    for model, by_objects in found.items():
        for objects, by_part in by_objects.items():
            total = Part(*map(sum, zip(*by_part.values(), strict=True)))
            for name, part in [*by_part.items(), ("all", total)]:
                print(
                    f"{model:20} {objects:7} {name:8} {part.launches:8} {part.bytes / 1e9:7.2f} "
                    f"{part.flops / 1e9:8.1f} {part.seconds * 1e3:6.2f} {part.flops / PEAK / part.seconds:6.1%}"
                )


if __name__ == "__main__":
    main()
