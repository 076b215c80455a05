"""The plan: what is run on a CUDA machine, most valuable first. Imports nothing that a machine may lack.

The seconds are estimates for an H200 with 16 processors. Goals are those of the project: 40 % of the hardware's limit
for a tracked frame, at the measured rate of a large matrix product.
"""

from typing import NamedTuple


class Step(NamedTuple):
    """One process.

    Attributes:
        name: as in the table; ``--only`` finds steps by it.
        job: which function of :mod:`gpu_plan.work` runs, and its argument.
        seconds: what it takes, about. It is begun only if as much is left of the budget.
        limit_s: the process is killed then.
        alone: whether it times something, and so has the machine for itself.
        goal: what the figure should be.
    """

    name: str
    job: tuple[str, str]
    seconds: float
    limit_s: float
    alone: bool = True
    goal: str = ""


# Argument of the job -> seconds. Compiling takes most of it, so these steps run side by side.
PARITY = {
    "memory_attention": 70,
    "rope_attention": 50,
    "window_attention": 80,
    "mask_ops": 50,
    "run_lengths and nms": 40,
    "encoder": 50,
    "connected_components": 30,
    "memory_attention in fp8": 50,
    "recorded steps": 60,
}
# Op and shape class of the rows in bfloat16 that decide how long a frame takes.
TUNE = {
    "memory_attention 256x64": 100,
    "window_attention *": 80,
    "memory_attention 256x256": 60,
    "window_attention global": 60,
    "linear_gelu *": 50,
}
# Name -> seconds and goal; the ops of each are in :mod:`gpu_plan.work`.
MICRO = {
    "memory_attention": (50, "70 % of the limit"),
    "rope_attention": (25, "55 % of the limit"),
    "window_attention": (30, ""),
    "encoder": (30, ""),
    "masks": (30, ""),
    "connected_components": (20, ""),
    "mask lists": (30, ""),
    "memory_attention compiled": (90, ""),
}
# Names of suite.plans.GPU_STEPS -> seconds and goal.
CALLS = {
    "throughput t": (60, "442 frames/s"),
    "video t": (80, ""),
    "image t": (50, ""),
    "throughput l": (70, "140 frames/s"),
    "video l": (90, ""),
    "masks t": (60, ""),
    "cold start t": (60, ""),
    "video t compiled": (160, ""),
    "throughput b+": (60, "300 frames/s"),
    "throughput s": (60, "407 frames/s"),
    "image l": (50, ""),
    "video t objects": (90, ""),
    "video t history": (60, ""),
    "stream t": (30, ""),
    "video b+": (80, ""),
    "video s": (80, ""),
    "masks l": (60, ""),
    "cold start l": (60, ""),
    "image b+ and s": (60, ""),
    "video t fp32": (90, ""),
    "image compiled": (120, ""),
    "video l compiled": (200, ""),
}
SANITIZE = ("memcheck", "racecheck", "initcheck", "synccheck")


def plan() -> list[Step]:
    """Every step in order."""
    steps = [Step("environment", ("environment", ""), 30, 90)]
    steps += [
        Step(f"parity {name}", ("parity", name), seconds, 3 * seconds, alone=False, goal="0 wrong")
        for name, seconds in PARITY.items()
    ]
    steps += [Step(f"tune {name}", ("tune", name), seconds, 2 * seconds) for name, seconds in TUNE.items()]
    micro = [
        Step(f"micro {name}", ("micro", name), seconds, 3 * seconds, goal=goal)
        for name, (seconds, goal) in MICRO.items()
    ]
    calls = [
        Step(f"call {name}", ("call", name), seconds, 2.5 * seconds, goal=goal)
        for name, (seconds, goal) in CALLS.items()
    ]
    steps += micro[:3] + calls[:6] + micro[3:7] + calls[6:]
    steps += [Step(f"sanitize {tool}", ("sanitize", tool), 120, 240, alone=False, goal="0 errors") for tool in SANITIZE]
    return [*steps, micro[7]]
