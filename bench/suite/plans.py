"""Cases of whole predictors, and the settings at which they are measured: by the command line, by the CPU's plan and by
steps on a GPU. The ops have records, in ``bench/kernels``.
"""

import argparse
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from suite.process_cases import cold_start, peak_memory
from suite.sessions import (
    MASKS_HEIGHT,
    MASKS_WIDTH,
    POINTS_PER_SIDE,
    Boxes,
    Encode,
    Masks,
    Predict,
    Session,
    unlike_masks,
    worst_error,
)
from suite.subjects import SUBJECTS, Setting
from suite.video_cases import MEASURED_TOGETHER, PREFILLED, Steady, Stream, Throughput

# Results by which a subject is judged before it is timed; see :mod:`suite.accuracy`.
FIRST_CALL, FIRST_FRAMES = "first call", "first frames"
THROUGHPUT = "video throughput"


@dataclass(frozen=True)
class Case:
    """One kind of call that is timed.

    Attributes:
        name: as in the result files.
        open: a subject's session at a setting; raises ``MissingError`` where there is none.
        note: note of its rows about what is timed.
        at: default pairs of objects and history.
        runs: default number of timed calls.
        compare: returns the distance of the second result from the first; 0 if they are equal.
        percentiles: True if rows have percentiles of latency.
        judged: results that are judged in bfloat16; None if only ``compare`` is used.
        has_masks: True if results are logits of masks, so that rows have the IoU of each.
        is_profiled: True if steps on a GPU profile our calls, too.
    """

    name: str
    open: Callable[[str, Setting], Session]
    note: str
    at: tuple[tuple[int | None, int | None], ...] = ((None, None),)
    runs: int = 5
    compare: Callable[[Any, Any], float] = worst_error
    percentiles: bool = False
    judged: str | None = FIRST_CALL
    has_masks: bool = True
    is_profiled: bool = False


ONE_TO_64 = ((1, None), (16, None), (64, None))
ONE_AND_16 = ((1, None), (16, None))
OBJECTS = ((1, None), (4, None), (16, None))
HISTORIES = ((1, 10), (1, 100), (1, 1000))
CASES = (
    Case("image encode", Encode, "set_image of an image of 1200x1800", has_masks=False, is_profiled=True),
    Case("predict", Predict, "one click on an image that is set, three masks of 1200x1800", runs=10, is_profiled=True),
    Case(
        "boxes",
        Boxes,
        "boxes in one call on an image that is set, a mask of 1200x1800 each",
        ONE_TO_64,
        is_profiled=True,
    ),
    Case("video steady frame", Steady, PREFILLED, OBJECTS + HISTORIES, judged=FIRST_FRAMES),
    Case(
        THROUGHPUT,
        Throughput,
        f"seconds per frame of {MEASURED_TOGETHER} frames tracked between two synchronisations of the device, "
        f"where no other number is given; {PREFILLED}",
        ONE_AND_16,
        runs=2,
        judged=FIRST_FRAMES,
        is_profiled=True,
    ),
    Case(
        "stream latency",
        Stream,
        "open_stream().step, memories full",
        ((1, None),),
        runs=100,
        percentiles=True,
        judged=FIRST_FRAMES,
    ),
    Case(
        "automatic masks",
        Masks,
        f"{POINTS_PER_SIDE}x{POINTS_PER_SIDE} points on an image of {MASKS_HEIGHT}x{MASKS_WIDTH}; the difference is "
        "the share of masks without a counterpart",
        runs=2,
        compare=unlike_masks,
        judged=None,
        has_masks=False,
    ),
    Case(
        "cold start",
        cold_start,
        "a fresh process imports the package, builds the model from a checkpoint and gives the first mask of an image "
        "of 600x900; kernels compiled by an earlier process may be cached",
        runs=3,
    ),
    Case(
        "peak memory",
        peak_memory,
        "a process of its own: resident memory, or allocated on a GPU, with the model. Without a history one image is "
        "set and clicked; with one, all objects are tracked through that many frames",
        ((None, None), (4, 100)),
        runs=1,
    ),
)


def _variant(name: str, note: str, **changed: Any) -> Case:
    """Returns throughput of our predictor alone, with other settings."""
    plain = next(case for case in CASES if case.name == THROUGHPUT)
    return replace(
        plain,
        name=f"{THROUGHPUT}, {name}",
        open=lambda subject, setting: Throughput(subject, replace(setting, **changed)),
        note=f"{note}; {plain.note}",
        at=ONE_AND_16[:1],
    )


ALONE = _variant("ours alone", "without the official package")
AHEAD = tuple(
    _variant(f"encode_ahead {count}", f"{count} frames are encoded at once", encode_ahead=count)
    for count in (1, 2, 4, 8)
)
VARIANTS = (ALONE, *AHEAD)  # in steps on a GPU only


def case_of(name: str) -> Case:
    return next(case for case in (*CASES, *VARIANTS) if case.name == name)


NEITHER_COMPILED = ("official", "sam2fast")
VOS_OPTIMIZED = ("official", "official vos_optimized", "sam2fast")
PATIENCE_S = 30.0
CPU_FRAMES = 10  # between two synchronisations, unless more are asked for
Pairs = tuple[tuple[int | None, int | None], ...]


