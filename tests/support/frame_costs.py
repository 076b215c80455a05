"""Counts the launches, bytes and FLOPs of a tracked frame on a fake GPU, and estimates its time.

    python tests/support/frame_costs.py --model tiny large --objects 1 4 16
    python tests/support/frame_costs.py --json > bench/results/YEAR/kernels/frame-launches-DATE.json

The commands print a table, and the JSON that bench/results/README.md shows. Each operation counts the bytes of its
arguments and results once, or twice if it reads and writes them. One torch operation counts as one kernel.
``frame_model.py`` contains the estimate and its assumptions.
"""

import argparse
import contextlib
import datetime
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import torch
from fake_cuda import FakeCuda, Seen, build, copies, fake_cuda, steady_frames
from frame_model import PARTS, PEAK, Cost, by_part, cost_of
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.profiling import flops as formulas  # registers them
from sam2fast.tracking.propagation import FRAMES_AT_ONCE_ON_CUDA

_EFFICIENTTAM = [f"efficienttam_{size}{kind}" for size in ("s", "ti") for kind in ("", "_1", "_2", "_512x512")]
CONFIGS = {
    "tiny": "configs/sam2.1/sam2.1_hiera_t.yaml",
    "small": "configs/sam2.1/sam2.1_hiera_s.yaml",
    "base_plus": "configs/sam2.1/sam2.1_hiera_b+.yaml",
    "large": "configs/sam2.1/sam2.1_hiera_l.yaml",
    "sam3": "configs/sam3/sam3.yaml",
    "edgetam": "configs/edgetam/edgetam.yaml",
    **{name: f"configs/efficienttam/{name}.yaml" for name in _EFFICIENTTAM},
    "medsam2": "configs/medsam2/sam2.1_hiera_t512.yaml",
    "mini": "configs/mini/sam2fast_mini.yaml",
    "nano": "configs/nano/sam2fast_nano.yaml",
}


SIZES = (1024, 512)  # input sizes in the JSON


class Part(NamedTuple):
    """Stores the means of a part of a frame."""

    launches: float
    bytes: float
    flops: float
    seconds: float

    @classmethod
    def of(cls, costs: Iterable[Cost], frames: int = FRAMES_AT_ONCE_ON_CUDA) -> "Part":
        """Returns the means of all costs over ``frames``."""
        every = list(costs)
        sums = len(every), *(sum(getattr(c, name) for c in every) for name in ("bytes", "flops", "seconds"))
        return cls(*(x / frames for x in sums))

    @property
    def share(self) -> float:
        """Returns the share of the FLOP limit that the part reaches."""
        return self.flops / PEAK / self.seconds


class CostedCuda(FakeCuda):
    """Records the cost of each launch under the :class:`Seen` that counts it."""

    def __init__(self) -> None:
        super().__init__()
        self.costs: dict[int, list[Cost]] = {}
        self.most: dict[int, int] = {}  # maximum bytes of the live storages used by launches so far
        self.weights: set[StorageWeakRef] = set()  # not counted
        self._used: dict[int, dict[StorageWeakRef, int]] = {}  # live storages
        self._kept: list[Seen] = []  # held, so that their ids stay unique

    def launched(self, name: str, func: Any, given: Any, result: Any = None) -> None:
        super().launched(name, func, given, result)
        seen = self._target()
        if id(seen) not in self.costs:
            self._kept.append(seen)
        costs = self.costs.setdefault(id(seen), [])
        if copies(name, given) > 1:
            costs += [_cost("copy_", func, (pair, {}), None) for pair in zip(*given[0][:2], strict=True)]
        else:
            costs.append(_cost(name, func, given, result))
        storages = [x.untyped_storage() for x in tree_leaves((given, result)) if isinstance(x, Tensor)]
        used = self._used.get(id(seen), {}) | {StorageWeakRef(storage): storage.nbytes() for storage in storages}
        self._used[id(seen)] = {x: size for x, size in used.items() if x not in self.weights and not x.expired()}
        self.most[id(seen)] = max(self.most.get(id(seen), 0), sum(self._used[id(seen)].values()))

    def costs_by_part(self, frames: list[Seen]) -> dict[str, list[Cost]]:
        """Returns the launches of frames by part: in recordings of the encoder, of steps, and outside of recordings."""
        found: dict[str, list[Cost]] = {"eager": [], "step": [], "encoder": []}
        for seen in frames:
            found["eager"] += self.costs.get(id(seen), [])
            for recorded in seen.replayed:
                found["encoder" if recorded.encoded else "step"] += self.costs[id(recorded)]
        return found


