"""What fine-tuning nano on a new kind of object gains, what it costs, and what is forgotten.

    python bench/own_masks.py --out bench/results [--threads 1]

Runs the commands of docs/own_masks.md on pictures of striped snakes (`striped_snakes.py`), and evaluates before and
after: on other snakes by `sam2fast evaluate-images`, and on pictures and clips such as nano was made for, drawn ones
from seeds it has not seen. The recipe was chosen by pictures of other seeds than these.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from nano_heldout import CLIPS, PICTURES, build, clips, evaluate_pictures, evaluate_tracking, tracked_by
from reports import write_report
from side_by_side import machine
from striped_snakes import write_pictures

from sam2fast import nano
from sam2fast.sam2_image_predictor import SAM2ImagePredictor

RECIPE = "nano/sam2fast_nano_own_masks"
# Of the pictures to learn from, and of those to be judged by.
SEEDS = {"own": 10, "held_out": 11}
DRAWN_PICTURES, DRAWN_CLIPS = PICTURES | {"seed": 9_011}, CLIPS | {"seed": 9_012}


def run(folder: Path, threads: int, *arguments: str) -> dict[str, float]:
    """Runs ``sam2fast`` in a folder; the seconds that passed, and those its process computed.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, "-m", "sam2fast", *arguments], cwd=folder, env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    computed = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"seconds": round(time.perf_counter() - start, 1), "cpu_seconds": round(computed, 1)}


def evaluate_own(folder: Path, threads: int, checkpoint: Path) -> dict[str, Any]:
    """Mean IoUs in percent on the held-out pictures."""
    where = ["held_out/images", "--masks", "held_out/masks", "--model", "nano", "--checkpoint", str(checkpoint)]
    run(folder, threads, "evaluate-images", *where, "--clicks", "1,3", "--box", "--out", "found")
    found = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    means = {name: round(100 * values["mean"], 2) for name, values in found["miou"].items()}
    return {"objects": found["objects"], "miou": means}


def evaluate_kept(checkpoint: Path, pictures: int, videos: int) -> dict[str, Any]:
    """Percent on drawn pictures and clips of the kind nano was made for."""
    predictor = build(checkpoint, "cpu")
    found = {"pictures": evaluate_pictures(SAM2ImagePredictor(predictor), clips(None, pictures, DRAWN_PICTURES))}
    drawn = clips(None, videos, DRAWN_CLIPS)
    for prompt in ("click", "mask"):
        found[f"clips_{prompt}"] = evaluate_tracking(tracked_by(predictor, prompt), drawn, prompt)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=48, help="to learn from")
    parser.add_argument("--held-out", type=int, default=30, help="pictures to be judged by")
    parser.add_argument("--kept-pictures", type=int, default=60)
    parser.add_argument("--kept-clips", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes to the recipe")
    parser.add_argument("--out", type=Path, help="folder for the JSON file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, count in (("own", args.pictures), ("held_out", args.held_out)):
            write_pictures(folder / kind, count, SEEDS[kind])
        data = ["dataset.img_folder=own/images", "dataset.gt_folder=own/masks", "scratch.folder=run"]
        options = ["--threads", str(args.threads), *data, *args.set]
        training = run(folder, args.threads, "train", "-c", RECIPE, *options)
        states = {"before": nano.WEIGHTS, "after": folder / "run" / "checkpoints" / "averaged.pt"}
        own = {name: evaluate_own(folder, args.threads, file) for name, file in states.items()}
        kept = {name: evaluate_kept(file, args.kept_pictures, args.kept_clips) for name, file in states.items()}
        lines = (folder / "run" / "logs" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        updates = json.loads(lines[-1])["step"]
    report = {
        "machine": machine(),
        "recipe": RECIPE,
        "overrides": args.set,
        "pictures": args.pictures,
        "held_out": args.held_out,
        "updates": updates,
        "training": training,
        "own": own,
        "kept": kept,
    }
    print(json.dumps(report, indent=1))
    if args.out is not None:
        write_report(args.out, "own-masks-cpu", **report)


if __name__ == "__main__":
    main()
