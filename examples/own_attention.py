"""Custom memory attention: values projected before the weighted sum, as in the official package, or after it, as here.

    python examples/own_attention.py

A memory token has 64 channels, its value after the projection 256 (Meta's models). Projecting is linear and softmax
weights sum to one, so that both orders are equal in exact arithmetic. Errors are those in bfloat16 against fp32, and
times are medians, in turn, over calls that nano makes while it tracks synthetic clips, with random projections to
values of --width channels in place of its own. "Masks": the mean IoU of the masks by bfloat16 tracking with the op,
and nano's own values, with those by fp32 tracking.
"""

import argparse
import statistics
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from shared import arguments, finish, nano, open_clip, synthetic_clips, tracked
from torch import Tensor

from sam2fast.build_sam import cast_weights
from sam2fast.evaluation.j_and_f import jaccard
from sam2fast.kernels.memory_attention import memory_attention
from sam2fast.research import backend, override_op
from sam2fast.research.attention_maps import attention_operands

KEPT = 10  # of the calls every tenth


def attend(project_first: bool, query: Tensor, memory: Any, *rest: Any) -> Tensor:
    """``memory_attention`` by torch's own attention, object by object."""
    rows = []
    for b in range(len(memory.page_table)):
        own_query, key, value, offset = attention_operands(b, query, memory, *rest)
        weight, bias = (x.unflatten(0, (len(key), -1)) for x in rest[2:4])  # (heads, d_v, m), (heads, d_v)
        if project_first:
            value = value.to(weight.dtype) @ weight.mT + bias[:, None]
        mask = offset.to(key.dtype)[None]
        out = F.scaled_dot_product_attention(own_query, key, value.to(key.dtype), attn_mask=mask)
        if not project_first:
            out = out @ weight.mT + bias[:, None]
        rows.append(out.transpose(0, 1).flatten(1))
    return torch.stack(rows)


def of_the_package(*given: Any) -> Tensor:
    with backend("auto"):
        return memory_attention(*given)


WAYS = {
    "before the sum": lambda *given: attend(True, *given),
    "after the sum": lambda *given: attend(False, *given),
    "sam2fast's op": of_the_package,
}


def calls_of(predictor: Any, clips: Any, width: int) -> list[tuple[Any, ...]]:
    """The arguments of some calls in fp32, with random projections to values of another width."""
    calls: list[tuple[Any, ...]] = []

    def spy(*given: Any) -> Tensor:
        query, memory, *rest = given
        calls.append((query.clone(), memory._replace(pages=memory.pages.clone()), *rest))
        return of_the_package(*given)

    with override_op("memory_attention", spy):
        for clip in clips:
            tracked(predictor, open_clip(predictor, clip), clip)
    generator, m = torch.Generator().manual_seed(0), calls[0][1].pages.shape[-1]
    weight, bias = torch.randn(width, m, generator=generator) / m**0.5, 0.1 * torch.randn(width, generator=generator)
    values = weight.to(predictor.device), bias.to(predictor.device)
    return [(*given[:4], *values, *given[6:]) for given in calls[KEPT - 1 :: KEPT]]


def cast(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments in bfloat16, but for what stays fp32 there: encodings, pointers, rotations."""
    query, memory, *weights, cos, sin = given
    memory = memory._replace(pages=memory.pages.bfloat16())
    return query.bfloat16(), memory, *(w.bfloat16() for w in weights), cos, sin


@torch.inference_mode()
def on_calls(calls: list[tuple[Any, ...]], rounds: int) -> dict[str, tuple[float, float]]:
    """Of each way its error in bfloat16, the mean over calls, and its median milliseconds."""
    errors: dict[str, list[float]] = {name: [] for name in WAYS}
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for given in calls:
        exact, half = WAYS["before the sum"](*given), cast(given)
        for name, way in WAYS.items():
            errors[name].append(float((way(*half).float() - exact).norm() / exact.norm()))
        for name, way in [*WAYS.items()] * rounds:
            begin = time.perf_counter()
            way(*half)
            seconds[name].append(time.perf_counter() - begin)
    return {name: (statistics.mean(errors[name]), 1e3 * statistics.median(seconds[name])) for name in WAYS}


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    clips, whole = synthetic_clips(args), nano(args.device)
    exact = [tracked(whole, open_clip(whole, clip), clip) for clip in clips]
    by_call = on_calls(calls_of(whole, clips, args.width), args.rounds)
    half, rows = cast_weights(nano(args.device), torch.bfloat16), []
    for name, way in WAYS.items():
        with override_op("memory_attention", way):
            found = [tracked(half, open_clip(half, clip), clip) for clip in clips]
        iou = np.concatenate([jaccard(a[1:], b[1:]).ravel() for a, b in zip(found, exact, strict=True)]).mean()
        error, ms = by_call[name]
        rows.append({"values projected": name, "error, %": 100 * error, "ms": ms, "masks, IoU %": 100 * float(iou)})
    return rows


def main() -> None:
    parser = arguments(__doc__, clips=2, frames=10)
    parser.add_argument("--width", type=int, default=256, help="channels of projected values (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each call (default: %(default)s)")
    args, start = parser.parse_args(), time.perf_counter()
    finish(args, start, run(args))


if __name__ == "__main__":
    main()
