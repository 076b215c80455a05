"""The state of a device while something is measured: its clock, power and reasons for lower clocks, which are only
read; and its rates over a second.
"""

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sam2fast.profiling.limits import COPIED, SIDE

QUERIED = "clocks.sm,power.draw,temperature.gpu,clocks_event_reasons.active"
EVERY_MS = 200
# Bits of the last number, as NVML names them. The first says that nothing ran.
REASONS = ("idle", "application clocks", "power cap", "hardware slowdown", "sync boost", "software thermal",
           "hardware thermal", "power brake", "display clocks")  # fmt: skip


@contextmanager
def watched(device: torch.device) -> Iterator[dict[str, Any]]:
    """Watches a GPU inside. Yields a dict that has :func:`clocks` afterwards; it stays empty on other devices."""
    found: dict[str, Any] = {}
    if device.type != "cuda":
        yield found
        return
    uuid = torch.cuda.get_device_properties(device).uuid
    command = ["nvidia-smi", f"--id=GPU-{uuid}", f"--query-gpu={QUERIED}", "--format=csv,noheader,nounits"]
    try:
        process = subprocess.Popen(
            [*command, f"--loop-ms={EVERY_MS}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    except OSError as error:
        found["note"] = f"not read: nvidia-smi: {error}"
        yield found
        return
    try:
        yield found
    finally:
        process.terminate()
        found |= clocks(process.communicate()[0])


def clocks(printed: str) -> dict[str, Any]:
    """Returns ranges of the values that nvidia-smi has printed, and samples by reason for lower clocks.

    If it has printed no value, a note with its message.
    """
    rows = [line.split(", ") for line in printed.splitlines() if re.fullmatch(r"[\d.]+(, [\d.]+){2}, 0x\w+", line)]
    if not rows:
        return {"note": f"not read: {' '.join(printed.split())[:200]}"}
    found: dict[str, Any] = {"samples": len(rows)}
    for name, column in zip(("SM MHz", "W", "C"), range(3), strict=True):
        values = [float(row[column]) for row in rows]
        found[name] = {"min": min(values), "max": max(values), "mean": sum(values) / len(values)}
    masks = [int(row[3], 16) for row in rows]
    seen = {name: sum(mask >> bit & 1 for mask in masks) for bit, name in enumerate(REASONS)}
    return found | {"samples with reasons": {name: count for name, count in seen.items() if count}}


def sustained_rates(device: torch.device) -> dict[str, float]:
    """Measures a large matrix multiplication and a large copy over a second, in which clocks may fall."""
    a, b = (torch.randn(SIDE, SIDE, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(COPIED, device=device)
    target = torch.empty_like(source)
    return {
        "sustained bfloat16 TFLOP/s": sustained(lambda: a @ b, device) * 2 * SIDE**3 / 1e12,
        "sustained copy TB/s": sustained(lambda: target.copy_(source), device) * 2 * source.nbytes / 1e12,
    }


def sustained(call: Callable[[], Any], device: torch.device, seconds: float = 1.0) -> float:
    """Counts calls per second for ``seconds`` or a little more; waits for the device after every ten calls."""
    count, start = 0, time.perf_counter()
    while (taken := time.perf_counter() - start) < seconds:
        for _ in range(10):
            call()
        torch.cuda.synchronize(device)
        count += 10
    return count / taken
