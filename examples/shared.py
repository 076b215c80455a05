"""What the examples share: nano, synthetic clips, tracking and its measure, and tables."""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sam2fast.datasets.clip import Clip
from sam2fast.evaluation.j_and_f import JAndF, j_and_f
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.tracking.strategies import Strategy
from sam2fast.training.data.synthetic import SyntheticClips
from sam2fast.training.prompt_sampling import sample_error_center

Masks = NDArray[np.bool_]
SEED = 9_100  # of clips that are neither trained on nor in nano_heldout.py


def arguments(description: str | None, clips: int, frames: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=clips, help="how many synthetic clips (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=frames, help="of each clip (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="of the clips (default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="a JSON file for the rows")
    return parser


def nano(device: str) -> Any:
    return packaged("nano", device)


def packaged(name: str, device: str) -> Any:
    """A model of the package, nano or mini."""
    return SAM2VideoPredictor.from_pretrained(f"sam2fast/{name}", device=device)


def synthetic_clips(args: argparse.Namespace, size: int = 256, max_objects: int = 2, motion: float = 1.0) -> list[Clip]:
    """The same for the same seed; no media is needed."""
    source = SyntheticClips(size, args.frames, max_objects, length=args.clips, motion=motion, seed=args.seed)
    return [source.sample(i, np.random.default_rng([args.seed, i])) for i in range(args.clips)]


def open_clip(predictor: Any, clip: Clip) -> Any:
    """A session whose features are computed once for all passes over it."""
    state = predictor.init_state([*clip.frames])
    state.features.size = len(clip.frames)
    return state


def centre(mask: Masks) -> tuple[float, float]:
    """The click a user would make: the point of the mask that is farthest from its outline."""
    click = sample_error_center(torch.from_numpy(mask)[None, None], None)
    x, y = click["point_coords"][0, 0].tolist()
    return x, y


def tracked(predictor: Any, state: Any, clip: Clip, prompt: str = "mask") -> Masks:
    """Masks ``(T, O, H, W)`` of the clip's objects from their true ``mask``, or a ``click``, on the first frame."""
    predictor.reset_state(state)
    for o, truth in enumerate(clip.masks[0]):
        if prompt == "mask":
            predictor.add_new_mask(state, 0, o, truth)
        else:
            predictor.add_new_points_or_box(state, 0, o, points=[centre(truth)], labels=[1])
    found = np.zeros_like(clip.masks)
    for frame, _, logits in predictor.propagate_in_video(state, progress=False):
        found[frame] = (logits[:, 0] > 0).cpu().numpy()
    return found


def measured(found: Iterable[Masks], clips: Sequence[Clip]) -> dict[str, float]:
    """J&F, J and F in percent over all objects' frames after the first."""
    pairs = zip(found, clips, strict=True)
    every = JAndF.of_videos([j_and_f(f[1:], c.masks[1:], skip_first_and_last=False) for f, c in pairs])
    return {
        name: round(100 * value, 2) for name, value in (("J&F", every.mean), ("J", every.mean_j), ("F", every.mean_f))
    }


def tracked_by(
    predictor: Any, clips: Sequence[Clip], strategies: Mapping[str, Strategy], prompt: str = "mask"
) -> dict[str, list[Masks]]:
    """The masks of all clips with each strategy, by its name."""
    found: dict[str, list[Masks]] = {name: [] for name in strategies}
    for clip in clips:
        features = open_clip(predictor, clip).features
        for name, strategy in strategies.items():
            state = predictor.init_state([*clip.frames], strategy=strategy)
            state.features = features
            found[name].append(tracked(predictor, state, clip, prompt))
        print(".", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)
    return found


def variants(
    predictor: Any, clips: Sequence[Clip], strategies: Mapping[str, Strategy], prompt: str = "mask"
) -> Iterator[tuple[str, dict[str, float]]]:
    """Name and measure of tracking all clips with each strategy."""
    for name, masks in tracked_by(predictor, clips, strategies, prompt).items():
        yield name, measured(masks, clips)


def finish(args: argparse.Namespace, start: float, rows: list[dict[str, Any]]) -> None:
    """Prints the rows in columns, and writes them where ``--out`` asks for it."""
    cells = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *others in cells:
        print(first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True)), sep="  ")
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    print(f"{time.perf_counter() - start:.0f} s, {settings}")
    if args.out is not None:
        args.out.write_text(
            json.dumps({"model": settings.pop("model", "nano"), "settings": settings, "rows": rows}, indent=1) + "\n"
        )


def _text(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
