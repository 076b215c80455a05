"""How much attention memories of each age get, layer by layer.

    python examples/attention_to_age.py

Shares of the cross-attention's weight, the mean over positions, objects, clips and frames whose memory is full: the
conditioning frame, the six frames before, and the object pointers by their distance. Each column sums to 100 %. Beside
it the share of tokens, which is what even attention would give.
"""

import time
from collections import defaultdict

from shared import arguments, finish, nano, synthetic_clips, tracked

from sam2fast.research import AttentionMap, Column, attention_maps

FULL = 16  # from this frame on all memories and pointers are there


def group(column: Column) -> str:
    """The row that a memory is counted in."""
    if column.kind == "conditioning":
        return "conditioning"
    if column.kind == "tracked":
        return f"t-{column.distance}"
    for last in (1, 2, 4, 8):
        if column.distance <= last:
            return f"pointers to t-{last}"
    return "pointers beyond"


ROWS = [
    "conditioning",
    *(f"t-{i}" for i in range(1, 7)),
    *(f"pointers to t-{i}" for i in (1, 2, 4, 8)),
    "pointers beyond",
]


def shares(maps: list[AttentionMap]) -> tuple[dict[str, float], dict[str, float]]:
    """Of each row the mean share of attention, and of tokens."""
    weight: dict[str, float] = defaultdict(float)
    tokens: dict[str, float] = defaultdict(float)
    for found in maps:
        total = found.columns[-1].tokens.stop
        for column, share in zip(found.columns, found.shares(), strict=True):
            weight[group(column)] += share / len(maps)
            tokens[group(column)] += (column.tokens.stop - column.tokens.start) / total / len(maps)
    return weight, tokens


def main() -> None:
    args = arguments(__doc__, clips=6, frames=FULL + 4).parse_args()
    if args.frames <= FULL:
        raise SystemExit(f"--frames {args.frames}: memories are full from frame {FULL} on, so give more than {FULL}")
    start = time.perf_counter()
    predictor = nano(args.device)
    maps: list[AttentionMap] = []
    for clip in synthetic_clips(args):
        with attention_maps(predictor, frames=range(FULL, args.frames)) as found:
            tracked(predictor, predictor.init_state([*clip.frames]), clip)
        maps += found
    layers = sorted({found.layer for found in maps})
    by_layer = [shares([found for found in maps if found.layer == layer])[0] for layer in layers]
    tokens = shares(maps)[1]
    rows = [
        {"share of attention, %": name, "tokens": 100 * tokens[name]}
        | {f"layer {i}": 100 * weight[name] for i, weight in zip(layers, by_layer, strict=True)}
        for name in ROWS
    ]
    finish(args, start, rows)


if __name__ == "__main__":
    main()
