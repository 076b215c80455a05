"""What tracking by an exported model costs beside torch: size, start, memory, time of a frame, and other masks.

    python -m venv alone && alone/bin/pip install numpy pillow onnxruntime
    python examples/onnx_costs.py --python alone/bin/python --exports exports --out onnx.json

The embedded model nano tracks two objects through a synthetic video of a rolling ball. Every run is a process of
its own with one thread; implementations take turns. Times are those of the processor, which other programs disturb
little. Exported models run in the other Python, which needs no torch.
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
import torch
from PIL import Image

from sam2fast import nano
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.demo.rolling_ball import draw_rolling_ball
from sam2fast.deploy.exported.artifact import processor
from sam2fast.deploy.onnx.export import DTYPES, write_onnx
from sam2fast.deploy.onnx.runtime.manifest import read_manifest
from sam2fast.kernels.mask_ops import masks_to_boxes
from sam2fast.utils.testing import mask_iou

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
import json, sys, time
start = time.process_time()
%s
imported = time.process_time()
predictor = make()
loaded = time.process_time()
import numpy as np
state = predictor.init_state(sys.argv[1])
for i, box in enumerate(json.loads(sys.argv[2])):
    predictor.add_new_points_or_box(state, 0, i, box=box)
masks, times, last = [], [], time.process_time()
for _, _, logits in predictor.propagate_in_video(state, **quiet):
    masks.append(np.asarray(logits) > 0)
    times.append(time.process_time() - last)
    last = time.process_time()
np.save(sys.argv[3], np.stack(masks))
status = open("/proc/self/status").read()
peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps({"import_s": imported - start, "load_s": loaded - imported, "peak_mib": peak, "frame_s": times[1:]}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, required=True, help="with numpy, Pillow and onnxruntime")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--exports", type=Path, required=True, help="folder of exported models, which are made if missing"
    )
    parser.add_argument("--out", type=Path, help="for all figures, as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        rows, versions = measure(args, Path(temporary))
    print("| | dtype | MB | import, s | load, s | a frame, ms | peak, MiB | IoU mean | worst |\n|" + "---|" * 9)
    for row in rows:
        times = f"{row['import_s']:.2f} | {row['load_s']:.2f} | {1000 * row['median_s']:.0f} | {row['peak_mib']:.0f}"
        print(f"| {row['way']} | {row['dtype']} | {row['mb']:.1f} | {times} | {row['iou']:.4f} | {row['worst']:.4f} |")
    if args.out:
        facts = {"processor": processor(torch.device("cpu")), "python": platform.python_version()}
        date = datetime.now(timezone.utc).date().isoformat()
        machine = {**facts, "threads": 1, **versions}
        content = {"date": date, "machine": machine, "installed_mb": installed_mb(args.python), "rows": rows}
        args.out.write_text(json.dumps(content, indent=1) + "\n")


def measure(args: argparse.Namespace, folder: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A row for torch and for each dtype, and the versions of the tools."""
    (folder / "frames").mkdir()
    clip = draw_rolling_ball(args.frames)
    boxes = masks_to_boxes(torch.as_tensor(clip.masks)[0, :2]).tolist()
    for i, frame in enumerate(clip.frames):
        Image.fromarray(frame).save(folder / "frames" / f"{i:05}.png")
    model = build_sam2_video_predictor(nano.CONFIG, nano.WEIGHTS, device="cpu")
    rows: list[dict[str, Any]] = [{"way": "torch", "dtype": "float32", "mb": size_mb([Path(nano.WEIGHTS)])}]
    versions = {}
    for dtype in DTYPES:
        exported = args.exports / dtype
        if not exported.exists():
            write_onnx(model, exported, "nano", dtype)
        versions = read_manifest(exported).versions
        rows.append({"way": "onnxruntime", "dtype": dtype, "mb": size_mb(exported.glob("*.onnx"))})
    for _ in range(args.rounds):
        for row in rows:
            run_once(row, args, folder, boxes)
    reference = rows[0]["masks"]
    for row in rows:
        runs, masks = row.pop("runs"), row.pop("masks")
        pairs = zip(reference.reshape(-1, *reference.shape[2:]), masks.reshape(-1, *masks.shape[2:]), strict=True)
        ious = [mask_iou(a, b) for a, b in pairs]
        row |= {"iou": float(np.mean(ious)), "worst": min(ious), "runs": runs}
        row |= {name: statistics.median(run[name] for run in runs) for name in ("import_s", "load_s", "peak_mib")}
        row["median_s"] = statistics.median(t for run in runs for t in run["frame_s"])
    return rows, versions


def run_once(row: dict[str, Any], args: argparse.Namespace, folder: Path, boxes: list[Any]) -> None:
    """Tracks in a process of its own, and adds its figures to the row."""
    exported = row["way"] != "torch"
    program = TRACK % (IMPORT_ONNX if exported else IMPORT_TORCH)
    masks = folder / "masks.npy"
    command = [str(args.python.absolute()) if exported else sys.executable, "-c", program, str(folder / "frames")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    where = args.exports / row["dtype"] if exported else folder
    done = subprocess.run(  # noqa: S603
        [*command, json.dumps(boxes), str(masks)],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    row.setdefault("runs", []).append(json.loads(done.stdout))
    row["masks"] = np.load(masks)


def installed_mb(python: Path) -> dict[str, float]:
    """What the other Python has installed, but for pip and setuptools; and torch alone."""
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    done = subprocess.run([python.absolute(), "-c", where], capture_output=True, text=True, check=True)  # noqa: S603
    folders = [path for path in Path(done.stdout.strip()).iterdir() if not path.name.startswith(("pip", "setuptools"))]
    assert torch.__file__ is not None
    parts = {"without torch": folders, "torch alone": [Path(torch.__file__).parent]}
    return {
        name: sum(size_mb(filter(Path.is_file, path.rglob("*"))) for path in found) for name, found in parts.items()
    }


def size_mb(files: Any) -> float:
    """The files' size together."""
    return sum(file.stat().st_size for file in files) / 1e6


if __name__ == "__main__":
    main()
