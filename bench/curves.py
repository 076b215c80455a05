"""How the time of a frame grows with the number of objects and with the frames already tracked, beside the original.

    python bench/curves.py --out bench/results
    python bench/curves.py --device cuda --out bench/results

Both video predictors hold the same drawn weights of the tiny model at 256x256, compute in fp32, and take turns frame by
frame in one process; their logits are compared on every frame, and a frame that differs stops the run.

A long history is not tracked, which would take hours: two frames are, and each later frame of the history gets a copy
of its own of one of their results: memory, pointer, mask. Ours is written as a saved state and read back for that. The
film is a few pictures over and over. Memory is how much the history lets a process grow, a process for each predictor;
frames are not in it, of which the original would hold every one (0.75 MiB each at this size).
"""

import argparse
import contextlib
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from reports import write_report
from stream_memory import resident_mib
from suite.machine import machine
from video import build_video_pair, clip, float32_memory, jpeg_folder

from sam2fast.utils.testing import relative_error

ALLOWED = 1e-4
OBJECTS = (1, 2, 4, 8, 16, 32, 64)
HISTORY = (10, 100, 1_000, 10_000)
STEADY = 16  # frames of history that fill all memories and pointers: of the curve over objects
TRACKED = 2  # frames that are really tracked, after the prompted one
PICTURES = 12
SUBJECTS = ("official", "sam2fast")


class Repeated(Sequence[Tensor]):
    """Stands in for the original's frames ``(T, 3, S, S)``: a few, over and over."""

    def __init__(self, images: Tensor, length: int) -> None:
        self._images, self._length = images, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        return self._images[index % len(self._images)]


def write_film(folder: Path, frames: int) -> Path:
    """A folder of so many frames that are links to a few pictures."""
    pictures = jpeg_folder(folder / "pictures", clip(PICTURES, 240, 320))
    film = folder / f"film of {frames}"
    film.mkdir()
    for t in range(frames):
        (film / f"{t:05d}.jpg").symlink_to(pictures / f"{t % PICTURES:05d}.jpg")
    return film


def prompt(predictor: Any, state: Any, objects: int) -> None:
    for i in range(objects):
        predictor.add_new_points_or_box(state, 0, i, [[20 + 37 * i % 280, 20 + 23 * i % 200]], [1])


def track_first(predictor: Any, state: Any) -> None:
    """The frames whose results the history repeats."""
    for _ in predictor.propagate_in_video(state, max_frame_num_to_track=TRACKED):
        pass


def repeated_frame(t: int) -> int:
    """The tracked frame whose result frame ``t`` gets."""
    return 1 + (t - 1) % TRACKED


def fill_official(state: Any, history: int) -> None:
    """Frames 1 to ``history`` are tracked afterwards."""
    for i, outputs in state["output_dict_per_obj"].items():
        tracked = outputs["non_cond_frame_outputs"]
        for t in range(TRACKED + 1, history + 1):
            # The encoding of positions is one tensor for all frames, as it is in frames that were tracked.
            tracked[t] = {
                name: value.clone() if isinstance(value, Tensor) else value
                for name, value in tracked[repeated_frame(t)].items()
            }
            state["frames_tracked_per_obj"][i][t] = {"reverse": False}


def fill_ours(predictor: Any, state: Any, history: int, film: Path) -> Any:
    """Another state in which frames 1 to ``history`` are tracked."""
    for tracked in state.objects.values():
        for t in range(TRACKED + 1, history + 1):
            tracked.tracked[t] = tracked.tracked[repeated_frame(t)]
            tracked.reverse[t] = False
    with tempfile.TemporaryDirectory() as folder:
        predictor.save_state(state, Path(folder) / "state")
        return predictor.load_state(Path(folder) / "state", str(film))


def start(name: str, predictor: Any, film: Path, objects: int) -> Any:
    """A state with the first frames tracked."""
    if name == "official":
        state = predictor.init_state(str(film.parent / "pictures"))
        state["num_frames"] = len(list(film.iterdir()))
        state["images"] = Repeated(state["images"], state["num_frames"])
    else:
        state = predictor.init_state(str(film))
    prompt(predictor, state, objects)
    track_first(predictor, state)
    return state


def fill(name: str, predictor: Any, state: Any, history: int, film: Path) -> Any:
    """The state with the history."""
    if name == "sam2fast":
        return fill_ours(predictor, state, history, film)
    fill_official(state, history)
    return state


def steady_frames(predictor: Any, state: Any, history: int, runs: int) -> Iterator[tuple[float, Tensor]]:
    """Seconds and logits of each frame after the history; the first one is also what warms up."""
    device = next(predictor.parameters()).device
    tracking = predictor.propagate_in_video(state, start_frame_idx=history + 1, max_frame_num_to_track=runs)
    while True:
        begin = time.perf_counter()
        answer = next(tracking, None)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if answer is None:
            return
        yield time.perf_counter() - begin, answer[2].cpu()


