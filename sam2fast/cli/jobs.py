"""Work of a command on many inputs: a task that any process can do, its results, and what they were made from."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm

from sam2fast.cli.reporting import progress_bar
from sam2fast.cli.runner_options import RunnerChoice, add_seconds
from sam2fast.cli.user_errors import ErrorReport, UserError, WriteError, as_user_error
from sam2fast.deploy.parallel.process import WorkerError


class Task:
    """Work on jobs, whose ``str`` is their name in messages; picklable. Subclasses define ``load`` and ``do``."""

    def load(self, device: str) -> Any:
        """What :meth:`do` needs on a device: a :class:`~sam2fast.cli.segmenter.Segmenter`."""
        raise NotImplementedError

    def do(self, loaded: Any, job: Any) -> Any:
        """The result of a job. A UserError is that of the job, but for a WriteError, which ends the run."""
        raise NotImplementedError

    def shown_by(self, bar: tqdm) -> "Task":
        """The task as it is done in this process, where it can show its progress within a job."""
        return self

    def __call__(self, loaded: Any, job: Any) -> tuple[Any, dict[str, float], str]:
        """The result of a job or its error, the seconds of every stage, and the device."""
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
        seconds: of every stage in all processes together; those of the jobs are added.
        count: of all jobs, with those that were done before.
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


def digest_of_facts(*facts: Any) -> str:
    """Identifies what a result was made from: JSON values, such as digests of files and options."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode(errors="surrogatepass")).hexdigest()
