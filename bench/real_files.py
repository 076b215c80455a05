"""Times commands from a video file to masks in files, beside the official package's loop.

    python bench/real_files.py [--device cuda] [--size t]     # results/<year>/calls/real-files-DEVICE-DATE.json

A run of a subject is a process. It imports, builds the model, reads a clip, tracks one object, and writes a PNG mask
for each frame. ``track`` and ``vos`` are sam2fast's commands; ``track`` also fills holes in masks. ``official`` makes
the calls of the official ``tools/vos_inference.py`` for one video: a folder of JPEG files, under bfloat16 autocast on a
GPU. Subjects run alternately. A first run compiles kernels, unless an earlier process compiled them. Without PyAV, only
folders of JPEG files are read.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from clips import write_clip
from PIL import Image
from reports import file_name, write_report
from suite.machine import BENCH, RESULTS, machine

CLIP, FRAMES, RUNS = "1920x1080", 100, 2
SMALL_CLIP, SMALL_FRAMES = "320x192", 4  # of a rehearsal


def rows(size: str, device: str, rehearse: bool = False) -> Iterator[dict[str, Any]]:
    """Yields a row for each run of a subject as the run ends: seconds until the process ended, or an error."""
    from suite.process_cases import checkpoint_of
    from suite.subjects import config_of

    clip, frames, runs, side = (SMALL_CLIP, SMALL_FRAMES, 1, 64) if rehearse else (CLIP, FRAMES, RUNS, 1024)
    codecs = {"jpeg": "folders", **({"h264": "files"} if find_spec("av") else {})}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for codec, name in codecs.items():
            (root / name).mkdir()
            path = write_clip(root / name, codec, clip, frames)
            path.rename(path.with_name(f"clip{path.suffix}"))
        width, height = map(int, clip.split("x"))
        mask = np.zeros((height, width), np.uint8)
        mask[height // 4 : height // 2, width // 4 : width // 2] = 1
        (root / "masks" / "clip").mkdir(parents=True)
        image = Image.fromarray(mask, "P")
        image.putpalette([0, 0, 0, 255, 255, 255])
        image.save(root / "masks" / "clip" / "00000.png")
        model = ["--model", config_of(size), "--checkpoint", checkpoint_of(size, side), "--image-size", str(side)]
        model += ["--device", device]
        ours, box = [sys.executable, "-m", "sam2fast"], f"0,1,{width // 4},{height // 4},{width // 2},{height // 2}"
        job = {"size": size, "side": side, "device": device, "checkpoint": checkpoint_of(size, side)}
        job |= {"video": str(root / "folders" / "clip"), "mask": str(root / "masks" / "clip" / "00000.png")}
        commands = {"official, jpeg": [sys.executable, __file__, "--official", json.dumps(job)]}
        for codec, name in reversed(codecs.items()):
            video = root / name / ("clip.mp4" if codec == "h264" else "clip")
            commands[f"track, {codec}"] = [*ours, "track", str(video), "--box", box, "--format", "png", *model]
            where = ["--videos", str(root / name), "--masks", str(root / "masks")]
            commands[f"vos, {codec}"] = [*ours, "vos", *where, *model]
        for run in range(runs):
            for subject, command in commands.items():
                row = {"subject": subject, "size": size, "image_size": side, "clip": f"{clip}, {frames} frames"}
                yield {**row, "run": run, **_run(command, root / f"{subject} {run}", frames)}


def _run(command: list[str], out: Path, frames: int) -> dict[str, Any]:
    """Runs a command with an output folder. Returns seconds and frames per second, or the reason of a failure."""
    start = time.perf_counter()
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, cwd=BENCH, check=False)
    taken = time.perf_counter() - start
    print(done.stdout, end="", flush=True)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    if (written := len(list(out.rglob("*.png")))) != frames:
        return {"error": f"{written} masks were written; expected {frames}"}
    return {"seconds": taken, "frames per second": frames / taken}


def official(job: dict[str, Any], out: Path) -> None:
    """Tracks one video with the official package, and prints the seconds of each part."""
    import torch
    from suite.subjects import Setting, video_predictor

    marks = [time.perf_counter()]
    setting = Setting(job["size"], "fp32" if job["device"] == "cpu" else "bf16", job["side"], job["device"])
    built = video_predictor("official", setting, job["checkpoint"])
    marks.append(time.perf_counter())
    out.mkdir()
    with torch.inference_mode(), built.context():
        state = built.predictor.init_state(job["video"])
        mask = np.asarray(Image.open(job["mask"])) == 1
        built.predictor.add_new_mask(state, frame_idx=0, obj_id=1, mask=mask)
        marks.append(time.perf_counter())
        for frame, _, logits in built.predictor.propagate_in_video(state):
            found = (logits[0, 0] > 0).cpu().numpy().astype(np.uint8)
            Image.fromarray(found, "P").save(out / f"{frame:05d}.png")
    marks.append(time.perf_counter())
    parts = zip(("load model", "open", "track and write"), pairwise(marks), strict=True)
    print("official:", ", ".join(f"{name} {end - begin:.1f} s" for name, (begin, end) in parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", default="t")
    parser.add_argument("--official", type=json.loads, help=argparse.SUPPRESS)  # one run, in this process
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.official:
        official(args.official, args.out)
        return
    about, found = machine(args.device), []
    for row in rows(args.size, args.device):
        found.append(row)
        print(f"{row['subject']}: {row.get('error') or round(row['frames per second'], 1)}")
    name = f"real-files-{file_name(about['device'])}"
    print(f"written: {write_report(RESULTS / 'calls', name, machine=about, rows=found)}")


if __name__ == "__main__":
    main()
