"""Times `sam2fast evaluate` beside the same rules written out plainly, on the same masks, in turn.

    python bench/evaluation.py --processes 1 2 --out bench/results

Clips of the synthetic factory are cut to 854x480 and written in the layouts of DAVIS and of SA-V; the predictions are
the true masks, moved, with pieces cut out and added. The yardstick is `tests/support/plain_evaluator.py`, which does
what the original evaluator does, step by step: it decodes each file where it needs it and dilates the outlines of whole
pictures by a disk, as scikit-image does (`scipy`), and also by OpenCV on one thread, which the original calls, where
that is installed (`opencv`). A process of its pool takes a video at a time. All scores are compared; where they differ
by more than 1e-9 percent, there are no times. Beside the times stands the floor: decoding the same files alone, in one
process.
"""

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam2fast.evaluation.folders import evaluate_folders

# What our workers would import again with this file is imported where it is used.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

LAYOUTS = ("davis", "sav")
OURS, DECODING = "sam2fast", "decoding alone"


def make_sets(
    root: Path, videos: int, frames: int, objects: int, size: tuple[int, int]
) -> dict[str, tuple[Path, Path]]:
    """True and predicted masks of the same videos in both layouts; ``size`` is (width, height)."""
    from mask_sets import write_davis, write_sav

    from sam2fast.training.data.synthetic import SyntheticClips

    width, height = size
    clips = SyntheticClips(max(size), frames, objects, length=videos, seed=11)
    pairs = {layout: (root / layout / "truth", root / layout / "pred") for layout in LAYOUTS}
    for v in range(videos):
        rng = np.random.default_rng([11, v])
        masks = clips.sample(v, rng).masks
        top, left = (masks.shape[2] - height) // 2, (masks.shape[3] - width) // 2
        truth = labels_of(masks[:, :, top : top + height, left : left + width])
        pred = labels_of(np.stack([perturbed(rng, truth == i) for i in range(1, masks.shape[1] + 1)], axis=1))
        shown = [i for i in range(1, masks.shape[1] + 1) if (truth[1:-1] == i).any()]
        for side, labels in enumerate((truth, pred)):
            write_davis(pairs["davis"][side] / f"video{v:03d}", labels)
            write_sav(pairs["sav"][side] / f"video{v:03d}", labels, shown)
    return pairs


def labels_of(masks: np.ndarray) -> np.ndarray:
    """Label maps ``(T, H, W)`` of masks ``(T, O, H, W)``, ids from 1."""
    return (masks * np.arange(1, masks.shape[1] + 1, dtype=np.uint8)[:, None, None]).max(axis=1)


def perturbed(rng: np.random.Generator, masks: np.ndarray) -> np.ndarray:
    """Masks ``(T, H, W)`` of an object as a tracker might find them."""
    out = masks.copy()
    for mask in out:
        mask[:] = np.roll(mask, rng.integers(-3, 4, 2), axis=(0, 1))
        rows, columns = np.nonzero(mask)
        for present in (False, True):
            if len(rows):
                place = rng.integers(len(rows))
                reach = int(rng.integers(2, 16))
                y, x = rows[place], columns[place]
                mask[max(y - reach, 0) : y + reach, max(x - reach, 0) : x + reach] = present
    return out


def dilated_by_opencv(mask: np.ndarray, disk: np.ndarray) -> np.ndarray:
    import cv2

    cv2.setNumThreads(1)
    return cv2.dilate(mask.astype(np.uint8), disk.astype(np.uint8)).astype(bool)


