"""Which cases are run at which settings: what is asked for, the plan of this machine's CPU, and steps for a GPU.

The steps come in the order of their value, so that a short visit to a GPU has the figures that matter. Each builds its
models again, and takes a minute or so, but for those that compile: these take minutes, and their rows replace those
that the others got before. ``rehearsal`` has the same calls for a CPU.
"""

import argparse
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from gpu_plan.steps import CALLS

from suite.cases import CASES, OBJECTS, ONE_AND_16, THROUGHPUT, Case, case_of
from suite.subjects import SUBJECTS, Setting

PLAIN = ("official", "sam2fast", "sam2fast fast")
NEITHER_COMPILED = ("official", "sam2fast")
PATIENCE_S = 30.0
CPU_FRAMES = 10  # between two synchronisations, unless more are asked for
Pairs = tuple[tuple[int | None, int | None], ...]


@dataclass(frozen=True)
class Group:
    """Rows that share their sessions."""

    case: Case
    setting: Setting  # but for objects and history
    at: Pairs
    runs: int
    subjects: tuple[str, ...] = SUBJECTS
    patience_s: float = float("inf")  # for the rounds of one row


def group(
    name: str,
    size: str,
    dtype: str = "fp32",
    image_size: int = 1024,
    at: Pairs | None = None,
    subjects: tuple[str, ...] = SUBJECTS,
    runs: int | None = None,
    device: str = "cpu",
    frames: int | None = None,
) -> Group:
    case = case_of(name)
    return Group(
        case, Setting(size, dtype, image_size, device, frames=frames), at or case.at, runs or case.runs, subjects
    )


def asked_for(asked: argparse.Namespace) -> list[Group]:
    """Every combination of what is given; of what is not, the smallest model in fp32, and each case's own."""
    frames, subjects = asked.frames or (CPU_FRAMES if asked.device == "cpu" else None), tuple(asked.subject) or SUBJECTS
    found = []
    for case in chosen(CASES, asked.only):
        at = _pairs(case, asked.objects, asked.history)
        for size, dtype in itertools.product(asked.size or ("t",), asked.dtype or ("fp32",)):
            for side in asked.image_size or (256 if size == "nano" else 1024,):
                found.append(group(case.name, size, dtype, side, at, subjects, asked.runs, asked.device, frames))
    return found


def _pairs(case: Case, objects: Sequence[int], histories: Sequence[int]) -> Pairs:
    """What is asked for, of what the case depends on; its own values for the rest."""
    counted, aged = (any(pair[i] is not None for pair in case.at) for i in (0, 1))
    if counted and objects:
        return tuple(itertools.product(objects, (aged and histories) or (None,)))
    if aged and histories:
        usual = next(o for o, h in case.at if h is not None)
        return tuple((usual, h) for h in histories)
    return case.at


def chosen(cases: Iterable[Case], names: Sequence[str]) -> list[Case]:
    """The cases with one of these texts in their names."""
    return [case for case in cases if not names or any(name in case.name for name in names)]


def cpu() -> list[Group]:
    """Under a quarter of an hour on two cores. What the compiler makes is measured for nano only: it takes minutes."""
    both, nano = {"subjects": NEITHER_COMPILED}, ("nano", "fp32", 256)
    # Not base+ in bfloat16: where that is imitated, the official package takes a minute an image.
    groups = [
        group("image encode", *nano),
        *(group("image encode", *model, **both) for model in (("t", "fp32"), ("t", "bf16"), ("b+", "fp32"))),
        *(group("predict", "t", dtype, **both) for dtype in ("fp32", "bf16")),
        group("boxes", "t", runs=3, **both),
        group("video steady frame", "t", "fp32", 256, **both),
        group("video steady frame", "t", "fp32", 1024, OBJECTS[:2], runs=2, **both),
        group(THROUGHPUT, *nano, ONE_AND_16[:1], runs=2, frames=CPU_FRAMES, **both),
        *(group(name, *nano, **both) for name in ("stream latency", "automatic masks", "cold start")),
        group("cold start", "t", **both),
        *(group("peak memory", "t", dtype, at=((None, None),), **both) for dtype in ("fp32", "bf16")),
        group("peak memory", *nano, ((4, 100),), **both),
    ]
    return [replace(one, patience_s=PATIENCE_S) for one in groups]


Groups = Callable[[str], list[Group]]  # of a step, on a device
MORE: Pairs = ((4, None), (1, 10), (1, 100), (1, 1000))
IMAGE_COMPILED = ("official", "sam2fast", "sam2fast compiled")
STEP = re.compile(r"(.+?) (t|s|b\+|l)(?: (.+))?")


def step(name: str, device: str) -> list[Group]:
    """The rows of a step: ``KIND SIZE``, in bfloat16 unless it says fp32; see :data:`gpu_plan.steps.CALLS`."""
    kind, size, rest = STEP.fullmatch(name).groups("")
    dtype, compiled = "fp32" if rest == "fp32" else "bf16", rest == "compiled"
    pair = IMAGE_COMPILED if compiled else NEITHER_COMPILED

    def groups(*names: str, at: Pairs | None = None, subjects: tuple[str, ...], runs: int) -> list[Group]:
        return [group(one, size, dtype, at=at, subjects=subjects, runs=runs, device=device) for one in names]

    if kind == "video":
        at, runs = {"fp32": (OBJECTS, 5), "more": (MORE, 20)}.get(rest, (ONE_AND_16, 20))
        return groups("video steady frame", at=at, subjects=SUBJECTS if compiled else PLAIN, runs=runs)
    if kind == "throughput":
        # The official package tracks sixteen objects at half a second a frame: nobody waits for that more than once.
        objects = int(rest or 1)
        return groups(THROUGHPUT, at=((objects, None),), subjects=NEITHER_COMPILED, runs=5 if objects == 1 else 1)
    if kind == "image":
        names = ("image encode", "predict", "boxes")[: 1 if size != "t" else 2 if compiled else 3]
        return groups(*names, subjects=pair, runs=20)
    if kind == "stream":
        return groups("stream latency", subjects=PLAIN, runs=200)
    if kind == "masks":
        (bf16,) = groups("automatic masks", subjects=NEITHER_COMPILED, runs=5)
        other = {"dtype": "fp32"} if size == "t" else {"dtype": "fp32", "size": "nano", "image_size": 256}
        return [bf16, replace(bf16, setting=replace(bf16.setting, **other))]
    if kind == "cold start":
        return groups("cold start", at=((None, None),), subjects=pair, runs=1 if compiled else 2)
    return groups("peak memory", at=((4 if rest else None, 100 if rest else None),), subjects=NEITHER_COMPILED, runs=1)


# gpu_plan/steps.py says in which order they are worth the time of a short visit, and how long they take.
GPU_STEPS: dict[str, Groups] = {name: functools.partial(step, name) for name in CALLS}


def rehearsal(name: str) -> list[Group]:
    """A step as a CPU does it in seconds: nano on 64x64 pixels, two objects at most, one run; nothing is compiled."""
    found = []
    for group in GPU_STEPS[name]("cpu"):
        setting = replace(group.setting, size="nano", image_size=64, frames=3, compiler="eager")
        at = dict.fromkeys((objects and min(objects, 2), history and min(history, 10)) for objects, history in group.at)
        found.append(replace(group, setting=setting, at=tuple(at), runs=1))
    return found
