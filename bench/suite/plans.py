"""Which cases are run at which settings: what is asked for, the plan of this machine's CPU, and steps for a GPU.

The steps come in the order of their value, so that a short visit to a GPU has the figures that matter. Each builds its
models anew, and takes a minute or so, but for those that compile: these take minutes, and their rows replace those that
the others got before. ``rehearsal`` has the same calls for a CPU.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

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

    @property
    def name(self) -> str:
        return f"{self.case.name}, {self.setting.size} {self.setting.dtype}, {self.setting.image_size} px"


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
    setting = Setting(size, dtype, image_size, device, frames=frames)
    return Group(case, setting, at or case.at, runs or case.runs, subjects)


def asked_for(
    names: Sequence[str],
    sizes: Sequence[str],
    dtypes: Sequence[str],
    image_sizes: Sequence[int],
    objects: Sequence[int],
    histories: Sequence[int],
    subjects: Sequence[str],
    runs: int | None,
    device: str,
    frames: int | None = None,
) -> list[Group]:
    """Every combination of what is given; of what is not, the smallest model in fp32, and each case's own."""
    found = []
    for case in chosen(CASES, names):
        at = _pairs(case, objects, histories)
        for size, dtype in itertools.product(sizes or ("t",), dtypes or ("fp32",)):
            for image_size in image_sizes or (256 if size == "nano" else 1024,):
                together = frames or (CPU_FRAMES if device == "cpu" else None)
                setting = Setting(size, dtype, image_size, device, frames=together)
                found.append(Group(case, setting, at, runs or case.runs, tuple(subjects) or SUBJECTS))
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
    both = NEITHER_COMPILED
    groups = [group("image encode", "nano", "fp32", 256)]
    # Not base+ in bfloat16: where that is imitated, the official package takes a minute a picture.
    models = [("t", "fp32"), ("t", "bf16"), ("b+", "fp32")]
    groups += [group("image encode", *model, subjects=both) for model in models]
    groups += [group("predict", "t", dtype, subjects=both) for dtype in ("fp32", "bf16")]
    groups += [group("boxes", "t", subjects=both, runs=3)]
    groups += [group("video steady frame", "t", "fp32", 256, subjects=both)]
    groups += [group("video steady frame", "t", "fp32", 1024, OBJECTS[:2], both, runs=2)]
    groups += [group(THROUGHPUT, "nano", "fp32", 256, ONE_AND_16[:1], both, 2, frames=CPU_FRAMES)]
    groups += [group("stream latency", "nano", "fp32", 256, subjects=both)]
    groups += [group("automatic masks", "nano", "fp32", 256, subjects=both)]
    groups += [group("cold start", "nano", "fp32", 256, subjects=both), group("cold start", "t", subjects=both)]
    groups += [group("peak memory", "t", dtype, at=((None, None),), subjects=both) for dtype in ("fp32", "bf16")]
    groups += [group("peak memory", "nano", "fp32", 256, ((4, 100),), both)]
    return [replace(one, patience_s=PATIENCE_S) for one in groups]


Groups = Callable[[str], list[Group]]  # of a step, on a device
MORE: Pairs = ((4, None), (1, 10), (1, 100), (1, 1000))


def _video(size: str, dtype: str, at: Pairs, subjects: tuple[str, ...] = PLAIN, runs: int = 20) -> Groups:
    def groups(device: str) -> list[Group]:
        return [group("video steady frame", size, dtype, 1024, at, subjects, runs, device)]

    return groups


def _throughput(size: str, objects: int, runs: int) -> Groups:
    # The official package tracks sixteen objects at half a second a frame: nobody waits for that more than once.
    at = ((objects, None),)
    return lambda device: [group(THROUGHPUT, size, "bf16", 1024, at, NEITHER_COMPILED, runs, device)]


def _stream(size: str) -> Groups:
    return lambda device: [group("stream latency", size, "bf16", subjects=PLAIN, runs=200, device=device)]


def _images(size: str, dtype: str, names: Sequence[str], subjects: tuple[str, ...] = NEITHER_COMPILED) -> Groups:
    def groups(device: str) -> list[Group]:
        return [group(name, size, dtype, subjects=subjects, runs=20, device=device) for name in names]

    return groups


def _masks(*models: tuple[str, str, int]) -> Groups:
    def groups(device: str) -> list[Group]:
        return [group("automatic masks", *model, subjects=NEITHER_COMPILED, runs=5, device=device) for model in models]

    return groups