def subjects(truth: Path, pred: Path, processes: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """Each gives (J, F) in percent by video and object; ours the last."""
    import plain_evaluator as plain

    dilations = {"scipy": plain.dilated_by_scipy}
    if importlib.util.find_spec("cv2"):
        dilations["opencv"] = dilated_by_opencv

    def ours() -> dict[str, Any]:
        scores = evaluate_folders(truth, pred, processes=processes)
        return {video.name: {i: (score.j, score.f) for i, score in video.objects.items()} for video in scores.videos}

    # The plain one without a pool, if it is one process.
    count = 0 if processes == 1 else processes
    calls: dict[str, Callable[[], dict[str, Any]]] = {
        name: lambda dilate=dilate: plain.evaluate(truth, pred, processes=count, dilate=dilate)
        for name, dilate in dilations.items()
    }
    return calls | {OURS: ours}


def largest_difference(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """In percent; infinite where videos or objects differ."""
    if {name: set(found[name]) for name in found} != {name: set(expected[name]) for name in expected}:
        return float("inf")
    pairs = [(found[name][i], expected[name][i]) for name in expected for i in expected[name]]
    return float(np.abs(np.subtract(*zip(*pairs, strict=True))).max())


def decode_all(truth: Path, pred: Path) -> int:
    """Reads every file that counts, and nothing else."""
    count = 0
    for root in (truth, pred):
        for folder in sorted({path.parent for path in truth.rglob("*.png")}):
            for name in sorted(path.name for path in folder.iterdir())[1:-1]:
                with Image.open(root / folder.relative_to(truth) / name) as picture:
                    np.asarray(picture)
                count += 1
    return count


def timed(call: Callable[[], Any], seconds: list[float]) -> Any:
    start = time.perf_counter()
    result = call()
    seconds.append(time.perf_counter() - start)
    return result


def measure(layout: str, truth: Path, pred: Path, processes: int, runs: int) -> dict[str, Any]:
    calls = subjects(truth, pred, processes)
    calls[OURS]()  # does not count; the others take long enough not to need it
    seconds: dict[str, list[float]] = {name: [] for name in (*calls, DECODING)}
    apart = 0.0
    for _ in range(runs):
        results = {name: timed(call, seconds[name]) for name, call in calls.items()}
        apart = max(apart, *(largest_difference(found, results[OURS]) for found in results.values()))
        if apart > 1e-9:
            raise SystemExit(f"{layout}: the scores differ by {apart:.1e} percent; not timed")
        timed(lambda: decode_all(truth, pred), seconds[DECODING])
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    scores = evaluate_folders(truth, pred, processes=1)
    return {
        "layout": layout,
        "processes": processes,
        "videos": len(scores.videos),
        "masks": sum(score.frames for score in scores.objects),
        "files": decode_all(truth, pred),
        "J&F": scores.j_and_f,
        "difference": apart,
        "seconds": seconds,
        "median_s": medians,
        "ratio": {name: medians[name] / medians[OURS] for name in calls if name != OURS},
    }


def report(row: dict[str, Any]) -> str:
    times = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in row["median_s"].items())
    ratios = ", ".join(f"{ratio:.1f} times as fast as {name}" for name, ratio in row["ratio"].items())
    return f"{row['layout']}, {row['processes']} processes, {row['masks']} masks: {times}: {ratios}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--frames", type=int, default=98, help="of a video; two of them do not count")
    parser.add_argument("--objects", type=int, default=3, help="at most, in a video")
    parser.add_argument("--size", type=int, nargs=2, default=(854, 480), metavar=("W", "H"))
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--note", default="", help="what else ran meanwhile, for the report")
    parser.add_argument("--out", type=Path, help="folder for the JSON file")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        size = (arguments.size[0], arguments.size[1])
        sets = make_sets(Path(folder), arguments.videos, arguments.frames, arguments.objects, size)
        for layout, (truth, pred) in sets.items():
            for processes in arguments.processes:
                rows.append(measure(layout, truth, pred, processes, arguments.runs) | {"size": list(size)})
                print(report(rows[-1]), flush=True)
    if arguments.out:
        write(arguments.out, rows, arguments.note)


def write(out: Path, rows: list[dict[str, Any]], note: str) -> None:
    from importlib.metadata import version

    from reports import write_report
    from suite.machine import machine

    packages = {name: version(name) for name in ("numpy", "pillow", "scipy")}
    if importlib.util.find_spec("cv2"):
        import cv2

        packages["opencv"] = cv2.__version__
    path = write_report(out, "evaluation-cpu", machine=machine() | packages, note=note, rows=rows)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
