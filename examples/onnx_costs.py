"""What tracking by an exported model costs beside torch: size, start, memory, time of a frame, and other masks.

    python -m venv alone && alone/bin/pip install numpy pillow onnxruntime
    python examples/onnx_costs.py --python alone/bin/python --out onnx.json

The embedded model nano tracks three objects through the synthetic video of `sam2fast demo`. Every run is a process of
its own with one thread; implementations take turns. Exported models run in the other Python, which needs no torch.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam2fast import nano
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.demo.rolling_ball import draw_rolling_ball
from sam2fast.deploy.onnx.export import DTYPES, write_onnx
from sam2fast.utils.testing import mask_iou

BOXES = [[50, 150, 150, 250], [180, 90, 300, 270], [60, 170, 160, 260]]
IMPORT_TORCH = """
import torch
from sam2fast import SAM2VideoPredictor
make = lambda: SAM2VideoPredictor.from_pretrained("sam2fast/nano", device="cpu")
quiet = {"progress": False}
"""
IMPORT_ONNX = """
import onnxruntime
from tracker import OnnxVideoPredictor, load_model
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
make = lambda: OnnxVideoPredictor(load_model(".", session_options=options))
quiet = {}
"""
TRACK = """
import json, resource, sys, time
start = time.perf_counter()
%s
imported = time.perf_counter()
predictor = make()
loaded = time.perf_counter()
import numpy as np
state = predictor.init_state(sys.argv[1])
for i, box in enumerate(json.loads(sys.argv[2])):
    predictor.add_new_points_or_box(state, 0, i, box=box)
masks, times, last = [], [], time.perf_counter()
for _, _, logits in predictor.propagate_in_video(state, **quiet):
    masks.append(np.asarray(logits) > 0)
    times.append(time.perf_counter() - last)
    last = time.perf_counter()
np.save(sys.argv[3], np.stack(masks))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"import_s": imported - start, "load_s": loaded - imported, "peak_mib": peak, "frame_s": times[1:]}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, required=True, help="with numpy, Pillow and onnxruntime")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="for all figures, as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        rows, versions = measure(args, Path(temporary))
    print("| | dtype | MB | import, s | load, s | a frame, ms | peak, MiB | IoU mean | worst |\n|" + "---|" * 9)
    for row in rows:
        times = f"{row['import_s']:.2f} | {row['load_s']:.2f} | {1000 * row['median_s']:.0f} | {row['peak_mib']:.0f}"
        print(f"| {row['way']} | {row['dtype']} | {row['mb']:.1f} | {times} | {row['iou']:.4f} | {row['worst']:.4f} |")
    if args.out:
        facts = {"processor": platform.processor() or platform.machine(), "python": platform.python_version()}
        date = datetime.now(timezone.utc).date().isoformat()
        content = {"date": date, "machine": {**facts, "threads": 1, **versions}, "rows": rows}
        args.out.write_text(json.dumps(content, indent=1) + "\n")


def measure(args: argparse.Namespace, folder: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A row for torch and for each dtype, and the versions of the tools."""
    (folder / "frames").mkdir()
    for i, frame in enumerate(draw_rolling_ball(args.frames).frames):
        Image.fromarray(frame).save(folder / "frames" / f"{i:05}.png")
    model = build_sam2_video_predictor(nano.CONFIG, nano.WEIGHTS, device="cpu")
    rows: list[dict[str, Any]] = [{"way": "torch", "dtype": "float32", "mb": size_mb([Path(nano.WEIGHTS)])}]
    versions = {}
    for dtype in DTYPES:
        versions = write_onnx(model, folder / dtype, "nano", dtype).versions
        rows.append({"way": "onnxruntime", "dtype": dtype, "mb": size_mb((folder / dtype).glob("*.onnx"))})
    for _ in range(args.rounds):
        for row in rows:
            run_once(row, folder, args.python)
    reference = rows[0]["masks"]
    for row in rows:
        runs, masks = row.pop("runs"), row.pop("masks")
        pairs = zip(reference.reshape(-1, *reference.shape[2:]), masks.reshape(-1, *masks.shape[2:]), strict=True)
        ious = [mask_iou(a, b) for a, b in pairs]
        row |= {"iou": float(np.mean(ious)), "worst": min(ious), "runs": runs}
        row |= {name: statistics.median(run[name] for run in runs) for name in ("import_s", "load_s", "peak_mib")}
        row["median_s"] = statistics.median(t for run in runs for t in run["frame_s"])
    return rows, versions


def run_once(row: dict[str, Any], folder: Path, python: Path) -> None:
    """Tracks in a process of its own, and adds its figures to the row."""
    exported = row["way"] != "torch"
    program = TRACK % (IMPORT_ONNX if exported else IMPORT_TORCH)
    masks = folder / "masks.npy"
    command = [str(python.absolute()) if exported else sys.executable, "-c", program, str(folder / "frames")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    where = folder / row["dtype"] if exported else folder
    done = subprocess.run(  # noqa: S603
        [*command, json.dumps(BOXES), str(masks)],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    row.setdefault("runs", []).append(json.loads(done.stdout))
    row["masks"] = np.load(masks)


def size_mb(files: Any) -> float:
    """The files' size together."""
    return sum(file.stat().st_size for file in files) / 1e6


if __name__ == "__main__":
    main()
