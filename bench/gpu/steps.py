"""The plan: what is run on a CUDA machine, most valuable first. Imports nothing that a machine may lack.

The seconds are estimates for an H200 with 16 processors, some measured on an H100. Goals are those of the project: 40 %
of the hardware's limit for a tracked frame, at the measured rate of a large matrix product.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

VISIT_S = 570.0  # of one visit: a call of ten minutes has room for it
MOST_S = 560.0  # of any step
MOST_JOBS = 8  # side by side


class Step(NamedTuple):
    """One process.

    Attributes:
        name: as in the table; ``--only`` finds steps by it.
        job: which function of :mod:`gpu.work` runs, and its argument.
        seconds: what it takes, about. It is begun only if as much is left of the budget.
        limit_s: the process is killed then.
        alone: whether it times something, and so has the machine for itself.
        goal: what the figure should be.
        needs: packages and programs besides torch, triton and numpy; without one of them it is not begun.
    """

    name: str
    job: tuple[str, str]
    seconds: float
    limit_s: float
    alone: bool = True
    goal: str = ""
    needs: tuple[str, ...] = ()


KERNELS = Path(__file__).resolve().parents[1] / "kernels"  # their records
BUILDING, TESTING = ("omegaconf",), ("pytest",)  # what building a predictor takes, and what parity
# Name -> which tests of ``tests/kernels/test_parity.py``, as ``pytest -k`` takes it, and seconds. Compiling takes most
# of it, so they run side by side.
PARITY = {
    "memory_attention": ("memory_attention and not rope_attention and not fp8", 100),
    "rope_attention": ("rope_attention", 50),
    "window_attention": ("window_attention", 80),
    "mask_ops": ("mask_ops", 50),
    "run_lengths and nms": ("run_lengths or nms", 40),
    "encoder": ("layer_norm or linear_gelu or preprocess", 50),
    "connected_components": ("connected_components", 60),
    "memory_attention in fp8": ("fp8", 50),
}
# Op and shape class of the rows in bfloat16 that decide how long a frame takes.
TUNE = {
    "memory_attention 256x64": 100,
    "window_attention *": 80,
    "memory_attention 256x256": 60,
    "window_attention global": 60,
    "linear_gelu *": 50,
}
# Name -> seconds, goal, and the ops whose cases are measured; without any, those of the record of this name.
MICRO = {
    "memory_attention": (50, "70 % of the limit", ("memory_attention",)),
    "rope_attention": (25, "55 % of the limit", ("rope_attention",)),
    "window_attention": (30, "", ("window_attention",)),
    "encoder": (30, "", ("layer_norm", "linear_gelu", "preprocess")),
    "masks": (30, "", ("mask_statistics", "upsample_and_threshold", "upsample_and_pack", "pack_masks", "unpack_masks",
                       "scaled_probabilities", "suppress_overlaps")),
    "connected_components": (20, "", ("connected_components", "fill_holes_and_remove_sprinkles",
                                  "fill_holes_in_mask_scores")),
    "mask lists": (30, "", ("encode_masks", "encode_upsampled", "decode_masks", "box_nms", "mask_nms")),
    "memory_attention compiled": (90, "", ("memory_attention",)),
}  # fmt: skip
# Steps of suite.plans -> seconds, goal. What is compiled takes minutes.
CALLS = {
    "throughput t": (80, "442 frames/s"),
    "throughput t compiled": (540, "faster than official vos_optimized"),  # on an H200 more than 365
    "throughput t objects": (80, ""),
    "throughput t ahead": (80, ""),
    "video t": (70, ""),
    "image t": (60, ""),
    "throughput l": (95, "140 frames/s"),
    "throughput l compiled": (540, "faster than official vos_optimized"),
    "throughput l ahead": (90, ""),
    "throughput l objects": (120, ""),
    "video l": (90, ""),
    "throughput t 16": (80, ""),
    "video t compiled": (200, ""),
    "image l": (50, ""),
    "masks t": (60, ""),
    "throughput b+": (60, "300 frames/s"),
    "throughput s": (60, "407 frames/s"),
    "cold start t": (60, ""),
    "stream t": (40, ""),
    "video b+": (70, ""),
    "video s": (70, ""),
    "video t fp32": (90, ""),
    "video t more": (90, ""),
    "throughput l 16": (90, ""),
    "image b+": (40, ""),
    "image s": (40, ""),
    "image t compiled": (150, ""),
    "video l compiled": (250, ""),
    "image l compiled": (200, ""),
    "image t fp32": (60, ""),
    "video l fp32": (120, ""),
    "video l more": (120, ""),
    "stream l": (50, ""),
    "image l fp32": (60, ""),
    "masks l": (70, ""),
    "peak memory t": (50, ""),
    "peak memory t video": (90, ""),
    "peak memory l": (60, ""),
    "peak memory l video": (120, ""),
    "cold start l": (80, ""),
    "cold start t fp32": (60, ""),
    "cold start t compiled": (150, ""),
    "video b+ fp32": (120, ""),
    "video s fp32": (90, ""),
    "image b+ fp32": (50, ""),
    "image s fp32": (50, ""),
}
# Kernels that the steps above do not name have their own.
_named = {word for keywords, _ in PARITY.values() for word in keywords.split()}
for _op in sorted(path.stem for path in KERNELS.glob("*.py")):
    if _op not in _named:
        PARITY[_op], MICRO[_op] = (_op, 50), (30, "", ())
SANITIZE = ("memcheck", "racecheck", "initcheck", "synccheck")
# Steps after the parity of kernels; those that are not here follow them. The first visit is to have times of tiny,
# a profile of its frames, and attention beside its bound, then what tuning changes, and large. The official compiled
# predictor takes a visit of its own.
ORDER = (
    *("call throughput t", "profile t", "micro memory_attention"),
    *("tune memory_attention 256x64", "tuned t", "call throughput l", "profile l"),
    *("micro rope_attention", "micro window_attention", "parity newer ptxas"),
    *("tune memory_attention 256x256", "tune window_attention *", "tune window_attention global", "tune linear_gelu *"),
    "call throughput t compiled",
    *("tuned l", "call throughput t objects", "call throughput t ahead", "call throughput l ahead"),
    *("call video t", "call image t", "call video l", "call throughput t 16", "micro encoder", "micro masks"),
    *("micro connected_components", "micro mask lists", "call video t compiled", "call image l", "call masks t"),
    *("call throughput b+", "call throughput s", "call cold start t", "call stream t", "call video b+", "call video s"),
)


def plan() -> list[Step]:
    """Every step in order."""
    correct = "0 wrong"
    parity = [
        Step(f"parity {name}", ("parity", keywords), seconds, 3 * seconds, False, correct, TESTING)
        for name, (keywords, seconds) in PARITY.items()
    ]
    for what, test, seconds in (("steps", "test_parity", 60), ("images", "test_images", 40)):
        needs = (*TESTING, *BUILDING)
        parity.append(Step(f"parity recorded {what}", ("recorded", test), seconds, 3 * seconds, False, correct, needs))
    parity.append(Step("parity memory of graphs", ("graph_memory", ""), 20, 60, False, correct))
    rest = [Step("parity newer ptxas", ("newer_ptxas", "attention and not fp8"), 120, 360, False, correct, TESTING)]
    rest += [
        Step(f"sanitize {tool}", ("sanitize", tool), 120, 240, False, "0 errors", ("compute-sanitizer", *TESTING))
        for tool in SANITIZE
    ]
    rest += [Step(f"tune {name}", ("tune", name), seconds, 2 * seconds) for name, seconds in TUNE.items()]
    rest += [
        Step(f"micro {name}", ("micro", name), seconds, 3 * seconds, goal=goal)
        for name, (seconds, goal, _) in MICRO.items()
    ]
    for size in ("t", "l"):
        rest.append(Step(f"profile {size}", ("profile", size), 25, 120, needs=BUILDING))
        rest.append(Step(f"tuned {size}", ("tuned", size), 80, 200, needs=BUILDING))
    rest += [
        Step(f"call {name}", ("call", name), seconds, min(2.5 * seconds, MOST_S), goal=goal, needs=BUILDING)
        for name, (seconds, goal) in CALLS.items()
    ]
    rest.sort(key=lambda step: ORDER.index(step.name) if step.name in ORDER else len(ORDER))
    return [Step("environment", ("environment", ""), 35, 90), *parity, *rest]


class Planned(NamedTuple):
    """A step at its time."""

    visit: int
    begin_s: float
    end_s: float
    step: Step


def timetable(steps: Sequence[Step], visit_s: float = VISIT_S, jobs: int = MOST_JOBS) -> list[Planned]:
    """When each step runs by the plan's own seconds, in visits of so many seconds that resume one another."""
    found: list[Planned] = []
    left, visit = list(steps), 0
    while left:
        visit, now, skipped = visit + 1, 0.0, []
        for alone, some in groupby(left, key=lambda step: step.alone):
            free = [now] * (1 if alone else jobs)  # when each process can begin
            for step in some:
                begin = min(free)
                if begin + step.seconds > visit_s:
                    skipped.append(step)
                    continue
                free[free.index(begin)] = begin + step.seconds
                found.append(Planned(visit, begin, begin + step.seconds, step))
            now = max(free)
        left = skipped
    return found


def listed(planned: Iterable[Planned]) -> str:
    """A line for each step: its visit, from which second to which, its name and its goal."""
    lines = [f"{p.visit:5} {p.begin_s:5.0f} {p.end_s:5.0f}  {p.step.name:32} {p.step.goal}".rstrip() for p in planned]
    return "\n".join(["visit  from    to  step"] + lines)
