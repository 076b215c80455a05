"""How good nano is on clips and pictures it has never seen.

    python bench/nano_heldout.py --media HELDOUT_FOLDER [--models nano] [--checkpoint FILE] [--out bench/results]

The held-out set is that of this file: the seeds below, over photographs and cut-outs that were set aside before the
first training step (`python -m sam2fast.training.data.synthetic.collect` splits media by a hash of their names). It is
for reporting alone: nothing of the model or its training is chosen by it. Beside the model stand an untrained one, and
for clips the first frame's true mask kept still.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clip_tracking import Masks, centre, tracked
from reports import write_report
from suite.machine import machine
from tqdm import tqdm

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.evaluation.j_and_f import JAndF, j_and_f, jaccard
from sam2fast.nano import CONFIG, WEIGHTS
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.training.data.clip import Clip
from sam2fast.training.data.synthetic import SyntheticClips

SIZE = 256
PICTURES = {"num_frames": 1, "max_objects": 5, "seed": 9_001}
CLIPS = {"num_frames": 12, "max_objects": 3, "seed": 9_002}
AREAS = (0.0, 0.01, 0.03, 0.1, 1.0)  # of the frame, for the breakdown of pictures


def clips(media: Path | None, count: int, kind: dict[str, Any]) -> list[Clip]:
    dataset = SyntheticClips(size=SIZE, media=media, procedural=0.4, motion=1.0, length=count, **kind)
    return [dataset.sample(i, np.random.default_rng([kind["seed"], i])) for i in range(count)]


def evaluate_pictures(predictor: SAM2ImagePredictor, pictures: list[Clip]) -> dict[str, Any]:
    """IoU in percent of each object after one click: of the mask that the model scores highest, and of the best."""
    chosen, best, areas = [], [], []
    for clip in tqdm(pictures, desc="pictures"):
        predictor.set_image(clip.frames[0])
        for truth in clip.masks[0]:
            masks, scores, _ = predictor.predict(np.array([centre(truth)]), np.array([1]), multimask_output=True)
            ious = [float(jaccard(mask > 0, truth)) for mask in masks]
            chosen.append(ious[int(np.argmax(scores))])
            best.append(max(ious))
            areas.append(float(truth.mean()))
    by_area = {}
    for low, high in zip(AREAS[:-1], AREAS[1:], strict=True):
        inside = [iou for iou, area in zip(chosen, areas, strict=True) if low <= area < high]
        miou = _percent(np.mean(inside)) if inside else None
        by_area[f"{low:.0%}-{high:.0%}"] = {"objects": len(inside), "miou": miou}
    return {
        "objects": len(chosen),
        "one_click_miou": _percent(np.mean(chosen)),
        "one_click_miou_best_of_3": _percent(np.mean(best)),
        "by_area": by_area,
    }


def evaluate_tracking(track: Callable[[Clip], Masks], videos: list[Clip], name: str) -> dict[str, Any]:
    """J&F in percent over the objects' frames after the first."""
    results = [j_and_f(track(clip)[1:], clip.masks[1:], skip_first_and_last=False) for clip in tqdm(videos, desc=name)]
    every = JAndF.of_videos(results)
    return {
        "objects": int(np.isfinite(every.per_object).sum()),
        "J&F": _percent(every.mean),
        "J": _percent(every.mean_j),
        "F": _percent(every.mean_f),
    }


def tracked_by(predictor: Any, prompt: str) -> Callable[[Clip], Masks]:
    """Tracks every object of a clip from one ``click`` or from its ``mask`` on the first frame."""
    return lambda clip: tracked(predictor, predictor.init_state([*clip.frames]), clip, prompt)


def kept_still(clip: Clip) -> Masks:
    return np.repeat(clip.masks[:1], len(clip.masks), axis=0)


def build(checkpoint: Path | None, device: str) -> Any:
    torch.manual_seed(0)
    return build_sam2_video_predictor(CONFIG, checkpoint, device=device)


def _percent(value: float) -> float:
    return round(100 * float(value), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=Path, required=True, help="photographs and cut-outs that were set aside")
    parser.add_argument("--checkpoint", type=Path, default=WEIGHTS)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--clips", type=int, default=80)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="+", choices=("nano", "untrained"), default=["nano", "untrained"])
    parser.add_argument("--out", type=Path, help="folder for the JSON file")
    args = parser.parse_args()
    start = time.perf_counter()
    pictures, videos = clips(args.media, args.pictures, PICTURES), clips(args.media, args.clips, CLIPS)
    results: dict[str, Any] = {"still": {"clips": evaluate_tracking(kept_still, videos, "still")}}
    for name in args.models:
        predictor = build(args.checkpoint if name == "nano" else None, args.device)
        results[name] = {
            "pictures": evaluate_pictures(SAM2ImagePredictor(predictor), pictures),
            "clips_click": evaluate_tracking(tracked_by(predictor, "click"), videos, "click"),
            "clips_mask": evaluate_tracking(tracked_by(predictor, "mask"), videos, "mask"),
        }
    report = {
        "checkpoint": args.checkpoint.name,
        "pictures": {**PICTURES, "count": args.pictures, "size": SIZE},
        "clips": {**CLIPS, "count": args.clips, "size": SIZE},
        "machine": machine(args.device),
        "seconds": round(time.perf_counter() - start),
        "results": results,
    }
    print(json.dumps(report, indent=1))
    if args.out is not None:
        write_report(args.out, f"{'-'.join(args.models)}-heldout", **report)


if __name__ == "__main__":
    main()
