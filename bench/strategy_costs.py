"""What tracking strategies cost beside SAM 2's own rule: time and memory of a frame, and pages kept in a long stream.

    OMP_NUM_THREADS=1 python bench/strategy_costs.py times   # results/strategy-times-nano-cpu-DATE.json
    OMP_NUM_THREADS=1 python bench/strategy_costs.py pages   # results/strategy-pages-nano-cpu-DATE.json

nano, mini, or SAM 2.1 tiny with random weights (``--model``) tracks the objects of a synthetic clip in streams, from
masks of the first frame. Times are of the thread, frame after frame with all strategies in turn, at 256x256; those of
the first frames do not count. Pages are results that objects keep, rows what the pool of memories has room for; both
are counted at 64x64.
"""

import argparse
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reports import write_report
from suite.machine import RESULTS, machine

from sam2fast import mini, nano
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.datasets.clip import Clip
from sam2fast.tracking.strategies import STRATEGIES
from sam2fast.training.data.synthetic import SyntheticClips

MODELS: dict[str, tuple[str, Path | None]] = {
    "nano": (nano.CONFIG, nano.WEIGHTS),
    "mini": (mini.CONFIG, mini.WEIGHTS),
    "tiny": ("configs/sam2.1/sam2.1_hiera_t.yaml", None),
}
SIZES, FRAMES, SEED = {"times": 256, "pages": 64}, 32, 9_300
FIRST = 20  # frames before the ones that are timed
SETTLED = 100  # frames before the ones whose pages are counted


class Live:
    """A stream with so many objects; where the clip has fewer, some are the same."""

    def __init__(self, predictor: Any, strategy: str, clip: Clip, objects: int) -> None:
        self.clip, self.stream = clip, predictor.open_stream(strategy=strategy)
        self.stream.step(clip.frames[0])
        for i in range(objects):
            self.stream.add_new_mask(i, clip.masks[0, i % clip.masks.shape[1]])

    def step(self, t: int) -> float:
        """Seconds that the thread takes for frame ``t``."""
        place = t % (2 * FRAMES - 2)
        frame, begin = self.clip.frames[min(place, 2 * FRAMES - 2 - place)], time.thread_time()
        self.stream.step(frame, output="bits")
        return time.thread_time() - begin

    def kept(self) -> dict[str, float]:
        """Pages, rows of the pool of memories, and MiB of all pools."""
        state = self.stream._state
        hypotheses = [one for o in state.objects.values() for one in o.hypotheses(state.strategy.hypotheses)]
        results = {id(r) for one in hypotheses for r in (*one.conditioning.values(), *one.tracked.values())}
        pools = [
            pool.data for pool in (state.bank.memories, state.bank.pointers, state.bank.states) if pool is not None
        ]
        mebibytes = sum(data.nbytes for data in pools) / 2**20
        return {"pages": len(results), "rows": len(state.bank.memories.data), "mib": round(mebibytes, 2)}


def times(predictor: Any, clip: Clip, names: Sequence[str], objects: int, frames: int) -> list[dict[str, Any]]:
    live = {name: Live(predictor, name, clip, objects) for name in names}
    samples: dict[str, list[float]] = {name: [] for name in names}
    for t in range(1, FIRST + frames):
        for name in np.roll(names, t).tolist():  # nobody always comes first
            seconds = live[name].step(t)
            if t >= FIRST:
                samples[name].append(seconds)
    rows = []
    for name, found in samples.items():
        ratio = statistics.median(a / b for a, b in zip(found, samples[names[0]], strict=True))
        median = {"ms": round(1e3 * statistics.median(found), 2), "ratio": round(ratio, 3)}
        rows.append({"strategy": name, "objects": objects, **median, **live[name].kept(), "samples_s": found})
    return rows


def pages(predictor: Any, clip: Clip, names: Sequence[str], objects: int, frames: int) -> list[dict[str, Any]]:
    rows = []
    for name in names:
        live, kept = Live(predictor, name, clip, objects), []
        for t in range(1, frames):
            live.step(t)
            kept.append(live.kept())
        most = {key: max(one[key] for one in kept[min(SETTLED, len(kept)) - 1 :]) for key in kept[0]}
        rows.append({"strategy": name, "objects": objects, "frames": frames, **most})
        print(rows[-1], flush=True)
    return rows


def table(rows: Iterable[dict[str, Any]]) -> str:
    shown = [{key: value for key, value in row.items() if key != "samples_s"} for row in rows]
    lines = [shown[0].keys(), ["---"] * len(shown[0]), *(row.values() for row in shown)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


@torch.inference_mode()
def main(options: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["times", "pages"])
    parser.add_argument("--model", choices=MODELS, default="nano")
    parser.add_argument("--objects", type=int, nargs="+", help="by default 1, 4 and 16 for times, 1 for pages")
    parser.add_argument("--frames", type=int, help="timed frames, by default 24; or all frames, by default 1000")
    parser.add_argument("--strategy", nargs="+", choices=STRATEGIES, default=list(STRATEGIES), help="the first is 1.0")
    parser.add_argument("--out", type=Path, default=RESULTS / "calls")
    args = parser.parse_args(options)
    size = SIZES[args.part]
    overrides = [f"++model.image_size={size}"]
    config, weights = MODELS[args.model]
    predictor = build_sam2_video_predictor(config, weights, device="cpu", hydra_overrides_extra=overrides)
    clip = SyntheticClips(size, FRAMES, max_objects=4, seed=SEED).sample(0, np.random.default_rng(SEED))
    measure, counts, frames = (times, [1, 4, 16], 24) if args.part == "times" else (pages, [1], 1000)
    rows: list[dict[str, Any]] = []
    for objects in args.objects or counts:
        rows += measure(predictor, clip, args.strategy, objects, args.frames or frames)
    print(table(rows))
    about = {"model": args.model, "image_size": size, "objects_in_clip": clip.masks.shape[1], "rows": rows}
    print(write_report(args.out, f"strategy-{args.part}-{args.model}-cpu", machine=machine(), **about))


if __name__ == "__main__":
    main()
