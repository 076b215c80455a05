"""Where the image encoder's time goes, part by part, and what the floor of each part is.

    python bench/encoder_parts.py --size t --size "b+" --size l --out bench/results

Each part's time is that spent in its modules, over several pictures. Its floor is its FLOPs at the rate of a large
matrix product, or its bytes (inputs, weights and outputs, once each) at the rate of a large copy, whichever is longer,
both measured in the same run.
"""

import argparse
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import measure_limits
from reports import write_report
from side_by_side import machine
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import tame_weights
from parity import config_name, picture

from sam2fast import build_sam2
from sam2fast.modeling import hiera
from sam2fast.modeling.hiera import MultiScaleAttention, MultiScaleBlock
from sam2fast.modeling.layers import Conv2d, LayerNorm, Linear
from sam2fast.transforms import SAM2Transforms

PARTS = ("preprocess", "patch embedding", "norms", "qkv", "attention", "projections", "MLP", "neck and heads", "rest")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Profile:
    """Seconds, FLOPs and bytes by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.flops: dict[str, float] = defaultdict(float)
        self.bytes: dict[str, float] = defaultdict(float)

    def timed(
        self, part: str, call: Callable[..., Any], cost: Callable[..., tuple[float, float]]
    ) -> Callable[..., Any]:
        """``call``, counted as this part; ``cost(result, *arguments)`` says its FLOPs and bytes."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = call(*args, **kwargs)
            self.seconds[part] += time.perf_counter() - start
            flops, nbytes = cost(result, *args)
            self.flops[part] += flops
            self.bytes[part] += nbytes
            return result

        return wrapped


def linear_cost(module: nn.Module) -> Callable[..., tuple[float, float]]:
    weight: Tensor = module.weight  # type: ignore[assignment]

    def cost(out: Tensor, x: Tensor) -> tuple[float, float]:
        return 2.0 * out.numel() * weight[0].numel(), float(x.nbytes + out.nbytes + weight.nbytes)

    return cost


def pointwise_cost(out: Tensor, x: Tensor, *_: Any) -> tuple[float, float]:
    return 0.0, float(x.nbytes + out.nbytes)


def attention_cost(out: Tensor, qkv: Tensor, bias: Tensor, heads: int, window: int, *_: Any) -> tuple[float, float]:
    """Two products of each query with the keys of its window, padding included."""
    _, H, W, channels = qkv.shape
    keys = window**2 if window else H * W
    padded = math.ceil(H / window) * math.ceil(W / window) * window**2 if window else H * W
    queries = padded * (out.shape[1] * out.shape[2]) / (H * W)
    return 4.0 * queries * keys * (channels // 3) * len(qkv), float(qkv.nbytes + out.nbytes)


def mlp_cost(block: MultiScaleBlock) -> Callable[..., tuple[float, float]]:
    weights: list[Tensor] = [layer.weight for layer in block.mlp.layers]  # type: ignore[misc]

    def cost(out: Tensor, x: Tensor) -> tuple[float, float]:
        rows = out.numel() / out.shape[-1]
        return 2.0 * rows * sum(w.numel() for w in weights), float(
            x.nbytes + out.nbytes + sum(w.nbytes for w in weights)
        )

    return cost


def instrument(model: Any, profile: Profile) -> None:
    """Counts the parts of the model's encoder, which must not be used for anything else afterwards."""
    trunk = model.image_encoder.trunk
    patch = trunk.patch_embed
    patch.forward = profile.timed("patch embedding", patch.forward, linear_cost(patch.proj))
    for block in trunk.blocks:
        for norm in (block.norm1, block.norm2):
            assert isinstance(norm, LayerNorm)
            norm.forward = profile.timed("norms", norm.forward, pointwise_cost)
        attention: MultiScaleAttention = block.attn
        attention.qkv.forward = profile.timed("qkv", attention.qkv.forward, linear_cost(attention.qkv))
        for layer in (attention.proj, block.proj):
            if isinstance(layer, Linear):
                layer.forward = profile.timed("projections", layer.forward, linear_cost(layer))
        block.mlp.forward = profile.timed("MLP", block.mlp.forward, mlp_cost(block))
    hiera.window_attention = profile.timed("attention", hiera.window_attention, attention_cost)  # type: ignore[assignment]
    neck = model.image_encoder.neck
    convolutions = [m for m in neck.modules() if isinstance(m, Conv2d)]

    def neck_cost(out: list[Tensor], xs: list[Tensor], *_: Any) -> tuple[float, float]:
        """Products as published: to all channels in every level, without heads. Ours are a third of them."""
        flops = sum(2.0 * x.numel() * c.weight.shape[0] for x, c in zip(xs, reversed(convolutions), strict=True))
        return flops, float(sum(x.nbytes for x in xs) + sum(x.nbytes for x in out))

    neck.features = profile.timed("neck and heads", neck.features, neck_cost)


def run(size: str, dtype: str, pictures: int) -> list[dict[str, Any]]:
    """A row per part, and one for the whole."""
    limits = measure_limits(torch.device("cpu"))
    model = build_sam2(config_name(f"sam2.1_{size}"), None, device="cpu")
    tame_weights.fill(model, 0)
    model = model.to(DTYPES[dtype])
    transforms, image = SAM2Transforms(1024, 0.0), picture(1200, 1800)
    profile, total = Profile(), 0.0
    original = hiera.window_attention
    with torch.inference_mode():
        model.encode_image(transforms(image)[None])  # a warm-up
        instrument(model, profile)
        for _ in range(pictures):
            start = time.perf_counter()
            x = profile.timed("preprocess", lambda: transforms(image)[None], lambda out: (0.0, float(out.nbytes)))()
            model.encode_image(x)
            total += time.perf_counter() - start
    hiera.window_attention = original  # type: ignore[assignment]
    profile.seconds["rest"] = total - sum(profile.seconds.values())
    name = str(DTYPES[dtype]).removeprefix("torch.")
    rows = []
    for part in PARTS:
        seconds, flops, nbytes = (of[part] / pictures for of in (profile.seconds, profile.flops, profile.bytes))
        floor = max(flops / limits.flops_per_s[name], nbytes / limits.bytes_per_s)
        rows.append({"size": size, "dtype": dtype, "part": part, "ms": seconds * 1e3, "GFLOP": flops / 1e9,
                     "MB": nbytes / 1e6, "floor ms": floor * 1e3})  # fmt: skip
    whole = {key: sum(row[key] for row in rows) for key in ("ms", "GFLOP", "MB", "floor ms")}
    return [*rows, {"size": size, "dtype": dtype, "part": "all", **whole}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", choices=["t", "s", "b+", "l"])
    parser.add_argument("--dtype", action="append", choices=sorted(DTYPES))
    parser.add_argument("--pictures", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    for size in arguments.size or ["t", "b+", "l"]:
        for dtype in arguments.dtype or sorted(DTYPES, reverse=True):
            for row in run(size, dtype, arguments.pictures):
                rows.append(row)
                print("  ".join(f"{v:8.1f}" if isinstance(v, float) else f"{v:16}" for v in row.values()), flush=True)
    if arguments.out:
        print(f"written to {write_report(arguments.out, 'encoder-parts-cpu', machine=machine(), rows=rows)}")


if __name__ == "__main__":
    main()
