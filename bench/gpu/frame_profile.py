"""A profile of steady frames by torch.profiler: how long each kernel takes, and how long its stream waits before it.

A CUDA graph is one launch for the host; its kernels are seen one by one.
"""

import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

FRAMES = 20


class Event(NamedTuple):
    """A kernel or copy that ran."""

    name: str
    stream: int
    begin_us: float
    end_us: float


def events(call: Callable[[], Any], device: torch.device) -> list[Event]:
    """What a call runs on the device, in order; on a CPU its operations, but for those that others call."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        call()
        if on_gpu:
            torch.cuda.synchronize(device)
    kind = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    found = [
        Event(each.name, each.device_resource_id, each.time_range.start, each.time_range.end)
        for each in profiler.events() or ()
        if each.device_type == kind and (on_gpu or each.cpu_parent is None)
    ]
    return sorted(found, key=lambda event: event.begin_us)


def kernel_names(call: Callable[[], Any], device: torch.device) -> list[str]:
    """The kernels that a call runs on a GPU, each once, the longest first."""
    seconds: dict[str, float] = {}
    for event in events(call, device):
        seconds[event.name] = seconds.get(event.name, 0.0) + event.end_us - event.begin_us
    return sorted(seconds, key=lambda name: -seconds[name])


def rows_of(found: Sequence[Event], frames: int) -> list[dict[str, Any]]:
    """A row for all, then one for each kernel of each stream, those that take most time first.

    A gap is the time on a stream from the end of one kernel to the begin of the next. ``busy`` is the time in which at
    least one stream computes.
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
            "calls a frame": len(taken) / frames,
            "us": statistics.median(us for us, _ in taken),
            "us a frame": sum(us for us, _ in taken) / frames,
            "gap us": statistics.median(gap for _, gap in taken),
            "gap us a frame": sum(gap for _, gap in taken) / frames,
        }
        for (stream, name), taken in by_kernel.items()
    ]
    span = max(event.end_us for event in found) - min(event.begin_us for event in found)
    busy = _busy(found)
    every = {
        "kernel": "all",
        "frames": frames,
        "calls a frame": len(found) / frames,
        "us a frame": span / frames,
        "busy us a frame": busy / frames,
        "idle us a frame": (span - busy) / frames,
    }
    return [every, *sorted(each, key=lambda row: -row["us a frame"])]


def _busy(found: Iterable[Event]) -> float:
    """Microseconds in which any of the events ran; they are in order."""
    total, until = 0.0, float("-inf")
    for event in found:
        total += max(0.0, event.end_us - max(event.begin_us, until))
        until = max(until, event.end_us)
    return total


def profiled(setting: Any, device: torch.device) -> tuple[list[dict[str, Any]], str]:
    """Rows of steady frames of our video predictor with one object, and a figure.

    Raises:
        RuntimeError: the profiler has seen nothing.
    """
    from suite.video_cases import Throughput

    # CUPTI is started before anything is recorded, and stays: kernels of graphs from before it may not be seen.
    os.environ["TEARDOWN_CUPTI"] = "0"
    events(lambda: torch.ones(1, device=device) + 1, device)
    frames = setting.frames or FRAMES
    setting = replace(setting, objects=1, frames=frames)
    session = Throughput("sam2fast", setting)
    session.prepare(setting)
    session.call()
    plain = session.call()
    found = events(session.call, device)
    if not found:
        raise RuntimeError("the profiler has seen no kernel")
    every, *rest = rows_of(found, frames)
    every |= {"model": setting.size, "path": session.path, "ms a frame, not profiled": plain.seconds * 1e3}
    session.close()
    figure = f"{every['ms a frame, not profiled']:.3g} ms a frame, profiled {every['us a frame'] / 1e3:.3g} of which "
    figure += f"{every['busy us a frame'] / 1e3:.3g} busy, {every['calls a frame']:.0f} kernels, {every['path']}"
    return [every, *({"model": setting.size, **row} for row in rest)], figure
