"""Tracks two objects through a video end to end, and prints where the time goes.

    python bench/track_video.py FOLDER_OR_VIDEO --weights image_weights.pt

Weights are drawn (``tests/support/tame_weights.py``); ``--weights`` replaces those that the file has, such as the image
weights of a checkpoint without memory. It shows that tracking runs and what it costs, not how good the masks are.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import tame_weights

from sam2fast.build_sam import build_sam2_video_predictor, cast_weights
from sam2fast.checkpoints import read_checkpoint


def build(config: str, weights: Path | None, dtype: torch.dtype, image_size: int) -> Any:
    """The predictor on the CPU with drawn weights, overwritten by those of a file."""
    predictor = build_sam2_video_predictor(
        config, None, device="cpu", hydra_overrides_extra=[f"++model.image_size={image_size}"]
    )
    tame_weights.fill(predictor, seed=0)
    if weights is not None:
        given = {name: x.float() for name, x in read_checkpoint(weights).items()}
        unknown = predictor.load_state_dict(given, strict=False).unexpected_keys
        if unknown:
            raise SystemExit(f"{weights} has weights that {config} does not have: {', '.join(unknown)}")
        print(f"{len(given)} of {len(predictor.state_dict())} tensors from {weights.name}")
    return cast_weights(predictor, None if dtype == torch.float32 else dtype)


def track(predictor: Any, video: Path, frames: int | None) -> dict[str, Any]:
    """Seconds of opening, prompting, and each frame; the share of the picture that the masks cover."""
    start = time.perf_counter()
    state = predictor.init_state(video)
    opened = time.perf_counter()
    height, width = state.video_size
    predictor.add_new_points_or_box(state, 0, "point", [[width * 0.22, height * 0.65]], [1])
    predictor.add_new_points_or_box(state, 0, "box", box=[width * 0.3, 0, width * 0.55, height * 0.75])
    prompted = time.perf_counter()
    seconds, covered = [], []
    last = prompted
    for _, _, masks in predictor.propagate_in_video(state, max_frame_num_to_track=frames, progress=False):
        assert masks.isfinite().all()
        now = time.perf_counter()
        seconds.append(now - last)
        covered.append([round(float((m > 0).float().mean()), 3) for m in masks])
        last = now
    return {
        "frames": len(seconds),
        "open_s": round(opened - start, 2),
        "prompt_s": round(prompted - opened, 2),
        "median_frame_s": round(statistics.median(seconds), 3),
        "total_s": round(last - start, 1),
        "covered": {"first": covered[0], "last": covered[-1]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--config", default="configs/sam2/sam2_hiera_t.yaml")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--dtype", default="bf16", choices=["fp32", "bf16"])
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--frames", type=int, help="how many frames to track; by default all")
    arguments = parser.parse_args()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[arguments.dtype]
    predictor = build(arguments.config, arguments.weights, dtype, arguments.image_size)
    print(json.dumps(track(predictor, arguments.video, arguments.frames)))


if __name__ == "__main__":
    main()
