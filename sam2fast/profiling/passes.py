"""The passes of a profile: plain, timed, counted, traced; each over the same work."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.profiling.limits import Limits, measure_limits
from sam2fast.profiling.machine import machine
from sam2fast.profiling.patches import Patches
from sam2fast.profiling.probes import Ranges, memory_watch, stopwatch
from sam2fast.profiling.profile import Profile
from sam2fast.profiling.recorder import Recorder
from sam2fast.profiling.timing import wait
from sam2fast.profiling.tree import Part
from sam2fast.short_names import shortened
from sam2fast.whole_files import moved_to, own_number

Whole = Callable[[], AbstractContextManager[None]]


class Work(Protocol):
    """What is profiled: some units, pictures or frames, after others that are done but not measured.

    Attributes:
        unit: what one is called.
        subject: what is known of it before.
        has_fast_path: the predictor takes a path that cannot be looked into.
        is_warm: each pass begins with units that are not measured.
    """

    unit: str
    subject: dict[str, Any]
    has_fast_path: bool
    is_warm: bool

    @property
    def model(self) -> SAM2Base: ...

    def run(self, instrument: Callable[[Any], None], whole: Whole) -> None:
        """One pass, from the beginning.

        Args:
            instrument: told the state of the pass, before its first unit that is measured.
            whole: each unit that is measured is done inside one.
        """
        ...

    def parts(self, patches: Patches, state: Any) -> None:
        """Puts wrappers around the calls that are parts."""
        ...

    def plain_path(self) -> AbstractContextManager[None]:
        """Inside, the predictor does nothing that cannot be looked into."""
        ...


def profile(work: Work, runs: int, trace: Path | None, limits: Limits | None) -> Profile:
    """Makes all passes; the plain and the timed ones in turn, so that a machine that slows down slows both.

    Raises:
        ValueError: ``runs`` is below 1, or parts cannot be timed on the model's device.
    """
    if runs < 1:
        raise ValueError(f"runs is {runs}; expected 1 or more")
    device = work.model.device
    watch = Recorder(stopwatch(device))
    memory, described = memory_watch(device)
    counter = Recorder(memory, counts=True)
    plain: list[float] = []
    profiled: list[float] = []
    as_it_is: list[float] = []
    if work.has_fast_path:
        _warm_up(work)
        for _ in range(runs):
            _bare(work, as_it_is)
    with work.plain_path():
        _warm_up(work)
        for _ in range(runs):
            _bare(work, plain)
            _recorded(work, watch, profiled)
        _recorded(work, counter, [])
        if trace is not None:
            _trace(work, trace)
    return Profile(
        subject={**work.subject, "runs": runs},
        root=_per_unit(watch).counted_by(_per_unit(counter)),
        limits=limits or measure_limits(device, _dtypes(work.model)),
        profiled=profiled,
        plain=plain,
        as_it_is=as_it_is if work.has_fast_path else None,
        memory=described,
        machine=machine(device),
    )


def _dtypes(model: SAM2Base) -> list[torch.dtype]:
    return sorted({p.dtype for p in model.parameters()}, key=str)


def _per_unit(recorder: Recorder) -> Part:
    assert recorder.root is not None
    return recorder.root.scaled(1 / recorder.root.calls)


def _warm_up(work: Work) -> None:
    if not work.is_warm:
        _bare(work, [])


def _bare(work: Work, seconds: list[float]) -> None:
    work.run(lambda state: None, lambda: _timed(work, seconds))


@contextmanager
def _timed(work: Work, seconds: list[float]) -> Iterator[None]:
    """Seconds of what happens inside, until the device is done."""
    wait(work.model.device)
    start = time.perf_counter()
    yield
    wait(work.model.device)
    seconds.append(time.perf_counter() - start)


def _recorded(work: Work, recorder: Recorder, seconds: list[float]) -> None:
    @contextmanager
    def whole() -> Iterator[None]:
        with _timed(work, seconds), recorder.whole(work.unit):
            yield

    _instrumented(work, recorder, whole)


def _instrumented(work: Work, recorder: Recorder, whole: Whole) -> None:
    with ExitStack() as undo:
        work.run(lambda state: work.parts(Patches(undo, recorder), state), whole)


def _trace(work: Work, file: Path) -> None:
    """Writes the first unit of a pass as torch's profiler sees it, with a range for each part; whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    if work.model.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    recorder, written = Recorder(Ranges()), False

    @contextmanager
    def whole() -> Iterator[None]:
        nonlocal written
        if written:
            yield
            return
        with torch.profiler.profile(activities=activities) as profiler:
            with recorder.whole(work.unit):
                yield
            wait(work.model.device)
        profiler.export_chrome_trace(str(partial))
        written = True

    # The ending stays, since torch's profiler goes by it.
    with moved_to(file, file.with_name(f".{own_number()}.part.{shortened(file.name)}")) as partial:
        partial.touch()  # before the work, where it cannot be written
        _instrumented(work, recorder, whole)