@dataclass(frozen=True)
class Group:
    """Rows that share their sessions.

    Attributes:
        interleaved: True if its rows take turns with those of neighbours that are interleaved, too.
    """

    case: Case
    setting: Setting  # but for objects and history
    at: Pairs
    runs: int
    subjects: tuple[str, ...] = SUBJECTS
    patience_s: float = float("inf")  # for the rounds of one row
    interleaved: bool = False

    def names(self) -> list[tuple[Any, ...]]:
        """Returns the names of its rows, see :func:`suite.results.key`."""
        of = self.setting
        return [(self.case.name, of.size, of.dtype, of.image_size, *pair) for pair in self.at]


def group(name: str, setting: Setting, at: Pairs | None = None, runs: int | None = None, **more: Any) -> Group:
    case = case_of(name)
    return Group(case, setting, at or case.at, runs or case.runs, **more)


def asked_for(asked: argparse.Namespace) -> list[Group]:
    """Returns every combination of the given values, by default of the smallest model in fp32 and each case's own."""
    frames, subjects = asked.frames or (CPU_FRAMES if asked.device == "cpu" else None), tuple(asked.subject) or SUBJECTS
    found = []
    for case in chosen(CASES, asked.only):
        at = _pairs(case, asked.objects, asked.history)
        for size, dtype in itertools.product(asked.size or ("t",), asked.dtype or ("fp32",)):
            for side in asked.image_size or (256 if size == "nano" else 1024,):
                setting = Setting(size, dtype, side, asked.device, frames=frames)
                found.append(group(case.name, setting, at, asked.runs, subjects=subjects))
    return found


def _pairs(case: Case, objects: Sequence[int], histories: Sequence[int]) -> Pairs:
    """Returns the given objects and histories if the case depends on them, and its own values otherwise."""
    counted, aged = (any(pair[i] is not None for pair in case.at) for i in (0, 1))
    if counted and objects:
        return tuple(itertools.product(objects, (aged and histories) or (None,)))
    if aged and histories:
        usual = next(o for o, h in case.at if h is not None)
        return tuple((usual, h) for h in histories)
    return case.at


def chosen(cases: Iterable[Case], names: Sequence[str]) -> list[Case]:
    """Returns the cases with one of these texts in their names."""
    return [case for case in cases if not names or any(name in case.name for name in names)]


def cpu() -> list[Group]:
    """Returns rows of under a quarter of an hour on two cores. Only nano is compiled, since that takes minutes."""
    both, nano, tiny, bf16 = (
        {"subjects": NEITHER_COMPILED},
        Setting("nano", "fp32", 256),
        Setting("t"),
        Setting("t", "bf16"),
    )
    # Not base+ in bfloat16: where that is imitated, the official package takes a minute an image.
    groups = [
        group("image encode", nano),
        *(group("image encode", model, **both) for model in (tiny, bf16, Setting("b+"))),
        *(group("predict", model, **both) for model in (tiny, bf16)),
        group("boxes", tiny, runs=3, **both),
        group("video steady frame", Setting("t", "fp32", 256), **both),
        group("video steady frame", tiny, OBJECTS[:2], 2, **both),
        group(THROUGHPUT, replace(nano, frames=CPU_FRAMES), ONE_AND_16[:1], 2, **both),
        *(group(name, nano, **both) for name in ("stream latency", "automatic masks", "cold start")),
        group("cold start", tiny, **both),
        *(group("peak memory", model, ((None, None),), **both) for model in (tiny, bf16)),
        group("peak memory", nano, ((4, 100),), **both),
    ]
    return [replace(one, patience_s=PATIENCE_S) for one in groups]


VIDEO_AT: Pairs = ((1, None), (4, None), (16, None), (64, None))


def step(name: str, device: str) -> list[Group]:
    """Returns the rows of a step of ``gpu/steps.py``, in bfloat16."""
    t, s, b, large = (Setting(size, "bf16", device=device) for size in ("t", "s", "b+", "l"))
    one = ONE_AND_16[:1]

    def ours(case: Case, setting: Setting, at: Pairs = one, runs: int = 3, **more: Any) -> Group:
        return Group(case, setting, at, runs, ("sam2fast",), **more)

    def beside(setting: Setting, subjects: tuple[str, ...] = NEITHER_COMPILED) -> Group:
        return group(THROUGHPUT, replace(setting, frames=48), one, 3, subjects=subjects)

    steps = {
        "ahead": [ours(case, t, runs=5, interleaved=True) for case in AHEAD],
        "ours": [ours(ALONE, setting) for setting in (s, b, large)],
        "objects": [ours(ALONE, replace(t, image_size=side, frames=40), VIDEO_AT, 2) for side in (1024, 512)],
        "official": [beside(setting) for setting in (t, s, b, large)],
        "stream": [ours(case_of("stream latency"), t, runs=200)],
        "vos_optimized t": [beside(t, VOS_OPTIMIZED)],
        "vos_optimized l": [beside(large, VOS_OPTIMIZED)],
        "peak memory": [group(THROUGHPUT, replace(t, frames=24), ((4, None),), 2, subjects=NEITHER_COMPILED)],
        "images": [group(case, t, runs=20, subjects=NEITHER_COMPILED) for case in ("image encode", "predict", "boxes")],
    }
    return steps[name]


def rehearsal(name: str) -> list[Group]:
    """Returns a step for a CPU, in seconds: nano on 64x64 pixels, two objects at most, one run, nothing compiled."""
    found = []
    for group in step(name, "cpu"):
        setting = rehearsed(group.setting)
        at = dict.fromkeys((objects and min(objects, 2), history and min(history, 10)) for objects, history in group.at)
        found.append(replace(group, setting=setting, at=tuple(at), runs=1))
    return found


def rehearsed(setting: Setting) -> Setting:
    return replace(setting, size="nano", image_size=64, frames=3)
