"""HOTA and IDF1 of detections in a stream: nano or mini on synthetic crowds of look-alikes, with a detector that errs.

    pip install --no-deps trackeval                        # the measures; the rest of what it asks for is not needed
    python examples/crowd_detections.py                    # 50 crowds; boxes on each, each fifth and each tenth frame
    python examples/crowd_detections.py --every 5 --strategy sam2 dam4sam

The boxes are those of the visible parts, each edge moved by about a thirtieth of the side; one in ten is missing. They
are tracked by ``add_detections`` of a stream, or without masks, by linking each box with the last one that it overlaps.
As usual for trackers, an object counts from a frame on which it had a box to the next frame with boxes. Without masks
its box stays where it was.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from shared import finish
from strategy_clips import COUNT, strategy_clip

from sam2fast.datasets.clip import Clip
from sam2fast.kernels.mask_ops import masks_to_boxes
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.tracking.detections import box_ious, match_boxes
from sam2fast.tracking.strategies import STRATEGIES

Boxes = dict[Any, NDArray[Any]]  # (4) XYXY by id, on one frame
MISSED, JITTER, SMALLEST = 0.1, 0.03, 20  # share of boxes, of a side; pixels of an object that is found
MIN_IOU, MAX_UNSEEN = 0.3, 10
MEASURES = ("HOTA", "DetA", "AssA", "IDF1")


def boxes_of(masks: NDArray[np.bool_], ids: Sequence[Any], smallest: int = 1) -> Boxes:
    """The boxes of masks ``(N, H, W)`` with at least so many pixels."""
    around = masks_to_boxes(torch.from_numpy(masks)).double().numpy() + np.array([0, 0, 1, 1])
    areas = masks.sum((1, 2))
    return {obj_id: box for obj_id, box, area in zip(ids, around, areas, strict=True) if area >= smallest}


def detections(clip: Clip, index: int) -> list[NDArray[np.float64]]:
    """What a detector finds on each frame, ``(N, 4)`` in random order; the same for the same clip."""
    rng, found = np.random.default_rng([9, index]), []
    for masks in clip.masks:
        boxes = np.array([*boxes_of(masks, clip.object_ids, SMALLEST).values()]).reshape(-1, 4)
        sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        boxes = boxes + rng.normal(0, JITTER, boxes.shape) * sides
        found.append(rng.permutation(boxes[rng.random(len(boxes)) >= MISSED]))
    return found


def streamed(predictor: Any, clip: Clip, found: Sequence[NDArray[np.float64]], every: int) -> list[Boxes]:
    """The boxes of the masks of a stream that gets boxes on each ``every``-th frame, of objects that had one then."""
    tracked, shown = [], set()
    with predictor.open_stream() as stream:
        for t, frame in enumerate(clip.frames):
            result = stream.step(frame)
            if t % every == 0:
                ids, result = stream.add_detections(found[t], min_iou=MIN_IOU, max_unseen=MAX_UNSEEN)
                shown = set(ids)
            boxes = boxes_of((result.masks[:, 0] > 0).cpu().numpy(), result.obj_ids)
            tracked.append({obj_id: box for obj_id, box in boxes.items() if obj_id in shown})
    return tracked


def linked(found: Sequence[NDArray[np.float64]], every: int) -> list[Boxes]:
    """The same without masks: a box continues the last one of an object if they overlap."""
    last: Boxes = {}
    seen: dict[Any, int] = {}
    tracked = []
    for t, boxes in enumerate(found):
        if t % every == 0:
            ids = list(last)
            before = np.array([*last.values()]).reshape(-1, 4)
            matched = match_boxes(boxes, before, np.ones((len(boxes), len(before)), dtype=bool), MIN_IOU)
            for row, box in enumerate(boxes):
                obj_id = ids[matched[row]] if row in matched else len(seen) + 1
                last[obj_id], seen[obj_id] = box, t
            last = {obj_id: box for obj_id, box in last.items() if t - seen[obj_id] < MAX_UNSEEN}
        tracked.append({obj_id: box for obj_id, box in last.items() if t - seen[obj_id] < every})
    return tracked


def for_trackeval(
    truth: Sequence[Boxes], tracked: Sequence[Boxes], ious: Callable[..., Any] = box_ious, width: int = 4
) -> dict[str, Any]:
    """Returns one clip as TrackEval's measures take it: ids from 0, and the IoUs of all boxes of a frame.

    Args:
        ious: Function of boxes ``(N, width)`` and ``(M, width)``. It may also compare flat masks.
    """
    data: dict[str, Any] = {"num_timesteps": len(truth), "similarity_scores": []}
    for name, frames in (("gt", truth), ("tracker", tracked)):
        numbers = {obj_id: i for i, obj_id in enumerate(dict.fromkeys(obj_id for boxes in frames for obj_id in boxes))}
        data[f"{name}_ids"] = [np.array([numbers[obj_id] for obj_id in boxes], dtype=int) for boxes in frames]
        data[f"num_{name}_ids"], data[f"num_{name}_dets"] = len(numbers), sum(map(len, frames))
    for pair in zip(truth, tracked, strict=True):
        one, other = (np.array([*boxes.values()]).reshape(-1, width) for boxes in pair)
        data["similarity_scores"].append(ious(one, other))
    return data


def measured(clips: Mapping[str, dict[str, Any]]) -> dict[str, float]:
    """HOTA, with its parts for detection and association, and IDF1 of all clips together, in percent."""
    from trackeval.metrics.hota import HOTA
    from trackeval.metrics.identity import Identity

    hota, identity = HOTA(), Identity({"PRINT_CONFIG": False})
    every = {
        **hota.combine_sequences({name: hota.eval_sequence(data) for name, data in clips.items()}),
        **identity.combine_sequences({name: identity.eval_sequence(data) for name, data in clips.items()}),
    }
    return {name: round(100 * float(np.mean(every[name])), 2) for name in MEASURES}


def row_of(predictor: Any, clips: Sequence[Clip], every: int, strategy: str | None) -> dict[str, Any]:
    """The measures of one way to track all clips, how many ids each had, and processor time per frame."""
    begun, data, ids = time.process_time(), {}, 0
    for index, clip in enumerate(clips):
        found = detections(clip, index)
        if strategy is None:
            tracked = linked(found, every)
        else:
            predictor.strategy = strategy
            with torch.inference_mode():
                tracked = streamed(predictor, clip, found, every)
        truth = [boxes_of(masks, clip.object_ids) for masks in clip.masks]
        data[clip.name] = for_trackeval(truth, tracked)
        ids += data[clip.name]["num_tracker_ids"]
        print(".", end="", flush=True, file=sys.stderr)
    milliseconds = 1000 * (time.process_time() - begun) / sum(len(clip.frames) for clip in clips)
    named = {"every": every, "tracked by": "boxes alone" if strategy is None else strategy}
    return {**named, **measured(data), "ids": round(ids / len(clips), 2), "ms": milliseconds}


def main(options: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=COUNT, help="how many crowds (default: %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="side of the frames (default: %(default)s)")
    parser.add_argument("--model", choices=("nano", "mini"), default="nano")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--every", type=int, nargs="+", default=[1, 5, 10], help="boxes are on each N-th frame")
    parser.add_argument("--strategy", nargs="+", choices=STRATEGIES, default=["sam2"])
    parser.add_argument("--out", type=Path, help="a JSON file for the rows")
    args, start = parser.parse_args(options), time.perf_counter()
    predictor = SAM2VideoPredictor.from_pretrained(f"sam2fast/{args.model}", device=args.device)
    clips = [strategy_clip("crowd", index, args.size) for index in range(args.clips)]
    strategies = [None, *args.strategy]
    rows = [row_of(predictor, clips, every, strategy) for every in args.every for strategy in strategies]
    true_ids = sum(len(clip.object_ids) for clip in clips) / len(clips)
    print(f"\n{true_ids:.2f} objects a clip")
    finish(args, start, rows)


if __name__ == "__main__":
    main()
