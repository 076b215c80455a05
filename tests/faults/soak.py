"""A stream of tens of thousands of frames with objects that come and go: are memory, latency and answers flat?

    python tests/faults/soak.py --frames 50000 --out bench/results/YEAR/robustness

The embedded model, at a small input size so that many frames take little time, tracks discs. The video and what is done
to it repeat every 500 frames, with new object ids each time, so that every period has the same work; since a
stream looks back no further than 16 frames, it must have the same answers too, bit for bit. The exit code is 1 where
anything is not flat, which is then said.
"""

import argparse
import gc
import hashlib
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.tracking.stream import VideoStream

HEIGHT, WIDTH = 240, 320
PERIOD, BLOCK = 500, 1000  # frames until the video begins again, and frames that are measured together
# Fiftieth of a period -> what is done on its first frame: (verb, which disc).
ACTS: dict[int, list[tuple[str, int]]] = {
    2: [("add", 0)],
    12: [("add", 1)],
    20: [("remove", 0)],
    26: [("add", 2), ("correct", 1)],
    35: [("remove", 1)],
    42: [("remove", 2)],
}
FIFTIETHS, DISCS = 50, 3
# From the second block to the last: the first also fills caches. A processor that others use too is not always as fast,
# and what 99 % are below is more of chance than what half are below.
MOST_GROWTH_MIB = 4.0
MOST_RATIOS = {"processor_p50_ms": 1.25, "processor_p99_ms": 2.0}


class Soak:
    """A newly opened stream, and its measurements in blocks of frames, which are multiples of the video's period."""

    def __init__(self, stream: VideoStream, period: int = PERIOD, block: int = BLOCK) -> None:
        self.stream, self.period, self.block = stream, period, block
        y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
        waves = (np.sin(x / 9 + y / 7), np.cos(x / 5 - y / 11), np.sin(y / 6))
        texture = (np.stack(waves, axis=-1) * 50 + 120).astype(np.uint8)
        self.images: list[NDArray[np.uint8]] = [np.copy(texture) for _ in range(period)]
        for t, image in enumerate(self.images):
            for i in range(DISCS):
                cx, cy = self.centre(i, t)
                image[(y - cy) ** 2 + (x - cx) ** 2 < 20**2] = ((i * 97) % 256, (i * 53 + 120) % 256, 250 - i * 61)
        self.blocks: list[dict[str, Any]] = []
        self.answers: list[str] = []  # a digest of each period's masks

    def centre(self, disc: int, frame: int) -> tuple[float, float]:
        angle = frame / 40 + 2 * np.pi * disc / DISCS
        return WIDTH / 2 + 90 * np.cos(angle), HEIGHT / 2 + 70 * np.sin(angle)

    def run(self, frames: int) -> None:
        taken: deque[tuple[float, float]] = deque(maxlen=self.block)
        seen = hashlib.sha256()
        for t in range(frames):
            start = time.perf_counter(), time.process_time()
            masks = self._step(t)
            taken.append((time.perf_counter() - start[0], time.process_time() - start[1]))
            seen.update(masks)
            if (t + 1) % self.period == 0:
                self.answers.append(seen.hexdigest())
                seen = hashlib.sha256()
            if (t + 1) % self.block == 0:
                self.blocks.append(measured(t + 1, np.array(taken) * 1e3))
                print(self.blocks[-1], flush=True)

    def _step(self, t: int) -> bytes:
        """One frame, and what is done on it; the masks' bytes."""
        round_, offset = divmod(t, self.period)
        result = self.stream.step(self.images[offset])
        part, begun = divmod(offset, self.period // FIFTIETHS)
        for verb, disc in ACTS.get(part, ()) if begun == 0 else ():
            obj_id = round_ * DISCS + disc
            if verb == "remove":
                self.stream.remove_object(obj_id)
            else:
                point = self.centre(disc, offset)
                result = self.stream.add_new_points_or_box(obj_id, [point], [1], clear_old_points=verb == "add")
        return result.masks.numpy().tobytes()


def resident_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def measured(frame: int, milliseconds: NDArray[np.float64]) -> dict[str, Any]:
    """Latency of the frames before ``frame``, from ``(frames, 2)`` of clock and processor time, and memory now."""
    gc.collect()
    things = gc.get_objects()
    # By their types: asking the thing itself may call what it stands in for. Not fake ones, which compilers leave.
    tensors = [thing for thing in things if type(thing) in (torch.Tensor, torch.nn.Parameter)]
    (p50, cpu_p50), (p99, cpu_p99) = np.percentile(milliseconds, [50, 99], axis=0)
    return {
        "frame": frame,
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "processor_p50_ms": round(float(cpu_p50), 2),
        "processor_p99_ms": round(float(cpu_p99), 2),
        "resident_mib": round(resident_mib(), 1),
        "python_objects": len(things),
        "tensors": len(tensors),
        "tensors_mib": round(sum(t.numel() * t.element_size() for t in tensors) / 2**20, 2),
    }


def complaints(different_answers: int, blocks: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is not flat in the blocks of a soak, of which there are at least three; nothing if all is well."""
    second, last = blocks[1], blocks[-1]
    found = []
    if different_answers != 1:
        found.append(f"the same period has {different_answers} different answers")
    for name in ("tensors", "tensors_mib"):
        if len(values := {block[name] for block in blocks[1:]}) > 1:
            found.append(f"{name} is not the same from the second block on: {min(values)} to {max(values)}")
    growth = last["resident_mib"] - second["resident_mib"]
    if growth > MOST_GROWTH_MIB:
        found.append(f"resident memory grew by {growth:.1f} MiB, more than {MOST_GROWTH_MIB}")
    for name, most in MOST_RATIOS.items():
        if last[name] > most * second[name]:
            found.append(
                f"{name} is {last[name]} in the end, more than {most} times the {second[name]} of the beginning"
            )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=50_000)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    # The first block also fills caches.
    if arguments.frames < 3 * BLOCK or arguments.frames % BLOCK:
        parser.error(f"--frames is {arguments.frames}; expected a multiple of {BLOCK}, of at least {3 * BLOCK}")
    torch.manual_seed(0)
    predictor = SAM2VideoPredictor.from_pretrained(
        "sam2fast/nano", device="cpu", hydra_overrides_extra=[f"++model.image_size={arguments.image_size}"]
    )
    with predictor.open_stream() as stream:
        soak = Soak(stream)
        soak.run(arguments.frames)
    report = {
        "model": "sam2fast/nano", "image_size": arguments.image_size,
        "frames": arguments.frames, "period": soak.period, "periods": len(soak.answers),
        "different_answers": len(set(soak.answers)), "objects": len(soak.answers) * DISCS, "blocks": soak.blocks,
    }  # fmt: skip
    print(f"{arguments.frames} frames, {len(soak.answers)} periods, {len(set(soak.answers))} different answers")
    if arguments.out:
        sys.path.append(str(Path(__file__).parents[2] / "bench"))
        from reports import write_report
        from suite.machine import machine

        write_report(arguments.out, "soak-cpu", machine=machine(), **report)
    wrong = complaints(len(set(soak.answers)), soak.blocks)
    print("\n".join(f"NOT FLAT: {line}" for line in wrong) or "flat")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
