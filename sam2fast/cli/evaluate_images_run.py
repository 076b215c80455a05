"""Evaluates pictures on one device or several, and writes what was found."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from sam2fast import __version__
from sam2fast.cli.errors import UserError, one_line
from sam2fast.cli.files import make_folder, write_atomically
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.problems import Problems
from sam2fast.cli.segmenter import Segmenter
from sam2fast.deploy.parallel.process import WorkerError
from sam2fast.deploy.parallel.runners import Runner
from sam2fast.evaluation.clicks.job import ClickSettings, ImageJob, ImageScores, evaluate_image
from sam2fast.evaluation.clicks.summary import Results
from sam2fast.sam2_image_predictor import SAM2ImagePredictor

if TYPE_CHECKING:
    from sam2fast.evaluation.clicks.sources import DataSet

SUFFIXES = (".json", ".csv")
MOST_TOLD = 3  # problems of one picture, one by one


@dataclass(frozen=True)
class BuildPredictor:
    """Loads the model, in whichever process it is called."""

    choice: ModelChoice
    dtype: str

    def __call__(self, device: str) -> SAM2ImagePredictor:
        """A predictor on this device."""
        return Segmenter(self.choice, device, self.dtype).predictor


class EvaluationRun:
    """One run over many pictures: ``results`` of those that could be done, and ``problems`` with the others.

    Args:
        asked: after which clicks means are reported.
        data: what was found on the disk; its problems are told at once.
        jobs: those of its pictures that are evaluated.
        progress: show a bar even if stderr is no terminal.
    """

    def __init__(
        self,
        settings: ClickSettings,
        asked: Sequence[int],
        data: "DataSet",
        jobs: Sequence[ImageJob],
        progress: bool = False,
    ) -> None:
        self.results, self.problems, self.seconds = Results(asked), Problems("pictures and masks"), 0.0
        self._settings, self._asked, self._jobs, self._progress = settings, asked, jobs, progress
        self._count = len(jobs) + len(data.problems)
        for subject, why in data.problems:
            self.problems.add(subject, why)

    def evaluate(self, runner: Runner, build: BuildPredictor) -> None:
        """Does all pictures; one that cannot be done is a problem.

        Raises:
            UserError: the model cannot be loaded, or there is no process left to go on.
        """
        start, function = time.perf_counter(), partial(evaluate_image, settings=self._settings)
        with (
            tqdm(total=len(self._jobs), desc="images", disable=False if self._progress else None) as bar,
            one_line(WorkerError),
        ):
            for result in runner(function, self._jobs, build, ordered=True):
                if result.error is not None:
                    self.problems.add(result.job.image, result.error)
                else:
                    self._take(result.job, result.value)
                bar.update()
        self.seconds = time.perf_counter() - start

    def _take(self, job: ImageJob, scores: ImageScores) -> None:
        self.results.add(job.name, scores)
        if scores.problems:
            told, more = scores.problems[:MOST_TOLD], len(scores.problems) - MOST_TOLD
            self.problems.add(job.image, "; ".join(told) + (f"; and {more} more" if more > 0 else ""))

    def write(self, out: Path, facts: Mapping[str, Any]) -> None:
        """Writes the means as JSON, with these facts of the run, and every object as CSV.

        Raises:
            UserError: a file cannot be written.
        """
        means, objects = output_files(out)
        make_folder(means.parent)
        content = {
            "version": __version__,
            **facts,
            "seconds": round(self.seconds, 3),
            "problems": [{"file": subject, "why": why} for subject, why in self.problems.found],
            **self.results.as_json(),
        }
        write_atomically(objects, self.results.as_csv().encode(errors="surrogateescape"))
        # Last, so that where the means lie, the objects lie too.
        write_atomically(means, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())

    def finish(self) -> None:
        """Ends the run.

        Raises:
            UserError: there were problems, or no object.
        """
        self.problems.raise_if_any(self._count)
        if not self.results.objects:
            raise UserError(f"no picture has an object of {self._settings.min_area} pixels or more")


def output_files(out: Path) -> tuple[Path, Path]:
    """The JSON and the CSV file that are meant by ``--out``, either of them or the name they share."""
    stem = out.with_suffix("") if out.suffix.lower() in SUFFIXES else out
    json_file, csv_file = (stem.with_name(stem.name + suffix) for suffix in SUFFIXES)
    return json_file, csv_file


def check_out(out: Path, data: "DataSet") -> None:
    """Checks before any work that no input would be overwritten.

    Raises:
        click.UsageError: it would.
    """
    inputs = {os.path.realpath(file) for job in data.jobs for file in (job.image, *job.masks.files)}
    for file in output_files(out):
        if os.path.realpath(file) in inputs:
            raise click.UsageError(f"the result {file} would overwrite an input; choose another --out")