def _processes(name: str, size: str, dtype: str, at: Pairs, subjects: tuple[str, ...], runs: int) -> Groups:
    return lambda device: [group(name, size, dtype, 1024, at, subjects, runs, device)]


ALL_IMAGE, ONCE = ("image encode", "predict", "boxes"), ((None, None),)
IMAGE_COMPILED = ("official", "sam2fast", "sam2fast compiled")
# gpu_plan/steps.py says in which order they are worth the time of a short visit.
GPU_STEPS: dict[str, Groups] = {
    "video t": _video("t", "bf16", ONE_AND_16),
    "throughput t": _throughput("t", 1, 5),
    "image t": _images("t", "bf16", ALL_IMAGE),
    "throughput t 16": _throughput("t", 16, 1),
    "video l": _video("l", "bf16", ONE_AND_16),
    "throughput l": _throughput("l", 1, 5),
    "video t compiled": _video("t", "bf16", ONE_AND_16, SUBJECTS),
    "image l": _images("l", "bf16", ALL_IMAGE[:1]),
    "masks t": _masks(("t", "bf16", 1024), ("t", "fp32", 1024)),
    "cold start t": _processes("cold start", "t", "bf16", ONCE, NEITHER_COMPILED, 2),
    "video b+": _video("b+", "bf16", ONE_AND_16),
    "video s": _video("s", "bf16", ONE_AND_16),
    "stream t": _stream("t"),
    "video t fp32": _video("t", "fp32", OBJECTS, runs=5),
    "video t more": _video("t", "bf16", MORE),
    "throughput l 16": _throughput("l", 16, 1),
    "image b+": _images("b+", "bf16", ALL_IMAGE[:1]),
    "image s": _images("s", "bf16", ALL_IMAGE[:1]),
    "throughput b+": _throughput("b+", 1, 5),
    "throughput s": _throughput("s", 1, 5),
    "image t compiled": _images("t", "bf16", ALL_IMAGE[:2], IMAGE_COMPILED),
    "video l compiled": _video("l", "bf16", ONE_AND_16, SUBJECTS),
    "image l compiled": _images("l", "bf16", ALL_IMAGE[:1], IMAGE_COMPILED),
    "image t fp32": _images("t", "fp32", ALL_IMAGE),
    "video l fp32": _video("l", "fp32", OBJECTS, runs=5),
    "video l more": _video("l", "bf16", MORE),
    "stream l": _stream("l"),
    "image l fp32": _images("l", "fp32", ALL_IMAGE[:1]),
    "masks l": _masks(("l", "bf16", 1024), ("nano", "fp32", 256)),
    "peak memory t": _processes("peak memory", "t", "bf16", ONCE, NEITHER_COMPILED, 1),
    "peak memory t video": _processes("peak memory", "t", "bf16", ((4, 100),), NEITHER_COMPILED, 1),
    "peak memory l": _processes("peak memory", "l", "bf16", ONCE, NEITHER_COMPILED, 1),
    "peak memory l video": _processes("peak memory", "l", "bf16", ((4, 100),), NEITHER_COMPILED, 1),
    "cold start l": _processes("cold start", "l", "bf16", ONCE, NEITHER_COMPILED, 2),
    "cold start t fp32": _processes("cold start", "t", "fp32", ONCE, NEITHER_COMPILED, 2),
    "cold start t compiled": _processes("cold start", "t", "bf16", ONCE, IMAGE_COMPILED, 1),
    "video b+ fp32": _video("b+", "fp32", OBJECTS, runs=5),
    "video s fp32": _video("s", "fp32", OBJECTS, runs=5),
    "image b+ fp32": _images("b+", "fp32", ALL_IMAGE[:1]),
    "image s fp32": _images("s", "fp32", ALL_IMAGE[:1]),
}


def rehearsal(name: str) -> list[Group]:
    """A step as a CPU does it in seconds: nano on 64x64 pixels, two objects at most, one run; nothing is compiled."""
    return [_rehearsed(group) for group in GPU_STEPS[name]("cpu")]


def _rehearsed(group: Group) -> Group:
    setting = replace(group.setting, size="nano", image_size=64, frames=3, compiler="eager")
    at = dict.fromkeys((objects and min(objects, 2), history and min(history, 10)) for objects, history in group.at)
    return replace(group, setting=setting, at=tuple(at), runs=1)
