"""Measures how exports to ONNX differ from their float32 export: masks, size and time.

    python bench/onnx_precision.py EXPORTS --photographs PHOTOS --frames FRAMES --out precision.json

EXPORTS has folders MODEL-float32, MODEL-float16 and MODEL-int8 of ``sam2fast export --format onnx``. All exports of a
model run alternately in one process on one thread. Times are processor time.

- Photographs: three clicks each on ``--count`` photographs, drawn with ``--seed``. Clicks are uniform in the inner 80%
  of each side. For each click, the mask with the highest predicted IoU of float32 is compared with the export's mask
  of the same index.
- Video: two objects with a click each on the first of ``--length`` frames. Each object's masks are compared.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from PIL import Image

from sam2fast.deploy.exported.artifact import processor
from sam2fast.deploy.onnx import OnnxImagePredictor, OnnxVideoPredictor, load_model
from sam2fast.utils.testing import mask_iou

CLICKS = 3  # clicks on a photograph
OBJECTS = ((210, 350), (400, 150))  # clicks on the two children of SAM 2's example video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exports", type=Path)
    parser.add_argument("--photographs", type=Path, required=True, help="folder, searched with its subfolders")
    parser.add_argument("--frames", type=Path, required=True, help="folder of SAM 2's example video as JPEG files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--length", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    photographs = sorted(args.photographs.rglob("*.jpg"))
    drawn = np.random.default_rng(args.seed).choice(len(photographs), args.count, replace=False)
    files = [photographs[i] for i in drawn]
    frames = [Image.open(file).convert("RGB") for file in sorted(args.frames.glob("*.jpg"))[: args.length]]
    rows = []
    for plain in sorted(args.exports.glob("*-float32")):
        model = plain.name.removesuffix("-float32")
        folders = [plain, *sorted(args.exports.glob(f"{model}-*int8*")), *args.exports.glob(f"{model}-float16")]
        rows += measure(folders, files, frames, args.seed)
        for row in rows[-len(folders) :]:
            print(*(f"{key} {value}" for key, value in row.items()), sep=", ", flush=True)
    facts = {"processor": processor(torch.device("cpu")), "threads": 1, "onnxruntime": onnxruntime.__version__}
    content = {"date": datetime.now(timezone.utc).date().isoformat(), "machine": facts}
    content |= {"seed": args.seed, "photographs": [file.name for file in files], "rows": rows}
    args.out.write_text(json.dumps(content, indent=1) + "\n")


def measure(folders: list[Path], files: list[Path], frames: list[Any], seed: int) -> list[dict[str, Any]]:
    """Returns a row for each export. The first export is float32."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    models = {folder.name: load_model(folder, session_options=options) for folder in folders}
    images = {name: OnnxImagePredictor(model) for name, model in models.items()}
    generator = np.random.default_rng(seed)
    times: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in models}
    ious: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in models}
    for file in files:
        pixels = np.asarray(Image.open(file).convert("RGB"))
        places = generator.uniform(0.1, 0.9, (CLICKS, 1, 2))
        expected = None
        for name, predictor in images.items():
            start = time.process_time()
            predictor.set_image(pixels)
            encoded = time.process_time()
            masks, scores, _ = predictor.predict(places, np.ones((CLICKS, 1), np.int32), normalize_coords=False)
            times[name]["encode_s"].append(encoded - start)
            times[name]["clicks_s"].append(time.process_time() - encoded)
            expected = expected or (masks, scores.argmax(1))
            ious[name]["photographs"] += [
                mask_iou(a[i], b[i]) for a, b, i in zip(expected[0], masks, expected[1], strict=True)
            ]
    videos: dict[str, Any] = {}
    for name, model in models.items():
        predictor = OnnxVideoPredictor(model)
        state = predictor.init_state(frames)
        for i, point in enumerate(OBJECTS):
            predictor.add_new_points_or_box(state, 0, i, [point], [1])
        videos[name] = predictor.propagate_in_video(state)
    for _ in frames:
        expected = None
        for name, steps in videos.items():
            start = time.process_time()
            masks = next(steps)[2]
            times[name]["frame_s"].append(time.process_time() - start)
            expected = masks if expected is None else expected
            ious[name]["video"] += [mask_iou(a, b) for a, b in zip(expected, masks, strict=True)]
    rows = []
    for folder in folders:
        name = folder.name
        row: dict[str, Any] = {"export": name, "mb": sum(file.stat().st_size for file in folder.glob("*.onnx")) / 1e6}
        for kind, values in ious[name].items():
            row |= {f"{kind}_iou": float(np.mean(values)), f"{kind}_worst": min(values)}
        times[name]["frame_s"] = times[name]["frame_s"][1:]  # the first frame was encoded before
        rows.append(row | {key: statistics.median(values) for key, values in times[name].items()})
    return rows


if __name__ == "__main__":
    main()
