"""Tracks the videos of ``sam2fast track`` one by one."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.sources import InputSource
from sam2fast.cli.track_request import TrackRequest
from sam2fast.cli.user_errors import USER_ERRORS, ErrorReport, ModelError, UserError, format_error
from sam2fast.results.formats import VOLUME_FILES

Load = Callable[[], tuple[Any, dict[str, Any]]]  # see sam2fast.cli.track_run.load_predictor


class TrackJob(NamedTuple):
    """A video of the command. Another process can run the job."""

    source: InputSource
    request: TrackRequest
    choice: ModelChoice
    out: Path
    overwrite: bool

    def run(self, load: Load, stop: Path | None = None) -> int:
        """Tracks the video, and returns the exit code; see :func:`sam2fast.cli.track_run.run`."""
        from sam2fast.cli.track_run import run

        request = self.request
        # A URL or stdin is copied to a local file first.
        with nullcontext() if request.source.label is None else self.source.file() as file:
            if file is not None:
                request = replace(request, source=request.source._replace(text=str(file)))
            return run(_of_volume(request), self.choice, load, self.out, self.overwrite, stop)


def track_one_by_one(jobs: Sequence[TrackJob], load: Load, problems: ErrorReport) -> int:
    """Tracks the videos in this process. Returns the exit code of a video that a signal stopped, or 0."""
    for job in jobs:
        try:
            code = job.run(load)
        except ModelError:
            raise
        except USER_ERRORS as error:
            problems.add(job.source, format_error(error))
        else:
            if code:
                return code
    return 0


def _of_volume(request: TrackRequest) -> TrackRequest:
    """Checks the options for volumes. Returns the request, with both directions if the video is a volume."""
    source, formats = request.source, [name for name in VOLUME_FILES if name in request.formats]
    if source.is_volume and request.step > 1:
        raise UserError(f"--step is for videos, but {source.name} is a volume; all of its slices are tracked")
    if not source.is_volume:
        if formats or source.axis or source.window:
            flag = f"--format {formats[0]}" if formats else "--axis" if source.axis else "--window"
            raise UserError(f"{flag} is for volumes (NIfTI or DICOM), but {source.name} is not a volume")
        return request
    if "dicom-seg" in formats and source.is_nifti:
        raise UserError(f"--format dicom-seg refers to DICOM images, but {source.name} is NIfTI; use --format nifti")
    if "dicom-seg" in formats and find_spec("highdicom") is None:
        raise UserError("--format dicom-seg needs highdicom: pip install 'sam2fast[medical]'")
    return replace(request, reverse=not request.stream)
