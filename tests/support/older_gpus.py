"""Counts the work of tiny on fake GPUs with and without kernels.

    python tests/support/older_gpus.py > bench/results/YEAR/kernels/older-gpus-DATE.json

The command prints the JSON for docs/devices.md.
"""

import datetime
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import torch
from default_counts import IMAGE_SIZE
from fake_cuda import COMPOSITE, GPU, Seen, aten, fake_cuda, frames, steady_frames
from frame_costs import CONFIGS, CostedCuda
from torch import Tensor

from sam2fast.build_sam import build_sam2, build_sam2_video_predictor, cast_weights
from sam2fast.kernels.memory_attention import AttendedMemory, memory_attention
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.tracking.propagation import FRAMES_AT_ONCE_ON_CUDA
from sam2fast.utils.devices import usual_dtype


class OldestWithKernels(CostedCuda):
    capability = 8, 0


class WithoutKernels(CostedCuda):
    """Has the capability of a T4. Stores dtypes and widths of the calls of torch's attention."""

    capability = 7, 5

    def __init__(self) -> None:
        super().__init__()
        self.attended: set[tuple[torch.dtype, int, int]] = set()

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.attended.add((query.dtype, query.shape[-1], value.shape[-1]))
        return super()._attention(query, key, value, *args, **kwargs)


class StoresScores(WithoutKernels):
    """Computes attention by products and a softmax, as torch does on such GPUs in bfloat16."""

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, **_: Any) -> Tensor:
        with self:
            return aten._scaled_dot_product_attention_math.default._op_dk(COMPOSITE, query, key, value, mask)[0]


def build(builder: Callable[..., Any], config: str, **options: Any) -> Any:
    """Builds a model in the fake GPU's default dtype, with weights that have no values."""
    return cast_weights(builder(config, None, device="cpu", **options), usual_dtype(GPU)).to(GPU)


def seen_on(cuda: CostedCuda) -> dict[str, list[Seen]]:
    """Returns the events of an image, a click and several frames of one object, after earlier equal calls."""
    image, click, found = frames(1, *IMAGE_SIZE)[0], ([[600.0, 400.0]], [1]), {}
    with fake_cuda(cuda):
        predictor = SAM2ImagePredictor(build(build_sam2, CONFIGS["tiny"]))
        for name, call in (("image", lambda: predictor.set_image(image)), ("click", lambda: predictor.predict(*click))):
            call()
            with cuda.watched() as seen:
                call()
            found[name] = [seen]
        video = build(build_sam2_video_predictor, CONFIGS["tiny"])
        return found | {"frame": steady_frames(cuda, video, 1, FRAMES_AT_ONCE_ON_CUDA)}


def attention_bytes(cuda: CostedCuda) -> int:
    """Returns the maximum bytes during one attention of tiny to the seven memories of an object."""
    positions, width, pages, pointers, channels = 4096, 64, 7, 64, 256
    with fake_cuda(cuda), torch.inference_mode():

        def empty(*shape: int, dtype: torch.dtype | None = None) -> Tensor:
            return torch.empty(shape, dtype=dtype or usual_dtype(GPU), device=GPU)

        table, wide = empty(1, pages, dtype=torch.int32), torch.float32
        encodings = empty(positions, width, dtype=wide), empty(pages, width, dtype=wide)
        of_pointers = [empty(1, pointers, width, dtype=wide) for _ in range(2)]
        valid = empty(1, pointers, dtype=torch.bool)
        memory = AttendedMemory(empty(pages, positions, width), table, table, *encodings, *of_pointers, valid)
        layers = [x for _ in range(2) for x in (empty(channels, width), empty(channels))]
        rotation = [empty(positions, channels // 2, dtype=wide) for _ in range(2)]
        with cuda.watched() as seen:
            memory_attention(empty(1, 1, positions, channels), memory, *layers, *rotation)
        return cuda.most[id(seen)]


def started(seen: Seen) -> int:
    """Returns the number of operations and graphs that the host starts."""
    return seen.launches.total() - sum(graph.launches.total() for graph in seen.replayed) + seen.replays


def work() -> Iterator[dict[str, Any]]:
    """Yields rows of the table, with a column for each GPU."""
    both = {"kernels": seen_on(OldestWithKernels()), "torch": seen_on(WithoutKernels())}

    def row(what: str, call: str, count: Callable[[Seen], int]) -> dict[str, Any]:
        return {"what": what} | {name: fmean(map(count, found[call])) for name, found in both.items()}

    yield row("operations, `set_image`", "image", lambda seen: seen.launches.total())
    yield row("operations, a click", "click", lambda seen: seen.launches.total())
    yield row("operations, a frame", "frame", lambda seen: seen.launches.total())
    yield row("started by the host, a frame", "frame", started)
    yield row("copies that the host waits for, a frame", "frame", blocking_copies)


def blocking_copies(seen: Seen) -> int:
    return sum(fault.kind == "blocking copy" for fault in seen.faults)


def attention() -> dict[str, int]:
    """Returns the bytes with kernels, with torch's attention, and if all scores are stored."""
    gpus = {"kernels": OldestWithKernels(), "torch": WithoutKernels(), "scores": StoresScores()}
    return {name: attention_bytes(cuda) for name, cuda in gpus.items()}


if __name__ == "__main__":
    about = {"date": f"{datetime.date.today()}", "command": "python tests/support/older_gpus.py"}
    print(json.dumps(about | {"work": list(work()), "attention": attention()}, indent=1))
