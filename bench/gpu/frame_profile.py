"""A profile of steady frames by torch.profiler: how long each kernel takes, and how long its stream waits before it.

A CUDA graph is one launch for the host; its kernels are seen one by one.
"""

import contextlib
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from mask_copies import median_ms, written
from torch.profiler import ProfilerActivity, profile

from sam2fast.profiling.limits import wait

FRAMES = 24  # whole batches of frames that are encoded at once
# Functions of CUDA in which the predictor waits for the device; the timer calls another one, cudaDeviceSynchronize.
WAITS = ("cudaEventSynchronize", "cudaStreamSynchronize")


class Event(NamedTuple):
    """A kernel or copy that ran."""

    name: str
    stream: int
    begin_us: float
    end_us: float


class Profile(NamedTuple):
    """A profiled call.

    Attributes:
        events: what ran on the device, in order; on a CPU operations that no other operation calls.
        waits_us: microseconds in which the predictor waited for the device; None if no call of CUDA was seen.
    """

    events: list[Event]
    waits_us: float | None


def profile_of(call: Callable[[], Any], device: torch.device) -> Profile:
    """Profiles a call."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        call()
    kind = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    seen = profiler.events() or ()
    found = [
        Event(each.name, each.device_resource_id, each.time_range.start, each.time_range.end)
        for each in seen
        if each.device_type == kind and (on_gpu or each.cpu_parent is None)
    ]
    host = [each for each in seen if on_gpu and each.device_type != kind and each.name.startswith("cuda")]
    waits_us = sum(each.time_range.end - each.time_range.start for each in host if each.name in WAITS)
    return Profile(sorted(found, key=lambda event: event.begin_us), waits_us if host else None)


def synchronised(call: Callable[[], Any], device: torch.device) -> None:
    """Makes a call, and waits for its kernels."""
    call()
    wait(device)


def kernel_names(call: Callable[[], Any], device: torch.device) -> list[str]:
    """Returns the kernels that a call runs on a GPU, each once, the longest first."""
    seconds: dict[str, float] = {}
    for event in profile_of(lambda: synchronised(call, device), device).events:
        seconds[event.name] = seconds.get(event.name, 0.0) + event.end_us - event.begin_us
    return sorted(seconds, key=lambda name: -seconds[name])


def rows_of(found: Sequence[Event], frames: int) -> list[dict[str, Any]]:
    """Returns a row for all, then one for each kernel of each stream, the longest first; figures are of one frame.

    A gap is the time on a stream from the end of one kernel to the begin of the next. ``busy us`` is the time in which
    at least one stream computes, and ``overlap us`` the sum over the streams beyond it.
    """
    by_kernel: dict[tuple[int, str], list[tuple[float, float]]] = {}
    ends: dict[int, float] = {}
    for event in found:
        gap = max(0.0, event.begin_us - ends.get(event.stream, event.begin_us))
        ends[event.stream] = max(event.end_us, ends.get(event.stream, event.end_us))
        by_kernel.setdefault((event.stream, event.name), []).append((event.end_us - event.begin_us, gap))
    each = [
        {
            "kernel": name[:200],
            "stream": stream,
            "calls": len(taken) / frames,
            "us of a call": statistics.median(us for us, _ in taken),
            "us": sum(us for us, _ in taken) / frames,
            "gap us of a call": statistics.median(gap for _, gap in taken),
            "gap us": sum(gap for _, gap in taken) / frames,
        }
        for (stream, name), taken in by_kernel.items()
    ]
    span = max(event.end_us for event in found) - min(event.begin_us for event in found)
    busy = _busy(found)
    streams = {str(stream): _busy(event for event in found if event.stream == stream) for stream in ends}
    every = {
        "kernel": "all",
        "frames": frames,
        "calls": len(found) / frames,
        "us": span / frames,
        "busy us": busy / frames,
        "idle us": (span - busy) / frames,
        "streams": {stream: us / frames for stream, us in streams.items()},
        "overlap us": (sum(streams.values()) - busy) / frames,
        "copies us": _busy(event for event in found if event.name.startswith("Memcpy")) / frames,
    }
    return [every, *sorted(each, key=lambda row: -row["us"])]


def _busy(found: Iterable[Event]) -> float:
    """Returns the microseconds in which any of the events ran; they are in order."""
    total, until = 0.0, float("-inf")
    for event in found:
        total += max(0.0, event.end_us - max(event.begin_us, until))
        until = max(until, event.end_us)
    return total


def profiled(case: Any, setting: Any, device: torch.device) -> list[dict[str, Any]]:
    """Profiles a call of our predictor in a case. Returns :func:`rows_of`, the first with more figures.

    Raises:
        RuntimeError: If the profiler has seen nothing.
    """
    # The profiler is started before anything is recorded, and stays: kernels of graphs from before may not be seen.
    os.environ["TEARDOWN_CUPTI"] = "0"
    profile_of(lambda: synchronised(lambda: torch.ones(1, device=device) + 1, device), device)
    setting = replace(setting, frames=setting.frames or FRAMES)
    with contextlib.closing(case.open("sam2fast", setting)) as session:
        session.built.predictor.release_recordings()
        session.prepare(setting)
        session.call()
        plain, encoded = session.call(), session.encoded
        found, waits_us = profile_of(session.timed_part, device)
        if not found:
            raise RuntimeError("the profiler has seen no kernel")
        frames = session.frames
        every, *rest = rows_of(found, frames)
        every |= {"path": session.path, "ms, not profiled": plain.seconds * 1e3, "host us": plain.host_s * 1e6}
        every |= {"host waits us": waits_us and waits_us / frames, "encodes": (session.encoded - encoded) / frames}
        if session.result_bytes:
            floats = session.result_bytes // 4
            every["first touch us"] = median_ms(lambda: written((floats,)), device) * 1e3
    return [every, *rest]
