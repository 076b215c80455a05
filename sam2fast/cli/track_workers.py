"""Tracks several videos of ``sam2fast track`` at the same time, each in a worker process."""

import functools
import io
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import click
from tqdm import tqdm

from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.reporting import META, Reporting, progress_bar, reporting
from sam2fast.cli.terminal import SIGNAL_EXIT_BASE, Terminated, announce_stop, echo, ignore_closed_stream, note_signals
from sam2fast.cli.track_jobs import Load, TrackJob
from sam2fast.cli.user_errors import NOTE, USER_ERRORS, ErrorReport, ModelError, format_error, warnings_as_notes
from sam2fast.deploy.parallel.pool import JobResult
from sam2fast.deploy.parallel.process import WorkerError
from sam2fast.deploy.parallel.runners import Runner


class _WorkerJob(NamedTuple):
    job: TrackJob
    reporting: Reporting
    stop: Path  # a file that stops the videos of all workers, once the file exists


class _Tracked(NamedTuple):
    """The outcome of a video in a worker, and the text to print."""

    code: int = 0
    error: str | None = None
    stdout: str = ""
    stderr: str = ""


_INTERRUPTED = _Tracked(SIGNAL_EXIT_BASE + signal.SIGTERM)  # a video without a message, such as one that did not begin


def build_loader(choice: ModelChoice, dtype: str, device: str) -> Load:
    """Returns a function that loads the model at its first call, so that jobs raise the errors of loading."""
    from sam2fast.cli.track_run import load_predictor

    return functools.cache(functools.partial(load_predictor, choice, device, dtype))


def track_at_once(jobs: Sequence[TrackJob], runner: Runner, build: Callable[..., Load], problems: ErrorReport) -> int:
    """Tracks the videos in workers, and prints the workers' output in the order of the videos.

    The first signal stops all running videos after their current frames. Returns the signal's exit code, or 0.

    Args:
        build: Function for the workers; see :func:`build_loader`.

    Raises:
        ModelError: If a worker cannot load the model.
        KeyboardInterrupt: If a second signal arrives, or a signal while no video is running.
    """
    unfinished, notes = list[_Tracked](), set[str]()
    with TemporaryDirectory(prefix="sam2fast-") as folder:
        stop = Path(folder, "stop")

        def announce(number: int) -> None:
            stop.touch()
            announce_stop(number)

        with note_signals(announce, once=True) as signals, progress_bar("videos", len(jobs), "videos") as bar:
            work = [_WorkerJob(job, reporting(), stop) for job in jobs]
            results: Any = runner(_track, work, build)
            with closing(results):
                for job, result in zip(jobs, _in_order(results, work, bar, signals), strict=True):
                    tracked = _outcome(result, bool(signals))
                    _print(tracked, notes, bool(signals))
                    if tracked.error is not None:
                        problems.add(job.source, tracked.error)
                    elif tracked.code:
                        unfinished.append(tracked)
                        stop.touch()  # a worker may get a signal without this process
    if not unfinished:
        return 0
    if not signals:
        return unfinished[0].code
    if not any(tracked.stderr for tracked in unfinished):
        raise Terminated(signals[0])
    return SIGNAL_EXIT_BASE + signals[0]


def _in_order(
    results: Iterator[JobResult], jobs: Sequence[Any], bar: tqdm, signals: Sequence[int]
) -> Iterator[JobResult]:
    """Yields a result for each job, in the order of the jobs. Unlike ``ordered=True``, never delays jobs."""
    arrived: dict[int, JobResult] = {}
    place = 0
    try:
        for result in results:
            if not signals:  # after a signal, the terminal may be closed
                bar.update()
            arrived[result.index] = result
            while place in arrived:
                yield arrived[place]
                place += 1
    except WorkerError as error:  # no worker is left
        for index in range(place, len(jobs)):
            yield arrived.get(index, JobResult(index, jobs[index], None, error=str(error)))


def _outcome(result: JobResult, is_stopping: bool) -> _Tracked:
    try:
        tracked: _Tracked = result.unwrap()
        return tracked
    except WorkerError as error:
        if is_stopping and result.failure is None:  # the signal also ended the worker
            return _INTERRUPTED
        return _Tracked(error=format_error(error))


def _track(load: Load, job: _WorkerJob) -> _Tracked:
    """Tracks a video in a worker, unless the command is stopping."""
    if job.stop.exists():
        return _INTERRUPTED
    code, error, out, err = 0, None, io.StringIO(), io.StringIO()
    with click.Context(click.Command("track")) as context, redirect_stdout(out), redirect_stderr(err):
        context.meta[META] = job.reporting._replace(progress=False)
        with warnings_as_notes():
            try:
                code = job.job.run(load, job.stop)
            except ModelError:
                raise
            except USER_ERRORS as raised:
                error = format_error(raised)
    return _Tracked(code, error, out.getvalue(), err.getvalue())


def _print(tracked: _Tracked, printed: set[str], is_stopping: bool) -> None:
    """Prints the output of a video above the progress bar, without notes that are already printed."""
    ignore = ignore_closed_stream if is_stopping else nullcontext  # printing must not change a signal's exit code
    with ignore(sys.stderr), tqdm.external_write_mode(file=sys.stderr):
        if tracked.stdout:
            with ignore(sys.stdout):
                echo(tracked.stdout.removesuffix("\n"))
        for line in tracked.stderr.splitlines():
            if line not in printed:
                echo(line, err=True)
            if line.startswith(NOTE):
                printed.add(line)