# Operations that read as much of their first argument as they write.
SPARSE = {"index_select", "gather", "index.Tensor", "index_copy_"}
# In-place operations that do not read the tensor they write.
ONLY_WRITE = {"copy_", "_foreach_copy_", "index_put_"}


def _cost(name: str, func: Any, given: Any, result: Any) -> Cost:
    args, kwargs = given
    tensors = {id(x): x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)}
    if name in SPARSE:
        small = args[3] if name == "index_copy_" else result
        return cost_of(name, 2 * _size(small), 0, args, kwargs)
    if name == "_encode_kernel":  # reads only as much of the pool as it writes as values
        del tensors[id(args[0])]
        moved = sum(map(_size, tensors.values())) + _size(args[14])
        return cost_of(name, moved, KERNEL_FLOPS[name](args, kwargs), args, kwargs)
    moved = sum(map(_size, tensors.values()))
    if name.partition(".")[0].endswith("_") and name not in ONLY_WRITE:
        moved += _size(args[0])
    if name in KERNEL_FLOPS:
        return cost_of(name, moved, KERNEL_FLOPS[name](args, kwargs), args, kwargs)
    formula = flop_registry.get(getattr(func, "_overloadpacket", None))
    flops = 0 if formula is None else formula(*args, **kwargs, out_val=result)
    return cost_of(name, moved, flops, args, kwargs)


def _size(x: Tensor) -> int:
    """Returns the bytes of a tensor, without elements that strides of 0 repeat."""
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
    qkv, bias, out = args[:3]  # a residual's channels may come after those of the bias
    window = kwargs["WINDOW"]
    return int(formulas.window_attention_flops(qkv[..., : len(bias)], bias, 0, window, out_val=out))


def _linear_gelu(args: Any, kwargs: Any) -> int:
    x, weight = args[:2]
    return int(2 * x.numel() * weight.shape[0])


def _embed_patches(args: Any, kwargs: Any) -> int:
    weight, out = args[1], args[4]
    return int(2 * out.numel() * weight[..., 0].numel())


def _norm_linear(args: Any, kwargs: Any) -> int:
    K, C, N = args[12:15]
    return int(2 * (args[9].numel() // C) * C * (K + N))


def _token_attention(args: Any, kwargs: Any) -> int:
    out, M = args[5], args[7]
    return int(4 * out.numel() * M)


def _downsample(args: Any, kwargs: Any) -> int:
    weight, out = args[1], args[5]
    return int(2 * out.numel() * weight[0].numel())


KERNEL_FLOPS: dict[str, Callable[[Any, Any], int]] = {
    "_attend_kernel": _attend,
    "_encode_kernel": _encode,
    "_combine_kernel": _combine,
    "_window_attention_kernel": _window,
    "_linear_gelu_kernel": _linear_gelu,
    "_embed_patches_kernel": _embed_patches,
    "_mlp_kernel": lambda args, kwargs: 4 * args[0].numel() * len(args[4]),
    "_norm_linear_kernel": _norm_linear,
    "_grouped_mlp_kernel": lambda args, kwargs: 2 * len(args[0]) * sum(weight.numel() for weight in args[1:7:2]),
    "_token_attention_kernel": _token_attention,
    "_downsample_logits_kernel": _downsample,
    "_downsample_map_kernel": _downsample,
    "_depthwise_norm_kernel": lambda args, kwargs: 2 * args[6].numel() * kwargs["KERNEL"] ** 2,
    "_mask_logits_kernel": lambda args, kwargs: 2 * args[0].numel() * kwargs["M"],
}


@contextlib.contextmanager
def predictor_of(model: str, image_size: int | None = None) -> Iterator[tuple[CostedCuda, Any]]:
    """Context manager that yields a bf16 predictor on a fake GPU, by default for the model's own input size."""
    cuda, deterministic = CostedCuda(), torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)  # deterministic mode, enabled in tests, fills new memory
    try:
        with fake_cuda(cuda):
            predictor = build(build_sam2_video_predictor, CONFIGS[model], dtype=torch.bfloat16, image_size=image_size)
            cuda.weights = {StorageWeakRef(x.untyped_storage()) for x in predictor.state_dict().values()}
            yield cuda, predictor
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=True)


