"""Milliseconds of a call that is made several times, by the clock or by the device's events."""

import time
from collections.abc import Callable
from typing import Any

import torch

# More than the last cache of any GPU so far.
FLUSHED_BYTES = 256 * 2**20


def wait(device: torch.device) -> None:
    """Returns when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def samples(call: Callable[[], Any], device: torch.device, runs: int) -> list[float]:
    """Milliseconds of each of ``runs`` calls; on a GPU by events, with its cache flushed before each."""
    return _by_events(call, device, runs) if device.type == "cuda" else _by_clock(call, runs)


def _by_clock(call: Callable[[], Any], runs: int) -> list[float]:
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        found.append((time.perf_counter() - start) * 1e3)
    return found


def _by_events(call: Callable[[], Any], device: torch.device, runs: int) -> list[float]:
    flush = torch.empty(FLUSHED_BYTES, dtype=torch.int8, device=device)
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
    stream = torch.cuda.current_stream(device)
    for start, end in pairs:
        flush.zero_()
        start.record(stream)
        call()
        end.record(stream)
    torch.cuda.synchronize(device)
    return [start.elapsed_time(end) for start, end in pairs]
