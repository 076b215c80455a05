"""The plan: what is run on a CUDA machine, most valuable first. Imports nothing that a machine may lack.

The seconds are estimates for an H200 with 16 processors. Goals are those of the project: 40 % of the hardware's limit
for a tracked frame, at the measured rate of a large matrix product.
"""

import json
from pathlib import Path
from typing import NamedTuple

MOST_S = 560.0  # of any step: a call of ten minutes has room for it


class Step(NamedTuple):
    """One process.

    Attributes:
        name: as in the table; ``--only`` finds steps by it.
        job: which function of :mod:`gpu_plan.work` runs, and its argument.
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


BUILDING, TESTING = ("omegaconf",), ("pytest",)  # what building a predictor takes, and what parity
LAUNCH_TABLE = Path(__file__).resolve().parents[2] / "kernels" / "launch_table.json"
# Name -> which tests of ``tests/kernels/test_parity.py``, as ``pytest -k`` takes it, and seconds. Compiling takes most
# of it, so they run side by side.
PARITY = {
    "memory_attention": ("memory_attention and not rope_attention and not fp8", 70),
    "rope_attention": ("rope_attention", 50),
    "window_attention": ("window_attention", 80),
    "mask_ops": ("mask_ops", 50),
    "run_lengths and nms": ("run_lengths or nms", 40),
    "encoder": ("layer_norm or linear_gelu or preprocess", 50),
    "connected_components": ("connected_components", 30),
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
    "throughput t": (60, "442 frames/s"),
    "video t": (70, ""),
    "image t": (60, ""),
    "throughput l": (70, "140 frames/s"),
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
for _op in json.loads(LAUNCH_TABLE.read_text(encoding="utf-8")):
    if _op not in _named:
        PARITY[_op], MICRO[_op] = (_op, 50), (30, "", ())
SANITIZE = ("memcheck", "racecheck", "initcheck", "synccheck")


def plan() -> list[Step]:
    """Every step in order."""
    steps = [Step("environment", ("environment", ""), 30, 90)]
    steps += [
        Step(f"parity {name}", ("parity", keywords), seconds, 3 * seconds, False, "0 wrong", TESTING)
        for name, (keywords, seconds) in PARITY.items()
    ]
    needs = (*TESTING, *BUILDING)
    steps.append(Step("parity recorded steps", ("recorded", ""), 60, 180, False, "0 wrong", needs))
    steps += [Step(f"tune {name}", ("tune", name), seconds, 2 * seconds) for name, seconds in TUNE.items()]
    micro = [
        Step(f"micro {name}", ("micro", name), seconds, 3 * seconds, goal=goal)
        for name, (seconds, goal, _) in MICRO.items()
    ]
    compiled = micro.pop(7)
    calls = [
        Step(f"call {name}", ("call", name), seconds, min(2.5 * seconds, MOST_S), goal=goal, needs=BUILDING)
        for name, (seconds, goal) in CALLS.items()
    ]
    # What decides most comes first of both; the sanitizer before what few ask for.
    steps += micro[:3] + calls[:6] + micro[3:] + calls[6:15]
    steps += [
        Step(f"sanitize {tool}", ("sanitize", tool), 120, 240, False, "0 errors", ("compute-sanitizer", *TESTING))
        for tool in SANITIZE
    ]
    return [*steps, compiled, *calls[15:]]
