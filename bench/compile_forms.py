"""Measures what ``torch.compile`` costs and gains on a CPU, for each form that users write.

    python bench/compile_forms.py --out forms.json

An uncompiled and a compiled nano encode an image and segment a box, or track a frame with one object, alternately in
one process. ``first_s`` is the time of the first image, or of the first frames, with compilation; ``cached_s`` is the
same time with torch's cache on disk.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from suite.machine import machine
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_inductor_cache

from sam2fast import SAM2ImagePredictor, SAM2VideoPredictor
from sam2fast.deploy.compilation import compile_model

FRAMES = 12  # frames before times are taken, when the memory is full


def wrap(model: Any, name: str) -> None:
    setattr(model, name, torch.compile(getattr(model, name)))


FORMS: dict[str, Callable[[Any], Any]] = {
    "m.image_encoder = torch.compile(m.image_encoder)": lambda m: wrap(m, "image_encoder"),
    "m.image_encoder.compile()": lambda m: m.image_encoder.compile(),
    "m.sam_mask_decoder.compile()": lambda m: m.sam_mask_decoder.compile(),
    "m.memory_attention.compile()": lambda m: m.memory_attention.compile(),
    "m.memory_encoder.compile()": lambda m: m.memory_encoder.compile(),
    "compile_model(m, ['image_encoder'])": lambda m: compile_model(m, ["image_encoder"]),
    "compile_model(m)": compile_model,
}
ONLY_VIDEOS = ("m.memory_attention.compile()", "m.memory_encoder.compile()")


def image_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (360, 640, 3), np.uint8)


def images(compile_form: Callable[[Any], Any] | None) -> Iterator[float]:
    """Yields the time of each image with a box."""
    predictor = SAM2ImagePredictor.from_pretrained("sam2fast/nano", device="cpu")
    if compile_form:
        compile_form(predictor.model)
    image = image_of(0)
    while True:
        start = time.perf_counter()
        predictor.set_image(image)
        predictor.predict(box=[100, 80, 300, 240])
        yield time.perf_counter() - start


def frames(compile_form: Callable[[Any], Any] | None) -> Iterator[float]:
    """Yields the time of the first frames together, then the time of each frame."""
    predictor = SAM2VideoPredictor.from_pretrained("sam2fast/nano", device="cpu")
    if compile_form:
        compile_form(predictor)
    start = time.perf_counter()
    state = predictor.init_state([image_of(i) for i in range(200)])
    predictor.add_new_points_or_box(state, 0, 1, box=[100, 80, 300, 240])
    for i, _ in enumerate(predictor.propagate_in_video(state, progress=False)):
        if i >= FRAMES:
            now = time.perf_counter()
            yield now - start
            start = time.perf_counter()


def first_call(calls: Callable[..., Iterator[float]], form: str) -> tuple[float, Iterator[float], int]:
    """Returns the first call's time, the calls after it, and the number of graphs."""
    torch._dynamo.reset()
    counters.clear()
    compiled = calls(FORMS[form])
    return next(compiled), compiled, counters["stats"]["unique_graphs"]


def measure(calls: Callable[..., Iterator[float]], form: str, pairs: int) -> dict[str, Any]:
    """Returns times of first calls, medians of later calls, the median of ratios, and the number of graphs."""
    with fresh_inductor_cache():
        first, _, _ = first_call(calls, form)
        cached, compiled, graphs = first_call(calls, form)
    plain = calls(None)
    list(zip(islice(plain, 3), islice(compiled, 3), strict=True))  # warms up
    times = list(zip(islice(plain, pairs), islice(compiled, pairs), strict=True))
    return {
        "form": form,
        "calls": calls.__name__,
        "first_s": round(first, 1),
        "cached_s": round(cached, 1),
        "uncompiled_ms": round(1e3 * statistics.median(a for a, _ in times), 2),
        "compiled_ms": round(1e3 * statistics.median(b for _, b in times), 2),
        "ratio": round(statistics.median(b / a for a, b in times), 3),
        "graphs": graphs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--only", default="", help="forms that contain this text")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = []
    for form in FORMS:
        for calls in (frames,) if form in ONLY_VIDEOS else (images, frames):
            if args.only in form:
                rows.append(measure(calls, form, args.pairs))
                print(rows[-1], flush=True)
    content = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": machine(),
        "pairs": args.pairs,
        "rows": rows,
    }
    args.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
