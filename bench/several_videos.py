"""Measures how many frames per second a device tracks if 1, 2 or 4 processes each track a video.

    python bench/several_videos.py [--device cuda]     # results/<year>/calls/at-once-DEVICE-DATE.json

Each process computes like a worker of ``vos --at-once N``: it has its own model and its part of the host's threads,
reads its clip from files, and tracks one object. Before the measurements, each process builds all models and tracks the
clip with each. Then the processes of a measurement begin together. A rate counts the frames of all processes from the
first begin to the last end. Without PyAV, the clip is a folder of JPEG files.
"""

import argparse
import multiprocessing
import queue
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from clips import write_clip
from reports import file_name, write_report
from suite.machine import RESULTS, machine

from sam2fast.deploy.parallel.device_list import threads_for_each

SETTINGS = (("t", 512), ("t", 1024), ("mini", 512), ("mini", 1024))  # models and sides of their inputs
COUNTS, CLIP, FRAMES = (1, 2, 4), "1920x1080", 120
SMALL_SETTINGS, SMALL_COUNTS, SMALL_CLIP, SMALL_FRAMES = (("nano", 64),), (1, 2), "320x192", 4  # of a rehearsal
PATIENCE_S = 300.0


def rows(device: str, rehearse: bool = False) -> Iterator[dict[str, Any]]:
    """Yields a row for each model, size of input and number of processes.

    Raises:
        RuntimeError: If a process fails.
    """
    settings, counts = (SMALL_SETTINGS, SMALL_COUNTS) if rehearse else (SETTINGS, COUNTS)
    clip, frames = (SMALL_CLIP, SMALL_FRAMES) if rehearse else (CLIP, FRAMES)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        codec = "h264" if find_spec("av") else "jpeg"
        path, answers = write_clip(Path(folder), codec, clip, frames), context.Queue()
        orders = [context.Queue() for _ in range(max(counts))]
        processes = [context.Process(target=_work, args=(path, device, settings, each, answers)) for each in orders]
        for process in processes:
            process.start()
        try:
            _collect(answers, processes, len(processes))
            for at, (size, side) in enumerate(settings):
                for count in counts:
                    for each in orders[:count]:
                        each.put((at, threads_for_each(count)))
                    spans = _collect(answers, processes, count)
                    seconds = max(end for _, end in spans) - min(begin for begin, _ in spans)
                    row = {"size": size, "image_size": side, "clip": f"{clip} {codec}, {frames} frames"}
                    yield {**row, "processes": count, "seconds": seconds, "frames per second": count * frames / seconds}
        finally:
            for each, process in zip(orders, processes, strict=True):
                each.put(None)
                process.join(PATIENCE_S / 10)
                process.kill()


def _collect(answers: Any, processes: list[Any], count: int) -> list[Any]:
    """Returns ``count`` answers. Raises RuntimeError if a process ended or answered with an error."""
    found: list[Any] = []
    until = time.monotonic() + PATIENCE_S
    while len(found) < count:
        try:
            answer = answers.get(timeout=1)
        except queue.Empty:
            if time.monotonic() > until or not all(process.is_alive() for process in processes):
                raise RuntimeError("a process ended, or did not answer in time") from None
            continue
        if isinstance(answer, str):
            raise RuntimeError(answer)
        found.append(answer)
    return found


def _work(path: Path, device: str, settings: Any, orders: Any, answers: Any) -> None:
    """Builds the models, then tracks the clip with the model of each order, and answers with begin and end."""
    try:
        tracks = [_tracker(path, device, *setting) for setting in settings]
        for track in tracks:
            track()
        answers.put(None)
        while (order := orders.get()) is not None:
            at, threads = order
            torch.set_num_threads(threads)
            begin = time.monotonic()
            tracks[at]()
            answers.put((begin, time.monotonic()))
    except Exception as error:  # the parent raises it
        answers.put(f"{type(error).__name__}: {error}")


def _tracker(path: Path, device: str, size: str, side: int) -> Any:
    """Returns a function that tracks the clip from its file to bits on the host."""
    from suite.subjects import config_of, tame_weights

    from sam2fast import build_sam2_video_predictor

    options = {"device": device, "dtype": "auto", "image_size": side}
    predictor = tame_weights.built(build_sam2_video_predictor, config_of(size), None, **options)
    predictor.fill_hole_area = 0
    width, height = map(int, path.stem.partition(" ")[0].split("x"))

    @torch.inference_mode()
    def track() -> None:
        state = predictor.init_state(path, async_loading_frames=True)
        box = [width / 4, height / 4, width / 2, height / 2]
        predictor.add_new_points_or_box(state, 0, 1, box=box)
        for _ in predictor.propagate_in_video(state, output="bits", progress=False):
            pass
        state.frames.close()

    return track


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    about, found = machine(args.device), []
    for row in rows(args.device):
        found.append(row)
        print(
            f"{row['size']}, {row['image_size']}: {row['processes']} at once, {row['frames per second']:.1f} frames/s"
        )
    name = f"at-once-{file_name(about['device'])}"
    print(f"written: {write_report(RESULTS / 'calls', name, machine=about, rows=found)}")


if __name__ == "__main__":
    main()
