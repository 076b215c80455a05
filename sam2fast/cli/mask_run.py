"""Has the masks of many images found, and writes and tells what becomes of them as it goes."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from sam2fast.cli.coco import CocoFile
from sam2fast.cli.errors import UserError
from sam2fast.cli.files import RESULTS
from sam2fast.cli.mask_finder import Finder, FoundMasks
from sam2fast.cli.mask_resume import KeptMasks

# The results file is written anew each time, so not after each of thousands of images.
SECONDS_BETWEEN_SAVES = 10.0


class MaskRun:
    """One run over many images.

    ``rows`` has for each image that is done its name, the number of masks, the best predicted IoU and the size as text;
    ``failures`` is the number of those that could not be done.

    Args:
        finder: finds the masks.
        options: what it finds them with.
        formats: what to write: ``json``, ``layers``, ``overlay``.
        out: a folder.
        progress: show a bar even if stderr is no terminal.
    """

    def __init__(
        self, finder: Finder, options: Mapping[str, Any], formats: Sequence[str], out: Path, progress: bool = False
    ) -> None:
        self.rows: list[tuple[str, str, str, str]] = []
        self.failures = 0
        self._finder, self._formats, self._progress = finder, formats, progress
        self._results = CocoFile(out / RESULTS, {"model": finder.description, "options": dict(options)})
        self._bar: tqdm | None = None

    def find(self, images: Sequence[Path], before: Mapping[str, KeptMasks] | None = None) -> None:
        """Does the images; one that cannot be done is reported on stderr and counted.

        However it ends, the results file holds what was done until then.

        Args:
            before: entries of an earlier results file by the images' names; they stay, and their images are left out.

        Raises:
            UserError: a file cannot be written.
        """
        kept = before or {}
        left = [image for image in images if str(image) not in kept]
        for entries in kept.values():
            self._results.keep(*entries)
        for image in images:
            if str(image) in kept:
                entries = kept[str(image)]
                self._note(image, entries.image["width"], entries.image["height"], entries.annotations)
        saved = time.monotonic()
        try:
            with tqdm(
                total=len(images),
                initial=len(images) - len(left),
                desc="images",
                disable=False if self._progress else None,
            ) as self._bar:
                for image, found in self._finder.found(left, self._show_share_done):
                    if isinstance(found, UserError):
                        self._report(image, found)
                    else:
                        # After its pictures, so that what the results name lies beside them.
                        self._add(image, found)
                    self._bar.update()
                    if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                        self._save()
                        saved = time.monotonic()
        finally:
            self._bar = None
            self._save()

    def _add(self, image: Path, found: FoundMasks) -> None:
        with self._finder.stage("write"):
            self._results.add(str(image), found.width, found.height, found.records)
        if not found.records:
            self._say(f"sam2fast: note: no mask in {image} reaches --pred-iou-thresh and --stability-thresh")
        self._note(image, found.width, found.height, found.records)

    def _note(self, image: Path, width: int, height: int, records: Sequence[Mapping[str, Any]]) -> None:
        best = max((record["predicted_iou"] for record in records), default=None)
        shown = "-" if best is None else f"{best:.3f}"
        self.rows.append((str(image), str(len(records)), shown, f"{width}x{height}"))

    def _save(self) -> None:
        if "json" in self._formats and self.rows:
            with self._finder.stage("write"):
                self._results.save()

    def _report(self, image: Path, error: UserError) -> None:
        self.failures += 1
        if str(image) not in error.message:
            error = UserError(f"{image}: {error.message}")
        self._say(f"sam2fast: {error.message}")

    def _say(self, line: str) -> None:
        """Prints a line to stderr, around the bar."""
        with tqdm.external_write_mode(file=sys.stderr):
            click.echo(line, err=True)

    def _show_share_done(self, done: int, points: int) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(f"{done / points:.0%} of this one")
