"""Which cases are run at which settings: what is asked for, the plan of this machine's CPU, and parts for a GPU.

A part of a GPU plan has its compiled subjects last: these take minutes to compile, and their rows replace those that
the others got before, so that a run that is cut short has figures too.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from suite.cases import CASES, HISTORIES, OBJECTS, Case, case_of
from suite.subjects import SUBJECTS, Setting

PLAIN = ("official", "sam2fast", "sam2fast fast")
NEITHER_COMPILED = ("official", "sam2fast")
PATIENCE_S = 30.0
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
) -> Group:
    case = case_of(name)
    return Group(case, Setting(size, dtype, image_size, device), at or case.at, runs or case.runs, subjects)


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
) -> list[Group]:
    """Every combination of what is given; of what is not, the smallest model in fp32, and each case's own."""
    found = []
    for case in chosen(CASES, names):
        at = _pairs(case, objects, histories)
        for size, dtype in itertools.product(sizes or ("t",), dtypes or ("fp32",)):
            for image_size in image_sizes or (256 if size == "nano" else 1024,):
                setting = Setting(size, dtype, image_size, device)
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
    groups += [group("stream latency", "nano", "fp32", 256, subjects=both)]
    groups += [group("automatic masks", "nano", "fp32", 256, subjects=both)]
    groups += [group("cold start", "nano", "fp32", 256, subjects=both), group("cold start", "t", subjects=both)]
    groups += [group("peak memory", "t", dtype, at=((None, None),), subjects=both) for dtype in ("fp32", "bf16")]
    groups += [group("peak memory", "nano", "fp32", 256, ((4, 100),), both)]
    return [replace(one, patience_s=PATIENCE_S) for one in groups]


def video_part(size: str, device: str) -> list[Group]:
    def frames(dtype: str, at: Pairs, subjects: tuple[str, ...]) -> Group:
        return group("video steady frame", size, dtype, 1024, at, subjects, 30, device)

    return [
        frames("bf16", OBJECTS + HISTORIES, PLAIN),
        group("stream latency", size, "bf16", subjects=PLAIN, runs=200, device=device),
        frames("fp32", OBJECTS, PLAIN),
        frames("bf16", OBJECTS, ("official", "sam2fast", "sam2fast fast", "sam2fast compiled")),
        frames("bf16", OBJECTS, SUBJECTS),
    ]


def image_part(device: str) -> list[Group]:
    sizes_and_dtypes = list(itertools.product(("t", "l", "b+", "s"), ("bf16", "fp32")))
    encode = [
        group("image encode", *one, subjects=NEITHER_COMPILED, runs=20, device=device) for one in sizes_and_dtypes
    ]
    prompts = [group(name, "t", dtype, subjects=NEITHER_COMPILED, runs=20, device=device)
               for name in ("predict", "boxes") for dtype in ("bf16", "fp32")]  # fmt: skip
    compiled = [group("image encode", size, "bf16", runs=20, device=device) for size in ("t", "l")]
    return [*encode, *prompts, *compiled, group("predict", "t", "bf16", runs=20, device=device)]


def masks_part(device: str) -> list[Group]:
    models = [("nano", "fp32", 256), ("t", "fp32", 1024), ("t", "bf16", 1024), ("l", "bf16", 1024)]
    return [group("automatic masks", *model, subjects=NEITHER_COMPILED, runs=5, device=device) for model in models]


def cold_part(device: str) -> list[Group]:
    both = NEITHER_COMPILED
    return [
        *(group("cold start", size, dtype, subjects=both, device=device)
          for size in ("t", "l") for dtype in ("fp32", "bf16")),
        *(group("peak memory", size, "bf16", at=((None, None), (4, 100), (16, 100)), subjects=PLAIN, device=device)
          for size in ("t", "l")),
        group("cold start", "t", "bf16", runs=1, device=device),
    ]  # fmt: skip


GPU_PARTS = {
    **{f"video-{letter}": lambda device, size=size: video_part(size, device)
       for letter, size in (("t", "t"), ("s", "s"), ("b", "b+"), ("l", "l"))},
    "image": image_part,
    "amg": masks_part,
    "cold": cold_part,
}  # fmt: skip
