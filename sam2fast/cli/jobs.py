"""Processes the inputs of a command in this process or in workers, and reports failures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from sam2fast.cli.terminal import ClosedPipeError
from sam2fast.cli.user_errors import USER_ERRORS, ErrorReport, ModelError, WriteError, format_error, print_note
from sam2fast.deploy.parallel.runners import Runner
from sam2fast.io.made_from import described


def work_through(
    function: Callable[[Any, Any], Any],
    jobs: Sequence[Any],
    runner: Runner,
    build: Callable[..., Any],
    problems: ErrorReport,
    bar: tqdm,
    name: Callable[[Any], object] = str,
) -> Iterator[tuple[Any, Any]]:
    """Yields each job with its result, in order. Adds the name and error of each failed job to ``problems``.

    Raises:
        FixableError: If the model cannot be loaded, results cannot be written, or no worker is left.
    """
    for result in runner(function, jobs, build, ordered=True):
        bar.update()
        try:
            value = result.unwrap()
        except (ModelError, WriteError, ClosedPipeError):
            raise
        except Exception as error:
            problems.add(name(result.job), format_error(error) if isinstance(error, USER_ERRORS) else str(result.error))
        else:
            yield result.job, value


def note_resumed(done: int, count: int, changed: Mapping[str, Sequence[str]]) -> None:
    """Notes how many images ``--resume`` keeps, and how many images are processed again after a change of the input."""
    again = ""
    if changed:
        first, names = next(iter(changed.items()))
        again = f"; {len(changed)} with another input are processed again: {first} {described(names)}"
    print_note(f"{done} of {count} images were done before{again}")
