"""SAM 2's relatives, and SAM 2.1 tiny, beside their published code: an image encoded, and a frame with full memories.

    make bench-family

Each environment has one of the packages, all named ``sam2``, and writes its rows into
``results/family-cpu-DATE.json``. Weights are drawn and the same for both; fp32. What is timed is ``set_image`` of an
image of the model's size, and the step of ``propagate_in_video`` from a frame on whose memories are full, of one
object; ours and theirs in turn, after a first call of each. Filling the memories by tracking would take minutes: frames
before get the result of the first one that was tracked. Masks of this frame are compared, theirs with memories in fp32.
"""

import argparse
import datetime
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCH), str(BENCH.parent / "tests" / "support")]

import family_models  # noqa: E402  (before torch)
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from family_scenarios import write_clip  # noqa: E402
from reports import write_report  # noqa: E402
from suite.machine import RESULTS, machine  # noqa: E402

from sam2fast.sam2_image_predictor import SAM2ImagePredictor  # noqa: E402
from sam2fast.utils.testing import relative_error  # noqa: E402

FULL = 16  # frames after which as many memories and pointers are attended to as ever
CLICK = {"points": np.array([[140, 110]], np.float32), "labels": np.array([1], np.int32)}
# By the package named sam2: models, sizes of their images, and how both predictors are built.
MODELS: dict[str, dict[str, tuple[int, Callable[..., family_models.Pair]]]] = {
    "official": {
        "tiny": (1024, partial(family_models.hiera, family_models.TINY)),
        "medsam2": (512, partial(family_models.hiera, family_models.MEDSAM2)),
    },
    "edgetam": {"edgetam": (1024, family_models.edgetam)},
    "efficienttam": {
        f"efficienttam_{name}": (
            512 if "512" in name else 1024,
            partial(family_models.efficienttam, f"efficienttam_{name}"),
        )
        for name in ("s", "s_512x512", "s_1", "s_2", "ti", "ti_512x512", "ti_1", "ti_2")
    },
}


def in_turn(calls: dict[str, Callable[[], Any]], runs: int) -> dict[str, list[float]]:
    """Seconds of each call, after a first one that does not count."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(runs + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if run:
                samples[name].append(time.perf_counter() - begin)
    return samples


def our_passes(predictor: Any, video: Path) -> tuple[torch.Tensor, Iterator[Any]]:
    """Masks of the first tracked frame, and of frames whose memories are full."""
    state = predictor.init_state(str(video))
    predictor.add_new_points_or_box(state, 0, 1, **CLICK)
    masks = [found[2] for found in predictor.propagate_in_video(state, 0, 1, progress=False)]
    tracked = state.objects[1].tracked
    for frame in range(2, FULL):
        tracked[frame], state.objects[1].reverse[frame] = tracked[1], False
    return masks[1], predictor.propagate_in_video(state, FULL, progress=False)


def their_passes(predictor: Any, video: Path) -> tuple[torch.Tensor, Iterator[Any]]:
    state = predictor.init_state(str(video))
    predictor.add_new_points_or_box(state, 0, 1, **CLICK)
    masks = [found[2] for found in predictor.propagate_in_video(state, 0, 1)]
    # The older predictors track objects together.
    results = [state["output_dict"]] if "output_dict" in state else state["output_dict_per_obj"].values()
    for found in results:
        tracked = found["non_cond_frame_outputs"]
        tracked.update(dict.fromkeys(range(2, FULL), tracked[1]))
    return masks[1], predictor.propagate_in_video(state, FULL)


def measured(name: str, size: int, pair: family_models.Pair, video: Path, runs: int) -> dict[str, Any]:
    ours, theirs = pair
    for predictor in pair:
        predictor.fill_hole_area = 0  # for which the published code needs an extension
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    images = {"theirs": family_models.image_predictor(theirs), "ours": SAM2ImagePredictor(ours)}
    encode = in_turn({who: partial(one.set_image, image) for who, one in images.items()}, runs)
    expected, their_frames = their_passes(theirs, video)
    actual, our_frames = our_passes(ours, video)
    frame = in_turn({"theirs": partial(next, their_frames), "ours": partial(next, our_frames)}, runs)
    row: dict[str, Any] = {"model": name, "image_size": size, "difference": float(relative_error(expected, actual))}
    for part, samples in (("encode", encode), ("frame", frame)):
        median = {who: statistics.median(taken) for who, taken in samples.items()}
        row |= {f"{part}_s": median, f"{part}_ratio": median["theirs"] / median["ours"], f"{part}_samples_s": samples}
    return row


def main(options: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = MODELS[family_models.package()]
    parser.add_argument("--model", nargs="+", choices=models, default=list(models))
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "calls")
    args = parser.parse_args(options)
    path = args.out / f"family-cpu-{datetime.date.today()}.json"
    earlier = json.loads(path.read_text())["rows"] if path.exists() else []
    about, rows = machine(), [row for row in earlier if row["model"] not in args.model]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        video = write_clip(Path(folder), FULL + args.runs + 1)
        family_models.repair(patch)
        for name in args.model:
            size, build = models[name]
            rows.append(measured(name, size, build(size), video, args.runs))
            print({key: value for key, value in rows[-1].items() if not key.endswith("samples_s")}, flush=True)
            write_report(args.out, "family-cpu", machine=about, rows=rows)


if __name__ == "__main__":
    main()
