"""How good nano or mini, or a checkpoint fine-tuned from one of them, is on images and clips that it has never seen.

    python examples/nano_heldout.py                                 # on synthetic ones
    python examples/nano_heldout.py --media FOLDER                  # made of photographs and cut-outs of one's own
    python examples/nano_heldout.py --checkpoint runs/nano_own_masks/checkpoints/averaged.pt
    python examples/nano_heldout.py --model mini --images 0 --trained-only

nano's card was measured on 300 images and 80 clips of photographs and cut-outs that were set aside before the first
training step, by a hash of their names. Beside the model stand an untrained one, and for clips the first frame's true
mask kept still.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared import centre, measured, tracked
from tqdm import tqdm

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.datasets.clip import Clip
from sam2fast.evaluation.j_and_f import jaccard
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.training.data.synthetic import SyntheticClips
from sam2fast.utils.embedded import EMBEDDED

IMAGES = {"num_frames": 1, "max_objects": 5}
CLIPS = {"num_frames": 12, "max_objects": 3}


def clips(media: Path | None, count: int, seed: int, kind: dict[str, int], size: int) -> list[Clip]:
    dataset = SyntheticClips(size=size, media=media, procedural=0.4, motion=1.0, length=count, seed=seed, **kind)
    return [dataset.sample(i, np.random.default_rng([seed, i])) for i in range(count)]


def on_images(predictor: SAM2ImagePredictor, images: list[Clip]) -> dict[str, Any]:
    """Mean IoU in percent after one click on each object: of the mask with the highest score, and of the best one."""
    chosen, best = [], []
    for clip in tqdm(images, desc="images"):
        predictor.set_image(clip.frames[0])
        for truth in clip.masks[0]:
            masks, scores, _ = predictor.predict(np.array([centre(truth)]), np.array([1]), multimask_output=True)
            ious = [float(jaccard(mask > 0, truth)) for mask in masks]
            chosen.append(ious[int(np.argmax(scores))])
            best.append(max(ious))
    means = {"one_click_miou": chosen, "one_click_miou_best_of_3": best}
    return {"objects": len(chosen), **{name: round(100 * float(np.mean(ious)), 2) for name, ious in means.items()}}


def on_clips(predictor: Any, videos: list[Clip], prompt: str) -> dict[str, float]:
    """J&F, J and F in percent of every object tracked from one ``click``, or from its ``mask``, on the first frame."""
    found = [tracked(predictor, predictor.init_state([*clip.frames]), clip, prompt) for clip in tqdm(videos, prompt)]
    return measured(found, videos)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=Path, help="photographs and cut-outs that were not trained on")
    parser.add_argument("--model", choices=("nano", "mini"), default="nano")
    parser.add_argument("--checkpoint", type=Path, help="default: the model's weights in the package")
    parser.add_argument("--trained-only", action="store_true", help="without the untrained model")
    parser.add_argument("--size", type=int, default=256, help="of the clips, in pixels")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--clips", type=int, default=80)
    parser.add_argument("--seed", type=int, default=9_001, help="of the images; one more is that of the clips")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    embedded = EMBEDDED[f"sam2fast/{args.model}"]
    images = clips(args.media, args.images, args.seed, IMAGES, args.size)
    videos = clips(args.media, args.clips, args.seed + 1, CLIPS, args.size)
    still = (np.repeat(clip.masks[:1], len(clip.masks), axis=0) for clip in videos)
    results: dict[str, Any] = {"still": {"clips": measured(still, videos)}}
    models = {"model": args.checkpoint or embedded.weights} | ({} if args.trained_only else {"untrained": None})
    for name, checkpoint in models.items():
        torch.manual_seed(0)
        predictor = build_sam2_video_predictor(embedded.config, checkpoint, device=args.device)
        results[name] = {"images": on_images(SAM2ImagePredictor(predictor), images)} if images else {}
        results[name] |= {f"clips_{prompt}": on_clips(predictor, videos, prompt) for prompt in ("click", "mask")}
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
