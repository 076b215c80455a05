"""Counts Python calls of an image, a click and tracked frames, and how many of them select an implementation.

    cd bench && OMP_NUM_THREADS=1 ../.venv/bin/python -m suite.calls --model tiny nano

writes ``results/<year>/calls/python-calls-DATE.json``. Models have random weights and images of their own size, on the
CPU. A call is one of a function of sam2fast; comprehensions do not count, which newer versions of Python do not call.
The first call of each kind does not count. A frame comes after seven others, so that all memories are there. Recorded
frames are of a video, and encoded as one batch. Their replays, which are CUDA's work, do nothing here.
"""

import argparse
import ast
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from reports import write_report

import sam2fast
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.engine import replay
from sam2fast.engine.derived import Constants
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.tracking import step_runner
from sam2fast.tracking.propagation import FRAMES_AT_ONCE_ON_CUDA
from suite.machine import RESULTS, machine

CONFIGS = {
    "tiny": "configs/sam2.1/sam2.1_hiera_t.yaml",
    "mini": "configs/mini/sam2fast_mini.yaml",
    "nano": "configs/nano/sam2fast_nano.yaml",
    "large": "configs/sam2.1/sam2.1_hiera_l.yaml",
}
PACKAGE = Path(sam2fast.__file__).parent
# Functions that say in which way something is computed: whether modules are as built, on which device, for which kind
# of inference, by which backend, in which dtype.
QUESTIONS = {
    "is_unmodified", "is_unchanged", "watches", "_variant_for", "_uses_cpu",
    "is_traced", "is_recorded", "is_cpu_inference", "use_opaque_op", "use_triton", "uses_kernel", "implementation_of",
    "current_backend", "emulates_bfloat16", "_is_large", "is_relu", "is_gelu",
}  # fmt: skip
FULL = 7  # frames of which the next one attends to all
AT_ONCE = FRAMES_AT_ONCE_ON_CUDA


class Calls:
    """Counts the calls of sam2fast's functions in a thread while it is a context.

    Attributes:
        files: how many calls each file got.
        asking: how many questions each folder asked.
    """

    def __init__(self) -> None:
        self.files: Counter[str] = Counter()
        self.asking: Counter[str] = Counter()

    def __enter__(self) -> "Calls":
        sys.setprofile(self._called)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _called(self, frame: FrameType, event: str, argument: Any) -> None:
        name, file = frame.f_code.co_name, frame.f_code.co_filename
        is_comprehension = name.startswith("<") and name != "<lambda>"
        if event != "call" or is_comprehension or not file.startswith(f"{PACKAGE}/"):
            return
        self.files[file] += 1
        if name in QUESTIONS:
            asking = Path(frame.f_back.f_code.co_filename if frame.f_back else file)
            self.asking[asking.relative_to(PACKAGE).parts[0] if PACKAGE in asking.parents else "others"] += 1

    def figures(self) -> dict[str, Any]:
        """Calls, questions, files that were passed, and questions by the folder that asks."""
        found = {"calls": self.files.total(), "questions": self.asking.total(), "files": len(self.files)}
        return {**found, "asking": dict(self.asking)}


def counted(call: Callable[[], Any]) -> dict[str, Any]:
    """What a call does the second time."""
    call()
    with Calls() as calls:
        call()
    return calls.figures()


@torch.inference_mode()
def measured(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A model's row."""
    torch.manual_seed(0)
    model = build_sam2_video_predictor(CONFIGS[name], None, device="cpu", hydra_overrides_extra=list(overrides))
    side = model.image_size
    images = np.random.default_rng(0).integers(0, 256, (FULL + 2, side, side, 3), dtype=np.uint8)
    predictor = SAM2ImagePredictor(model)
    found = {"set_image": counted(lambda: predictor.set_image(images[0]))}
    found["predict"] = counted(lambda: predictor.predict(np.array([[side / 2, side / 2]]), np.array([1])))
    frames, stream = iter(images), model.open_stream()
    stream.step(next(frames))
    stream.add_new_points_or_box(1, [[side / 2, side / 2]], [1])
    for _ in range(FULL - 1):
        stream.step(next(frames))
    found["frame"] = counted(lambda: stream.step(next(frames)))
    return {"model": name, "image_size": side, **found, "recorded": recorded_frames(model, list(images[:1]))}


class _Unreplayed:
    """Records functions as :class:`sam2fast.engine.graphs.CudaGraphs` does. The replays compute nothing."""

    def __init__(self, device: torch.device, priority: int = 0) -> None:
        self.constants = Constants()

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        function()
        return self.constants.refresh


def recorded_frames(predictor: Any, image: list[np.ndarray]) -> dict[str, Any]:
    """Returns counts of four recorded frames of a video."""
    state = predictor.init_state(image * (FULL + 5 * AT_ONCE))  # not prefetched: other threads do not count
    predictor.add_new_points_or_box(state, 0, 1, [[1.0, 1.0]], [1])
    with patch.object(replay, "CudaGraphs", _Unreplayed), patch.object(step_runner, "why_eager", lambda *_: None):
        answers = predictor.propagate_in_video(state, progress=False, encode_ahead=AT_ONCE)
        for _ in range(FULL + AT_ONCE):
            next(answers)
        return counted(lambda: [next(answers) for _ in range(AT_ONCE)])


def lines(*folders: str) -> int:
    """Of Python in folders of the package."""
    files = (path for folder in folders for path in (PACKAGE / folder).rglob("*.py"))
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)


def asking_files() -> list[str]:
    """Files outside ``kernels`` that ask."""
    return sorted(
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if "kernels" not in path.parts and not QUESTIONS.isdisjoint(_called_in(path))
    )


def _called_in(path: Path) -> Iterator[str]:
    """Names of what the code in a file calls, or passes to ``map``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            for asked in (node.func, *node.args[:1]):
                if isinstance(asked, ast.Name | ast.Attribute):
                    yield asked.id if isinstance(asked, ast.Name) else asked.attr


KINDS, FIGURES = ("set_image", "predict", "frame", "recorded"), ("calls", "questions", "files")


def table(rows: Iterable[dict[str, Any]]) -> str:
    head = ["model", *(f"{kind}: {figure}" for kind in KINDS for figure in FIGURES)]
    body = [[row["model"], *(row[kind][figure] for kind in KINDS for figure in FIGURES)] for row in rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in [head, ["---"] * len(head), *body])


def main(options: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="suite.calls", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--out", type=Path, default=RESULTS / "calls")
    args = parser.parse_args(options)
    rows = [measured(name) for name in args.model]
    asking, code = asking_files(), {folder: lines(folder) for folder in ("modeling", "engine")}
    print(table(rows))
    print(f"\n{len(asking)} files outside kernels ask; lines: {code}")
    print(write_report(args.out, "python-calls", machine=machine(), rows=rows, asking_files=asking, lines=code))


if __name__ == "__main__":
    main()
