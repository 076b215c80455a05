"""Processes the inputs of a command in this process or in others, and reports failures."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from sam2fast.cli.reporting import progress_bar
from sam2fast.cli.runner_options import RunnerChoice, add_seconds
from sam2fast.cli.user_errors import ErrorReport, UserError, WriteError, as_user_error, print_note
from sam2fast.deploy.parallel.process import WorkerError
from sam2fast.io.made_from import described


class Task:
    """A picklable function of jobs. Messages name a job by ``str(job)``. Subclasses define ``load`` and ``do``."""

    def load(self, device: str) -> Any:
        """Returns the :class:`~sam2fast.cli.segmenter.Segmenter` for :meth:`do`, on a device."""
        raise NotImplementedError

    def do(self, loaded: Any, job: Any) -> Any:
        """Returns the result of a job. A UserError is the failure of this job; a WriteError ends the run."""
        raise NotImplementedError

    def shown_by(self, bar: tqdm) -> "Task":
        """Returns the task for this process. It may show the progress of a job in the bar."""
        return self

    def __call__(self, loaded: Any, job: Any) -> tuple[Any, dict[str, float], str]:
        """Returns the result of a job or its UserError, the seconds of every stage, and the device."""
        try:
            found = self.do(loaded, job)
        except WriteError:
            raise
        except UserError as error:
            found = error
        return found, loaded.take_seconds(), loaded.description["device"]


def work_through(
    task: Task, jobs: Sequence[Any], chosen: RunnerChoice, problems: ErrorReport, seconds: dict[str, float], count: int
) -> Iterator[tuple[Any, Any, str]]:
    """Yields each job with its result and the device, in order. Jobs that fail are added to ``problems``.

    Args:
        seconds: Seconds of every stage. The seconds of the jobs are added.
        count: Number of jobs, including jobs that earlier runs did.
    """
    with as_user_error(WorkerError), progress_bar("images", count, "images", count - len(jobs)) as bar:
        done = task.shown_by(bar) if chosen.is_local else task
        for result in chosen.runner(done, jobs, done.load, ordered=True):
            bar.update()
            if result.error is not None and result.failure is None:  # the job's workers were lost
                problems.add(result.job, result.error)
                continue
            found, spent, device = result.unwrap()
            add_seconds(seconds, spent)
            if isinstance(found, UserError):
                problems.add(result.job, found.message)
            else:
                yield result.job, found, device if chosen.is_local else chosen.name


def note_resumed(done: int, count: int, changed: Mapping[str, Sequence[str]]) -> None:
    """Prints a note on the images that ``--resume`` keeps, and on the images that it makes again.

    Args:
        done: Number of images that earlier runs did.
        count: Number of all images.
        changed: Names of the differences, by image, for results of another input.
    """
    again = ""
    if changed:
        first, names = next(iter(changed.items()))
        again = f"; {len(changed)} of another input are made again: {first} {described(names)}"
    print_note(f"{done} of {count} images were done before{again}")
