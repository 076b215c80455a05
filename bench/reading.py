"""Measures what reading a frame of a video costs: decoding alone, and the pixels for a model.

    python bench/reading.py --out reading.json
    PYTHONPATH=OTHER/CHECKOUT python bench/reading.py --out before.json

Encodes clips with time stamps, and reads each clip several times in a process with one core and with two cores.
``decoding`` decodes without scaling, ``frames`` are the pixels of ``open_frames`` with prefetching, ``stream`` those of
``read_frames``. For a folder of JPEG files, ``decoding`` is PIL's. Times are milliseconds per frame: the minimum of all
runs, processor time and wall time. A caller of ``read_frames`` that spends ``--busy`` milliseconds on each frame
elsewhere, as on a GPU, waits ``waiting_ms`` for the pixels.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from clips import CODECS, write_clip
from PIL import Image
from reports import write_json
from suite.machine import machine

from sam2fast.video_io import open_frames, read_frames
from sam2fast.video_io.containers import VideoInput
from sam2fast.video_io.decoding import Packets, decode
from sam2fast.video_io.sources import frame_files

SIZES = {"640x360": 150, "1920x1080": 90, "3840x2160": 30}  # frames of a clip


def waiting(path: Path, size: int, busy: float) -> float:
    """Returns the wall time per frame that a busy caller waits for pixels, in milliseconds."""
    waited, count = 0.0, 0
    with read_frames(path, size) as reader:
        while True:
            start = time.perf_counter()
            frame = next(reader, None)
            if frame is None:
                return round(1e3 * waited / count, 2)
            assert len(frame.square)
            waited, count = waited + time.perf_counter() - start, count + 1
            time.sleep(busy / 1e3)


def read(path: Path, how: str, size: int) -> int:
    """Reads all frames, and returns their number."""
    if how == "frames":
        with closing(open_frames(path, size, prefetch=True)) as frames:
            return sum(len(frames.pixels(i)) > 0 for i in range(len(frames)))
    if how == "stream":
        with read_frames(path, size) as reader:
            return sum(len(frame.square) > 0 for frame in reader)
    if path.is_dir():
        return sum(Image.open(file).convert("RGB").width > 0 for file in frame_files(path))
    container, stream = VideoInput.of_file(path).open()
    with container:
        stream.thread_type = "AUTO"
        return sum(1 for _ in decode(stream, Packets(container, stream)))


def measure(path: Path, how: str, args: argparse.Namespace, cores: int) -> dict[str, float]:
    """Returns times per frame in milliseconds."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    torch.set_num_threads(1)
    if how == "waiting":
        return {"waiting_ms": min(waiting(path, args.image_size, args.busy) for _ in range(args.runs))}
    times = []
    for _ in range(args.runs):
        wall, processor = time.perf_counter(), time.process_time()
        count = read(path, how, args.image_size)
        times.append(((time.process_time() - processor) / count, (time.perf_counter() - wall) / count))
    processor, wall = (round(1e3 * min(values), 2) for values in zip(*times, strict=True))
    return {f"{how}_processor_ms": processor, f"{how}_wall_ms": wall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--busy", type=float, default=10.0)
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--only", default="", help="clips whose name contains this text")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            for codec in (*CODECS, "jpeg"):
                if args.only not in f"{size} {codec}":
                    continue
                path = write_clip(Path(folder), codec, size, SIZES[size])
                for cores in (1, 2):
                    row: dict[str, Any] = {"size": size, "codec": codec, "cores": cores}
                    for how in ("decoding", "frames", "stream", "waiting"):
                        with context.Pool(1) as pool:
                            row |= pool.apply(measure, (path, how, args, cores))
                    rows.append(row)
                    print(row, flush=True)
    content = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": machine(),
        "image_size": args.image_size,
        "rows": rows,
    }
    write_json(args.out, content)


if __name__ == "__main__":
    main()
