"""Finds the masks of several images at a time, on several devices."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam2fast.cli.devices import add_seconds, done_on
from sam2fast.cli.errors import UserError
from sam2fast.cli.mask_run import FoundMasks, MaskFinder
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.segmenter import Segmenter


class MaskFinders:
    """A :class:`MaskFinder` in a process on each device; see :class:`~sam2fast.cli.mask_run.Finder`.

    Args:
        devices: by name.
        options, formats, out: as for :class:`MaskFinder`.
    """

    def __init__(
        self,
        choice: ModelChoice,
        devices: Sequence[str],
        dtype: str,
        options: Mapping[str, Any],
        formats: Sequence[str],
        out: Path,
    ) -> None:
        self.seconds: dict[str, float] = {}  # of all processes together
        self.description: dict[str, Any] = {
            "config": choice.config,
            "checkpoint": str(choice.checkpoint),
            "device": ",".join(devices),
            "dtype": dtype,
        }
        self._devices, self._build = devices, _Build(choice, dtype, options, formats, out)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of the block to ``seconds[name]``."""
        start = time.perf_counter()
        yield
        add_seconds(self.seconds, {name: time.perf_counter() - start})

    def found(
        self, images: Iterable[Path], show_share_done: Callable[[int, int], None]
    ) -> Iterator[tuple[Path, FoundMasks | UserError]]:
        """See :class:`~sam2fast.cli.mask_run.Finder`; nobody is told of shares."""
        for image, (found, spent) in done_on(self._devices, _find, list(images), self._build):
            add_seconds(self.seconds, spent)
            yield image, found


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