def frame_launches(
    model: str, objects: Iterable[int], image_size: int | None = None
) -> dict[int, dict[str, list[Cost]]]:
    """Returns the launches of each part of one encoder batch of steady frames, by the number of objects."""
    with predictor_of(model, image_size) as (cuda, predictor):
        return {n: cuda.costs_by_part(steady_frames(cuda, predictor, n, FRAMES_AT_ONCE_ON_CUDA)) for n in objects}


def frame_costs(model: str, objects: Iterable[int]) -> dict[int, dict[str, Part]]:
    """Returns the means of each part of a steady frame, by the number of objects."""
    found = frame_launches(model, objects)
    return {n: {part: Part.of(costs) for part, costs in parts.items()} for n, parts in found.items()}


def encoded_ahead(model: str, batches: Iterable[int]) -> list[dict[str, Any]]:
    """Returns the maximum bytes that the encoder uses at once, by the number of frames in a batch."""
    found = []
    with predictor_of(model) as (cuda, predictor):
        for batch in batches:
            frames = steady_frames(cuda, predictor, 1, batch, encode_ahead=batch)
            (recorded,) = {id(each) for seen in frames for each in seen.replayed if each.encoded}
            found.append({"model": model, "batch": batch, "bytes": cuda.most[recorded]})
    return found


def results(models: list[str], objects: list[int]) -> dict[str, Any]:
    """Returns the JSON of bench/results/README.md; ``by_part`` is for one object. The last frames are of SAM 3."""
    sizes = {size: {model: frame_launches(model, objects, size) for model in models} for size in SIZES}
    launches = sizes[SIZES[0]]
    sizes[1008] = {"sam3": frame_launches("sam3", (1, 5, 16))}
    parts = {
        model: by_part([cost for costs in by_objects[1].values() for cost in costs], FRAMES_AT_ONCE_ON_CUDA)
        for model, by_objects in launches.items()
    }
    return {
        "date": f"{datetime.date.today()}",
        "command": "python tests/support/frame_costs.py --json",
        "limit": PEAK,
        "frames": [
            {"image_size": size, **frame(model, n, of_frame)}
            for size, by_model in sizes.items()
            for model, found in by_model.items()
            for n, of_frame in found.items()
        ],
        "by_part": [{"part": part, **{model: parts[model][part] for model in models}} for part in PARTS],
        "ahead": [row for model in models for row in encoded_ahead(model, (1, FRAMES_AT_ONCE_ON_CUDA))],
    }


def frame(model: str, objects: int, parts: dict[str, list[Cost]]) -> dict[str, Any]:
    """Returns a row of the table of frames."""
    total = Part.of(cost for costs in parts.values() for cost in costs)
    sums = {part: Part.of(costs)._asdict() for part, costs in parts.items()}
    return {"model": model, "objects": objects, **sums, "seconds": total.seconds, "share": total.share}


def main() -> None:
    """Runs the command line interface."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=CONFIGS, default=["tiny", "large"])
    parser.add_argument("--objects", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.json:
        print(json.dumps(results(arguments.model, arguments.objects), indent=1))
        return
    found = {model: frame_costs(model, arguments.objects) for model in arguments.model}
    print(f"{'model':20} {'objects':>7} {'part':8} {'launches':>8} {'GB':>7} {'GFLOP':>8} {'ms':>6} {'limit':>6}")
    for model, by_objects in found.items():
        for objects, sums in by_objects.items():
            total = Part(*map(sum, zip(*sums.values(), strict=True)))
            for name, part in [*sums.items(), ("all", total)]:
                print(
                    f"{model:20} {objects:7} {name:8} {part.launches:8.6g} {part.bytes / 1e9:7.2f} "
                    f"{part.flops / 1e9:8.1f} {part.seconds * 1e3:6.2f} {part.flops / PEAK / part.seconds:6.1%}"
                )


if __name__ == "__main__":
    main()
