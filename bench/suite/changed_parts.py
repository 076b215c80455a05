"""What it costs to change a part of a model, which is then called module by module: pairs of equal models on a CPU.

    cd bench && OMP_NUM_THREADS=1 ../.venv/bin/python -m suite.changed_parts --model tiny nano

writes ``results/<year>/calls/changed-parts-cpu-DATE.json``. Changes are forward hooks that do nothing, and a trunk of
a subclass that changes nothing. Models have random weights and images of their own size, in fp32. What is timed is the
processor time of the calling thread, so that other programs count little: of an unchanged model and of its copy with
the change, in turn, after a first call of both. A ratio is the median of those of all pairs. Frames have full memories:
one object is tracked through seven frames, and the others get copies of it.
"""

import argparse
import copy
import datetime
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from reports import write_report

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.engine import engine_for
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from suite.calls import CONFIGS, FULL
from suite.machine import RESULTS, machine

MODELS = ("tiny", "mini", "nano")
LENGTH = 10_000  # frames of the video, of which few are looked at


class Change(NamedTuple):
    """Something that a user does to a model, with what undoes it, and the calls that it slows down."""

    name: str
    apply: Callable[[Any], Callable[[], None]]
    calls: tuple[str, ...]


def _hook(part: str, model: Any) -> Callable[[], None]:
    handle = model.get_submodule(part).register_forward_hook(lambda module, args, result: None)
    return partial(handle.remove)


def _subclass(model: Any) -> Callable[[], None]:
    trunk, kind = model.image_encoder.trunk, type(model.image_encoder.trunk)
    trunk.__class__ = type("Trunk", (kind,), {})
    return partial(setattr, trunk, "__class__", kind)


def _hook_last_block(model: Any) -> Callable[[], None]:
    return _hook(f"image_encoder.trunk.blocks.{len(model.image_encoder.trunk.blocks) - 1}", model)


FRAMES = ("frame", "frame of 4")
CHANGES = (
    Change("hook on the trunk's last block", _hook_last_block, ("encode", *FRAMES)),
    Change("subclass of the trunk", _subclass, ("encode", *FRAMES)),
    Change("hook on the mask decoder", partial(_hook, "sam_mask_decoder"), ("click", *FRAMES)),
    Change("hook on memory attention", partial(_hook, "memory_attention"), FRAMES),
    Change("hook on the memory encoder", partial(_hook, "memory_encoder"), FRAMES),
)


def in_turn(plain: Callable[[], Any], changed: Callable[[], Any], runs: int) -> list[tuple[float, float]]:
    """Seconds of processor time of pairs of calls, after a first one that does not count."""
    pairs = [(_seconds(plain), _seconds(changed)) for _ in range(runs + 1)]
    return pairs[1:]


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.thread_time()
    call()
    return time.thread_time() - begin


class Subject:
    """A model, and the calls that are timed; call :meth:`prepare` before those of a kind."""

    def __init__(self, predictor: Any) -> None:
        self.predictor, side = predictor, predictor.image_size
        self._images = np.random.default_rng(0).integers(0, 256, (FULL, side, side, 3), dtype=np.uint8)
        self._click = np.array([[side / 2, side / 2]]), np.array([1])
        self.image = SAM2ImagePredictor(predictor)
        self.image.set_image(self._images[0])
        frames = list(itertools.islice(itertools.cycle(self._images), LENGTH))
        self.state = predictor.init_state(frames)
        predictor.add_new_points_or_box(self.state, 0, 0, *self._click)
        for _ in predictor.propagate_in_video(self.state, 0, FULL - 1, progress=False):
            pass
        self._tracked, self._next = self.state.objects[0].copy(), FULL
        self._passes: Iterator[Any] = iter(())

    def prepare(self, call: str) -> Callable[[], Any]:
        """What is timed."""
        if call == "encode":
            return lambda: self.image.set_image(self._images[0])
        if call == "click":
            return lambda: self.image.predict(*self._click)
        for obj_id in list(self.state.objects):
            self.state.remove(obj_id)
        recent = list(self._tracked.tracked.values())
        for obj_id in range(4 if call == "frame of 4" else 1):
            object_ = self._tracked.copy()
            for frame in range(FULL, self._next):
                object_.tracked[frame], object_.reverse[frame] = recent[frame % len(recent)], False
            self.state.add(obj_id, object_)
        self._passes = self.predictor.propagate_in_video(self.state, self._next, progress=False)
        return self._track

    def _track(self) -> None:
        self._next += 1  # a frame that is timed next is one whose features nobody keeps
        next(self._passes)


@torch.inference_mode()
def measured(
    name: str, runs: int, changes: Sequence[Change], overrides: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """A row for each change of a model."""
    torch.manual_seed(0)
    plain = build_sam2_video_predictor(CONFIGS[name], None, device="cpu", hydra_overrides_extra=list(overrides))
    subjects = [Subject(model) for model in (plain, copy.deepcopy(plain))]
    engine = engine_for(subjects[1].predictor)
    for change in changes:
        undo = change.apply(subjects[1].predictor)
        parts = [part for part, is_planned in engine.parts()._asdict().items() if not is_planned]
        samples = {}
        for call in change.calls:
            unchanged, changed = (subject.prepare(call) for subject in subjects)
            samples[call] = in_turn(unchanged, changed, runs * _times(call))
        undo()
        ratio = {call: statistics.median(b / a for a, b in pairs) for call, pairs in samples.items()}
        absent = dict.fromkeys({"encode", "click", *FRAMES} - ratio.keys())
        yield {
            "model": name,
            "image_size": plain.image_size,
            "change": change.name,
            "by_modules": parts,
            "ratio": {**ratio, **absent},
            "samples_s": samples,
        }


def _times(call: str) -> int:
    return 5 if call == "click" else 1


def main(options: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="suite.changed_parts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", choices=CONFIGS, default=list(MODELS))
    parser.add_argument("--only", metavar="TEXT", default="", help="changes with this in their names")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "calls")
    args = parser.parse_args(options)
    path, about = args.out / f"changed-parts-cpu-{datetime.date.today()}.json", machine()
    earlier = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = {(row["model"], row["change"]): row for row in earlier}
    for name in args.model:
        for row in measured(name, args.runs, [change for change in CHANGES if args.only in change.name]):
            rows[name, row["change"]] = row
            print(name, row["change"], row["by_modules"], row["ratio"], flush=True)
            write_report(args.out, "changed-parts-cpu", machine=about, rows=sorted(rows.values(), key=_place))


def _place(row: dict[str, Any]) -> tuple[int, int]:
    """In the order of the models and changes above."""
    return [*CONFIGS].index(row["model"]), [change.name for change in CHANGES].index(row["change"])


if __name__ == "__main__":
    main()
