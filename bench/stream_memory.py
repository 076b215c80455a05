"""Memory of the process while a stream is tracked, and beside it while the same frames are a video.

    python bench/stream_memory.py --frames 3000 --objects 4 --out bench/results

The embedded model tracks discs that are drawn as they are asked for. Memory is what the system says is resident, after
every hundredth frame; of the video it is measured for fewer frames, in a process of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from reports import write_report
from side_by_side import machine

from sam2fast.sam2_video_predictor import SAM2VideoPredictor

HEIGHT, WIDTH = 240, 320
EVERY = 100
OFFLINE_FRAMES = 600


class Discs(Sequence[NDArray[np.uint8]]):
    """A film without end of discs that circle over a texture; frames are drawn when asked for."""

    def __init__(self, frames: int, objects: int) -> None:
        self._frames, self._objects = frames, objects
        self._y, self._x = np.mgrid[0:HEIGHT, 0:WIDTH]
        waves = (np.sin(self._x / 9 + self._y / 7), np.cos(self._x / 5 - self._y / 11), np.sin(self._y / 6))
        self._background = (np.stack(waves, axis=-1) * 50 + 120).astype(np.uint8)

    def __len__(self) -> int:
        return self._frames

    def __getitem__(self, index: Any) -> Any:
        if index >= self._frames:
            raise IndexError(index)
        picture = self._background.copy()
        for i in range(self._objects):
            x, y = self.centre(i, index)
            colour = np.array([(i * 97) % 256, (i * 53 + 120) % 256, 250 - (i * 61) % 256])
            picture[(self._y - y) ** 2 + (self._x - x) ** 2 < 20**2] = colour
        return picture

    def centre(self, number: int, frame: int) -> tuple[float, float]:
        angle = frame / 40 + 2 * np.pi * number / self._objects
        return WIDTH / 2 + 90 * np.cos(angle), HEIGHT / 2 + 70 * np.sin(angle)


def resident_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def watch(steps: Sequence[int], go: Callable[[int], None]) -> dict[str, Any]:
    """Calls ``go`` with every frame; resident memory after every hundredth, and frames per second."""
    memory, start = {}, time.perf_counter()
    for t in steps:
        go(t)
        if (t + 1) % EVERY == 0:
            memory[t + 1] = round(resident_mib(), 1)
    return {"frames_per_s": round(len(steps) / (time.perf_counter() - start), 2), "resident_mib": memory}


def stream(predictor: SAM2VideoPredictor, film: Discs, objects: int) -> dict[str, Any]:
    with predictor.open_stream() as opened:

        def go(t: int) -> None:
            opened.step(film[t])
            if t == 0:
                for i in range(objects):
                    opened.add_new_points_or_box(i, [film.centre(i, 0)], [1])

        found = watch(range(len(film)), go)
        with tempfile.TemporaryDirectory() as folder:
            opened.save(Path(folder) / "state")
            return {**found, "saved_mib": round((Path(folder) / "state").stat().st_size / 2**20, 2)}


def video(predictor: SAM2VideoPredictor, film: Discs, objects: int) -> dict[str, Any]:
    state = predictor.init_state(film)
    for i in range(objects):
        predictor.add_new_points_or_box(state, 0, i, [film.centre(i, 0)], [1])
    passes = predictor.propagate_in_video(state, progress=False)

    def go(t: int) -> None:
        next(passes)

    found = watch(range(len(film)), go)
    with tempfile.TemporaryDirectory() as folder:
        predictor.save_state(state, Path(folder) / "state")
        return {**found, "saved_mib": round((Path(folder) / "state").stat().st_size / 2**20, 2)}


WAYS = {"stream": stream, "video": video}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=3000)
    parser.add_argument("--objects", type=int, default=4)
    parser.add_argument("--model", default="sam2fast/nano")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        predictor = SAM2VideoPredictor.from_pretrained(arguments.model, device="cpu")
        film = Discs(arguments.frames, arguments.objects)
        print(json.dumps(WAYS[arguments.only](predictor, film, arguments.objects)))
        return
    report: dict[str, Any] = {
        "machine": machine(), "model": arguments.model, "objects": arguments.objects,
        "frame": [HEIGHT, WIDTH],
    }  # fmt: skip
    for way, frames in (("stream", arguments.frames), ("video", min(arguments.frames, OFFLINE_FRAMES))):
        command = [sys.executable, __file__, "--only", way, "--frames", str(frames), "--model", arguments.model]
        done = subprocess.run([*command, "--objects", str(arguments.objects)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        report[way] = json.loads(done.stdout.splitlines()[-1])
        memory, saved = list(report[way]["resident_mib"].values()), report[way]["saved_mib"]
        print(
            f"{way}: {frames} frames at {report[way]['frames_per_s']} per second; resident after {EVERY} "
            f"{memory[0]} MiB, at most then {max(memory)}, at the end {memory[-1]}; saved {saved} MiB"
        )
    if arguments.out:
        write_report(arguments.out, "stream-memory-cpu", **report)


if __name__ == "__main__":
    main()
