"""Times commands from a video file to masks in files, beside the official package's loop.

    python bench/real_files.py [--device cuda] [--size t]     # results/<year>/calls/real-files-DEVICE-DATE.json

A run of a subject is a process. It imports, builds the model, reads a clip, tracks one object, and writes a PNG mask
for each frame. ``track`` and ``vos`` are sam2fast's commands with their default options. ``official`` makes the calls
of the original's ``tools/vos_inference.py`` for one video: a folder of JPEG files, under bfloat16 autocast on a GPU.
Subjects run alternately. A first run compiles kernels, unless an earlier process compiled them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from reading import write_clip
from reports import file_name, write_report
from suite.machine import BENCH, RESULTS, machine

CLIP, FRAMES, RUNS = "1920x1080", 100, 2
SMALL_CLIP, SMALL_FRAMES = "320x192", 4  # of a rehearsal


def rows(size: str, device: str, rehearse: bool = False) -> Iterator[dict[str, Any]]:
    """Yields a row for each subject: seconds of each run until the process ended, and seconds of the last run's parts.

    Raises:
        RuntimeError: If a process fails, or does not write a mask for each frame.
    """
    from suite.process_cases import checkpoint_of
    from suite.subjects import config_of

    clip, frames = (SMALL_CLIP, SMALL_FRAMES) if rehearse else (CLIP, FRAMES)
    side = 64 if rehearse else 1024
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, codec in (("files", "h264"), ("folders", "jpeg")):
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
        ours = [sys.executable, "-m", "sam2fast"]
        mp4, box = str(root / "files" / "clip.mp4"), f"0,1,{width // 4},{height // 4},{width // 2},{height // 2}"
        job = {"size": size, "side": side, "device": device, "checkpoint": checkpoint_of(size, side)}
        job |= {"video": str(root / "folders" / "clip"), "mask": str(root / "masks" / "clip" / "00000.png")}
        commands = {"track, h264": [*ours, "track", mp4, "--box", box, "--format", "png", *model]}
        for name, codec in (("files", "h264"), ("folders", "jpeg")):
            where = ["--videos", str(root / name), "--masks", str(root / "masks")]
            commands[f"vos, {codec}"] = [*ours, "vos", *where, *model]
        commands["official, jpeg"] = [sys.executable, __file__, "--official", json.dumps(job)]
        seconds: dict[str, list[float]] = {subject: [] for subject in commands}
        for run in range(1 if rehearse else RUNS):
            for subject, command in commands.items():
                out = root / f"{subject} {run}"
                seconds[subject].append(_seconds(command, out, frames))
        for subject, each in seconds.items():
            row = {"subject": subject, "size": size, "image_size": side, "clip": f"{clip}, {frames} frames"}
            yield {**row, "seconds": each, "frames per second": frames / min(each)}


def _seconds(command: list[str], out: Path, frames: int) -> float:
    """Runs a command with an output folder, and returns the seconds until its process ended."""
    start = time.perf_counter()
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, cwd=BENCH, check=False)
    taken = time.perf_counter() - start
    print(done.stdout, end="", flush=True)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command[1:4])} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
        )
    if (written := len(list(out.rglob("*.png")))) != frames:
        raise RuntimeError(f"{' '.join(command[1:4])} wrote {written} masks; expected {frames}")
    return taken


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
        print(f"{row['subject']}: {row['frames per second']:.1f} frames/s")
    name = f"real-files-{file_name(about['device'])}"
    print(f"written: {write_report(RESULTS / 'calls', name, machine=about, rows=found)}")


if __name__ == "__main__":
    main()
