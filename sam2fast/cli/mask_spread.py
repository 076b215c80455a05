"""Finds the masks of several images at a time, on several devices or a cluster."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam2fast.cli.devices import add_seconds
from sam2fast.cli.errors import UserError, one_line
from sam2fast.cli.mask_finder import FoundMasks, MaskFinder
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.segmenter import Segmenter
from sam2fast.deploy.parallel.process import WorkerError
from sam2fast.deploy.parallel.runners import Runner


class MaskFinders:
    """A :class:`MaskFinder` in each process of a runner; see :class:`~sam2fast.cli.mask_finder.Finder`.

    Args:
        place: the name of where the runner is.
        options, formats, out: as for :class:`MaskFinder`.
    """

    def __init__(
        self,
        choice: ModelChoice,
        runner: Runner,
        place: str,
        dtype: str,
        options: Mapping[str, Any],
        formats: Sequence[str],
        out: Path,
    ) -> None:
        self.seconds: dict[str, float] = {}  # of all processes together
        self.description: dict[str, Any] = {
            "config": choice.config,
            "checkpoint": str(choice.checkpoint),
            "device": place,
            "dtype": dtype,
        }
        self._runner, self._build = runner, _Build(choice, dtype, options, formats, out)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of the block to ``seconds[name]``."""
        start = time.perf_counter()
        yield
        add_seconds(self.seconds, {name: time.perf_counter() - start})

    def found(
        self, images: Iterable[Path], show_share_done: Callable[[int, int], None]
    ) -> Iterator[tuple[Path, FoundMasks | UserError]]:
        """See :class:`~sam2fast.cli.mask_finder.Finder`; nobody is told of shares."""
        with one_line(WorkerError):
            for result in self._runner(_find, list(images), self._build, ordered=True):
                if result.error is not None and result.failure is None:  # it was lost with those who did it
                    yield result.job, UserError(result.error)
                else:
                    found, spent = result.unwrap()
                    add_seconds(self.seconds, spent)
                    yield result.job, found


@dataclass(frozen=True)
class _Build:
    """Loads the model in a process."""

    choice: ModelChoice
    dtype: str
    options: Mapping[str, Any]
    formats: Sequence[str]
    out: Path

    def __call__(self, device: str) -> MaskFinder:
        return MaskFinder(Segmenter(self.choice, device, self.dtype), self.options, self.formats, self.out)


def _find(finder: MaskFinder, image: Path) -> tuple[FoundMasks | UserError, dict[str, float]]:
    """One image, and the seconds since the last one."""
    found = finder.find(image)
    spent = dict(finder.seconds)
    finder.seconds.clear()
    return found, spent
