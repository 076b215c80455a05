"""Counts the work that calls start on a GPU, a fake one, if a user sets nothing.

    python tests/support/default_counts.py [--model tiny]
    python tests/support/default_counts.py --json > bench/results/YEAR/kernels/default-counts-DATE.json

prints the table of bench/results/README.md, or its JSON. Counts of videos are means over steady frames.
"""

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import torch
from fake_cuda import FakeCuda, Seen, build, fake_cuda, frames
from frame_costs import CONFIGS

from sam2fast.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2fast.build_sam import build_sam2, build_sam2_video_predictor
from sam2fast.sam2_image_predictor import SAM2ImagePredictor

VIDEO_SIZE, IMAGE_SIZE = (720, 1280), (1200, 1800)
FRAMES, SETTLED = 32, 160  # frames that are counted, and frames before these, which fill the pools of memories
OBJECTS = (1, 4, 16)
IMAGES, BOXES = 4, (1, 16, 64)


class Counts(NamedTuple):
    """Means per call, or per frame of a video."""

    encodes: float  # calls of the image encoder
    encoded: float  # images in these calls, with the rows that pad a batch
    replays: float  # launches of a CUDA graph
    in_graphs: float  # kernels in these graphs
    outside: float  # kernels and copies outside
    up: float  # copies to the device
    up_bytes: float
    down: float  # copies to the host
    down_bytes: float
    pageable: float  # copies of either direction from or to memory that is not pinned
    waits: float  # of the host for work of the same call
    thread_ms: float  # CPU time of the calling thread; operations on the fake device take longer than on a GPU

    @classmethod
    def of(cls, seen: list[Seen], encoded: list[int], seconds: float) -> "Counts":
        """The means over ``seen``, in which ``encoded`` lists the rows of each call of the encoder."""
        up, down = ([c for s in seen for c in s.copies if c.to_device is way] for way in (True, False))
        in_graphs = sum(graph.launches.total() for s in seen for graph in s.replayed)
        sums = (
            len(encoded),
            sum(encoded),
            sum(s.replays for s in seen),
            in_graphs,
            sum(s.launches.total() for s in seen) - in_graphs,
            len(up),
            sum(c.bytes for c in up),
            len(down),
            sum(c.bytes for c in down),
            sum(not c.is_pinned for c in up + down),
            sum(len(s.faults) for s in seen),
            seconds * 1e3,
        )
        return cls(*(round(x / len(seen), 3) for x in sums))


def counts_of(cuda: FakeCuda, *calls: Callable[[], Any]) -> Counts:
    """Returns the means over these calls."""
    seen, start = [], time.thread_time()
    for call in calls:
        with cuda.watched() as each:
            call()
        seen.append(each)
    seconds = time.thread_time() - start
    encoded = [rows for s in seen for one in (s, *s.replayed) for rows in one.encoded]
    return Counts.of(seen, encoded, seconds)


def video_counts(cuda: FakeCuda, config: str) -> Iterator[tuple[str, Counts]]:
    """Yields the counts of a tracked frame, by the name of the call."""
    predictor, count = build(build_sam2_video_predictor, config), SETTLED + FRAMES
    clip = frames(1, *VIDEO_SIZE) * (count + FRAMES)  # the last frames of a video are encoded in smaller batches
    for objects in OBJECTS:
        state = predictor.init_state(clip)
        for i in range(objects):
            predictor.add_new_points_or_box(state, 0, i, [[20.0 * i, 40.0]], [1])
        answers = predictor.propagate_in_video(state, progress=False)
        for _ in range(SETTLED):
            next(answers)
        yield f"frame of a video, {objects} object{'s' * (objects > 1)}", counts_of(cuda, *[answers.__next__] * FRAMES)
        answers.close()
    with predictor.open_stream() as stream:
        stream.step(clip[0])
        stream.add_new_points_or_box(1, [[20.0, 40.0]], [1])
        for _ in range(SETTLED):
            stream.step(clip[0])
        yield "frame of a stream, 1 object", counts_of(cuda, *[lambda: stream.step(clip[0])] * FRAMES)


def image_counts(cuda: FakeCuda, config: str) -> Iterator[tuple[str, Counts]]:
    """Yields the counts of calls for images, by their names."""
    model, image = build(build_sam2, config), frames(1, *IMAGE_SIZE)[0]
    predictor, generator = SAM2ImagePredictor(model), SAM2AutomaticMaskGenerator(model)
    click = [[600.0, 400.0]], [1]

    def second(call: Callable[[], Any]) -> Counts:
        call()
        return counts_of(cuda, call)

    yield "`set_image`", second(lambda: predictor.set_image(image))
    yield "`predict`, 1 click", second(lambda: predictor.predict(*click))
    in_runs = partial(predictor.predict, *click, output_mode="coco_rle")
    yield "`predict`, 1 click, run lengths, as for `serve`", second(in_runs)
    for count in BOXES:
        predict = partial(predictor.predict, box=[[10.0, 10.0, 600.0, 500.0]] * count)
        name = f"`predict`, {count} box{'es' * (count > 1)}"
        yield f"{name}, three masks each", second(predict)
        yield f"{name}, one mask each", second(partial(predict, multimask_output=False))
    yield f"`set_image_batch`, {IMAGES} images", second(lambda: predictor.set_image_batch([image] * IMAGES))
    each = [[x] * IMAGES for x in click]
    yield f"`predict_batch`, a click on each of {IMAGES}", second(lambda: predictor.predict_batch(*each))
    yield "automatic masks", second(lambda: generator.generate(image))


def all_counts(model: str) -> dict[str, dict[str, Counts]]:
    """Returns all counts of a model with its defaults, by kind and by the names of the calls."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)  # if they are on, as in tests, new memory is filled
    try:
        with fake_cuda() as cuda:
            config = CONFIGS[model]
            return {"videos": dict(video_counts(cuda, config)), "images": dict(image_counts(cuda, config))}
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=True)


def main() -> None:
    """Runs the command above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=CONFIGS, default="tiny")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = all_counts(arguments.model)
    if arguments.json:
        rows = [{"kind": kind, "call": name, **x._asdict()} for kind, some in found.items() for name, x in some.items()]
        about = {"date": f"{datetime.date.today()}", "command": "python tests/support/default_counts.py --json"}
        print(json.dumps({**about, "model": arguments.model, "rows": rows}, indent=1))
        return
    print(f"{'call':40}", *(f"{name:>10}" for name in Counts._fields))
    for some in found.values():
        for name, counts in some.items():
            print(f"{name:40}", *(f"{x:10.10g}" for x in counts))


if __name__ == "__main__":
    main()
