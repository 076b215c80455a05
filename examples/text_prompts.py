"""Masks and tracks of what a text names: a zero-shot detector of transformers finds boxes, SAM 2 does the rest.

``python examples/text_prompts.py photo.jpg "a mug" "a ball"``, or with a video; see docs/text_prompts.md.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam2fast import SAM2VideoPredictor
from sam2fast.io.images import VIDEO_SUFFIXES
from sam2fast.io.overlay import draw_overlay
from sam2fast.video_io import read_frames

Detector = Callable[[Image.Image], tuple[Any, Any, Any]]  # boxes (N, 4) XYXY in pixels, N labels, N scores


def find_boxes(pipeline: Any, texts: list[str], least: float, image: Image.Image) -> tuple[Any, Any, Any]:
    """Finds what the texts name, by a pipeline ``zero-shot-object-detection`` of transformers."""
    found = pipeline(image, candidate_labels=texts, threshold=least)
    boxes = [[one["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")] for one in found]
    return np.reshape(boxes, (-1, 4)), [one["label"] for one in found], [one["score"] for one in found]


def tracks(predictor: SAM2VideoPredictor, source: Any, detect: Detector, every: int = 10) -> Iterator[tuple[Any, ...]]:
    """Of each frame its pixels ``(H, W, 3)``, the masks ``(N, H, W)`` bool, ids and labels of its objects."""
    with read_frames(source, predictor.image_size) as video, predictor.open_stream() as stream:
        for frame in video:
            result = stream.step(frame)
            if frame.index % every == 0:
                result = stream.add_detections(*detect(Image.fromarray(frame.rgb)), start_score=0).result
            masks = (result.masks[:, 0] > 0).cpu().numpy()
            yield frame.rgb, masks, result.obj_ids, [stream.labels[obj_id] for obj_id in result.obj_ids]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--detector", default="IDEA-Research/grounding-dino-tiny")
    parser.add_argument("--least", type=float, default=0.3, help="score of a box")
    parser.add_argument("--model", default="sam2fast/mini")
    args = parser.parse_args()
    from transformers import pipeline

    detect = partial(find_boxes, pipeline("zero-shot-object-detection", args.detector), args.texts, args.least)
    source = args.source if args.source.suffix in VIDEO_SUFFIXES else [args.source]
    predictor = SAM2VideoPredictor.from_pretrained(args.model)
    for t, (rgb, masks, ids, labels) in enumerate(tracks(predictor, source, detect)):
        print(t, dict(zip(ids, labels, strict=True)))
        draw_overlay(rgb, masks).save(f"{t:05}.jpg")


if __name__ == "__main__":
    main()
