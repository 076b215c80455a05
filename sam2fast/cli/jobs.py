"""Processes the inputs of a command in this process or in others, and reports failures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from sam2fast.cli.user_errors import ErrorReport, ModelError, UserError, WriteError, as_user_error, print_note
from sam2fast.deploy.parallel.process import WorkerError
from sam2fast.deploy.parallel.runners import Runner
from sam2fast.io.made_from import described

# Errors whose messages need no class name.
CLEAR_ERRORS = ("DatasetError: ", "OverlapError: ", "VideoError: ", "NoFramesError: ")


def work_through(
    function: Callable[[Any, Any], Any],
    jobs: Sequence[Any],
    runner: Runner,
    build: Callable[..., Any],
    problems: ErrorReport,
    bar: tqdm,
    name: Callable[[Any], object] = str,
) -> Iterator[tuple[Any, Any]]:
    """Yields each job with its result, in order. Jobs that fail are added to ``problems`` by their names.

    Raises:
        UserError: If the model cannot be loaded, results cannot be written, or no worker is left.
    """
    with as_user_error(WorkerError):
        for result in runner(function, jobs, build, ordered=True):
            bar.update()
            try:
                value = result.unwrap()
            except (ModelError, WriteError):
                raise
            except Exception as error:
                why = error.message if isinstance(error, UserError) else str(result.error)
                for kind in CLEAR_ERRORS:
                    why = why.removeprefix(kind)
                problems.add(name(result.job), why)
            else:
                yield result.job, value


def note_resumed(done: int, count: int, changed: Mapping[str, Sequence[str]]) -> None:
    """Prints a note on the images that ``--resume`` keeps, and on images that are made again by their differences."""
    again = ""
    if changed:
        first, names = next(iter(changed.items()))
        again = f"; {len(changed)} of another input are made again: {first} {described(names)}"
    print_note(f"{done} of {count} images were done before{again}")
