"""What the examples share: nano, clips from the factory, tracking and its measure, tables and result files."""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[1]))

from clip_tracking import tracked
from reports import write_report
from suite.machine import machine

from sam2fast.evaluation.j_and_f import JAndF, j_and_f
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.training.data.clip import Clip
from sam2fast.training.data.synthetic import SyntheticClips

SEED = 9_100  # of clips that are neither trained on nor in bench/nano_heldout.py


def arguments(description: str | None, clips: int, frames: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=clips, help="how many factory clips (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=frames, help="of each clip (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="of the clips (default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="folder for the JSON file")
    return parser


def nano(device: str) -> Any:
    return SAM2VideoPredictor.from_pretrained("sam2fast/nano", device=device)


def factory_clips(args: argparse.Namespace, size: int = 256, max_objects: int = 2) -> list[Clip]:
    """Drawn clips, the same for the same seed; no media is needed."""
    source = SyntheticClips(size, args.frames, max_objects, length=args.clips, seed=args.seed)
    return [source.sample(i, np.random.default_rng([args.seed, i])) for i in range(args.clips)]


def open_clip(predictor: Any, clip: Clip) -> Any:
    """A session whose features are computed once for all passes over it."""
    state = predictor.init_state([*clip.frames])
    state.features.size = len(clip.frames)
    return state


def measured(found: Iterable[NDArray[np.bool_]], clips: Sequence[Clip]) -> dict[str, float]:
    """J&F, J and F in percent over all objects' frames after the first."""
    pairs = zip(found, clips, strict=True)
    every = JAndF.of_videos([j_and_f(f[1:], c.masks[1:], skip_first_and_last=False) for f, c in pairs])
    return {
        name: round(100 * value, 2) for name, value in (("J&F", every.mean), ("J", every.mean_j), ("F", every.mean_f))
    }


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Text in columns: the first to the left, numbers to the right."""
    cells = [list(header), *([_text(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return "\n".join(_line(row, widths) for row in cells)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = row
    return "  ".join([first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True))])


def _text(cell: Any) -> str:
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)


def finish(name: str, args: argparse.Namespace, start: float, rows: list[dict[str, Any]], **facts: Any) -> None:
    """Writes ``research-NAME-DEVICE-DATE.json`` where that is asked for."""
    print(f"{time.perf_counter() - start:.0f} s, {args.clips} clips of {args.frames} frames, seed {args.seed}")
    if args.out is None:
        return
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    about = {"machine": machine(args.device), "model": "nano", "settings": settings, **facts}
    print(write_report(args.out, f"research-{name}-{args.device.partition(':')[0]}", **about, rows=rows))


def variants(
    predictor: Any, clips: Sequence[Clip], ways: dict[str, dict[str, Any]], prompt: str = "mask"
) -> Iterator[tuple[str, dict[str, float]]]:
    """Name and measure of tracking all clips, with attributes of the predictor set to each way's in turn."""
    found: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in ways}
    for clip in clips:
        state = open_clip(predictor, clip)
        for name, attributes in ways.items():
            for attribute, value in attributes.items():
                setattr(predictor, attribute, value)
            found[name].append(tracked(predictor, state, clip, prompt))
        print(".", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)
    for name, masks in found.items():
        yield name, measured(masks, clips)