def measure(predictors: dict[str, Any], film: Path, objects: int, history: int, runs: int) -> dict[str, Any]:
    """One point: both predictors frame by frame in turn.

    Raises:
        SystemExit: their logits differ.
    """
    states = {name: start(name, p, film, objects) for name, p in predictors.items()}
    states = {name: fill(name, p, states[name], history, film) for name, p in predictors.items()}
    in_turn = zip(*(steady_frames(p, states[name], history, runs) for name, p in predictors.items()), strict=True)
    samples: dict[str, list[float]] = {name: [] for name in predictors}
    difference = 0.0
    for frame, answers in enumerate(in_turn):
        (_, expected), (_, actual) = answers
        difference = max(difference, relative_error(expected, actual))
        if not difference <= ALLOWED:
            raise SystemExit(f"{objects} objects after {history} frames: logits differ by {difference:.1e}; not timed")
        if frame:
            for name, (seconds, _) in zip(predictors, answers, strict=True):
                samples[name].append(seconds)
    ratios = [a / b for a, b in zip(*samples.values(), strict=True)]
    return {
        "size": "t",
        "dtype": "fp32",
        "image_size": predictors["sam2fast"].image_size,
        "objects": objects,
        "history": history,
        "subjects": {
            name: {"samples_s": s, "median_s": statistics.median(s), "min_s": min(s), "max_s": max(s)}
            for name, s in samples.items()
        },
        "ratio": {"sam2fast": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}},
        "difference": {"sam2fast": difference},
    }


def build(image_size: int, device: torch.device) -> dict[str, Any]:
    """Both predictors by subject."""
    pair = build_video_pair("sam2.1_t", image_size=image_size, apply_postprocessing=False)
    return {name: predictor.to(device) for name, predictor in zip(SUBJECTS, pair, strict=True)}


def growth(
    name: str, histories: Sequence[int], image_size: int, device: torch.device
) -> dict[int, dict[str, float | None]]:
    """MiB by which each history of one object lets this process grow, and the device's memory."""
    predictor = build(image_size, device)[name]
    grown = {}
    with tempfile.TemporaryDirectory() as folder:
        film = write_film(Path(folder), max(histories) + 1)
        for history in histories:
            state = start(name, predictor, film, 1)
            before = held(device)
            state = fill(name, predictor, state, history, film)
            after = held(device)
            grown[history] = {key: None if x is None else x - (before[key] or 0) for key, x in after.items()}
            del state
    return grown


def held(device: torch.device) -> dict[str, float | None]:
    """MiB in use by this process, without what it has freed."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    allocated = torch.cuda.memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return {"resident": resident_mib(), "device": allocated}


def growth_in_own_process(name: str, arguments: argparse.Namespace) -> dict[int, dict[str, float | None]]:
    command = [sys.executable, __file__, "--growth-of", name, "--image-size", str(arguments.image_size)]
    command += ["--device", arguments.device]
    command += [word for history in arguments.history for word in ("--history", str(history))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return {int(history): mib for history, mib in json.loads(done.stdout.splitlines()[-1]).items()}


def points(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of both curves."""
    objects, histories = arguments.objects, arguments.history
    predictors = build(arguments.image_size, torch.device(arguments.device))
    with tempfile.TemporaryDirectory() as folder, float32_memory(), quiet():
        film = write_film(Path(folder), max(*histories, STEADY) + arguments.runs + 2)
        for count in objects:
            yield {"curve": "objects"} | measure(predictors, film, count, STEADY, arguments.runs)
        grown = {name: growth_in_own_process(name, arguments) for name in SUBJECTS}
        for history in histories:
            row = {"curve": "history"} | measure(predictors, film, 1, history, arguments.runs)
            yield row | {"growth_mib": {name: mib[history] for name, mib in grown.items()}}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, progress bars are not written anywhere."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


def report(row: dict[str, Any]) -> str:
    times = ", ".join(f"{name} {subject['median_s']:.3f} s" for name, subject in row["subjects"].items())
    line = f"{row['curve']}: {row['objects']} objects, {row['history']} frames before: {times}"
    grown = row.get("growth_mib", {})
    memory = ", ".join(f"{name} {mib['resident']:+.0f} MiB" for name, mib in grown.items())
    return f"{line}, {row['ratio']['sam2fast']['median']:.2f}x{'; ' if memory else ''}{memory}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", action="append", type=int, help="a point of the first curve")
    parser.add_argument("--history", action="append", type=int, help=f"a point of the second, at least {TRACKED}")
    parser.add_argument("--runs", type=int, default=5, help="steady frames to time")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--growth-of", choices=SUBJECTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.objects, arguments.history = arguments.objects or OBJECTS, arguments.history or HISTORY
    if min(arguments.history) < TRACKED:
        parser.error(f"--history is less than the {TRACKED} frames that are really tracked")
    device = torch.device(arguments.device)
    if arguments.growth_of:
        with float32_memory(), quiet():
            grown = growth(arguments.growth_of, arguments.history, arguments.image_size, device)
        print(json.dumps(grown))
        return
    rows = []
    for row in points(arguments):
        rows.append(row)
        print(report(row), flush=True)
    if arguments.out:
        about = machine(arguments.device)
        path = write_report(arguments.out, f"curves-{device.type}", machine=about, rows=rows)
        print(f"written to {path}")


if __name__ == "__main__":
    main()
