"""``sam2fast evaluate``: computes J&F of predicted masks in folders."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam2fast.cli.command import command, option, shared
from sam2fast.cli.left_out import LeftOut
from sam2fast.cli.options import ignore_label_option
from sam2fast.cli.reporting import emit, output_options, reporting, say
from sam2fast.cli.terminal import print_message
from sam2fast.cli.user_errors import USER_ERRORS, ErrorReport, UserError, format_error, print_note
from sam2fast.io.atomic import remove_leftovers

if TYPE_CHECKING:
    from sam2fast.evaluation.scores import FolderScores, ObjectScore, VideoScore


class EvaluateCommand:
    """Score predicted masks of videos by J (region overlap), F (contour accuracy) and the mean of J and F.

    Rules, options and results.csv follow the official sav_evaluator.py. Masks are PNGs of ids, as in DAVIS, or a folder
    for each object, as in SA-V. The first and the last annotated frame do not count. Overall scores are means over all
    objects.

    Videos with missing or damaged files are listed at the end without scores. Such videos set the exit code to 1, and
    results.csv is only written with --partial. If results.csv cannot be written or a pair of folders cannot be scored,
    the exit code is 1, and all other pairs are scored. A note at the end counts videos and masks in only one folder.
    """

    truths: Sequence[Path] = option(
        *("--gt", "--gt_root"),
        required=True,
        metavar="DIR",
        help="Ground truth: a folder of video folders, or of Annotations. Repeatable, with one --pred for each --gt.",
    )
    preds: Sequence[Path] = option(
        *("--pred", "--pred_root"),
        required=True,
        metavar="DIR",
        help="Predicted masks, in folders and files of the same names.",
    )
    processes: int | None = option(
        *("--processes", "-n", "--num_processes"),
        type=click.IntRange(1),
        help="Parallel processes.  [default: one for each core]",
    )
    strict: bool = option("--strict", "-s", help="Fail if the folders have different videos.")
    keep: bool = option(
        *("--keep-first-and-last", "--do_not_skip_first_and_last_frame"),
        help="Also score the first and the last annotated frame.",
    )
    ignored_labels: tuple[int, ...] = shared(
        ignore_label_option(
            "Values of ground-truth masks at void pixels. These pixels do not count, in ground truth or prediction. "
            "Give 255 for DAVIS and VOST."
        )
    )
    csv_file: Path | None = option("--csv", metavar="FILE", help="[default: PRED/results.csv]")
    partial: bool = option(help="Write the CSV file even if some videos had problems.")
    as_json: bool = option("--json", help="Print one JSON document instead of the table.")

    def run(self) -> None:
        if len(self.truths) != len(self.preds):
            raise click.UsageError(
                f"{len(self.truths)} --gt and {len(self.preds)} --pred; give one --pred for each --gt"
            )
        if self.csv_file is not None and len(self.preds) > 1:
            raise click.UsageError("--csv is for one pair of folders; without it, each --pred gets its own results.csv")

        from sam2fast.evaluation.scores import RESULTS, VOID, write_results_csv

        problems, left_out = ErrorReport("videos"), LeftOut()

        results: list[FolderScores] = []
        failed: list[dict[str, str]] = []
        for truth, pred in zip(self.truths, self.preds, strict=True):
            file = self.csv_file or pred / RESULTS
            try:
                scores = self._score(truth, pred, file, problems)
                results.append(scores)
                left_out.add_all(_left_out(scores))
                if scores.with_void:
                    print_note(
                        f"{VOID} was scored as an object beside others in {len(scores.with_void)} of "
                        f"{len(scores.videos)} videos, such as {scores.with_void[0]}; if it marks void pixels, give "
                        f"--ignore-label {VOID}"
                    )
                emit(self._as_json(scores))
                if not self.as_json:
                    say("\n".join(_table(scores)))
                if scores.problems and not (self.partial and scores.objects):
                    hint = _earlier_run_note(file) or "; --partial writes the scores of the others"
                    click.echo(f"sam2fast: {file} is not written, since some videos had problems{hint}", err=True)
                    continue
                remove_leftovers([file])
                write_results_csv(file, scores)
                print_note(f"written to {file}")
            except USER_ERRORS as error:  # the other pairs are still scored
                message = format_error(error)
                print_message(message)
                emit({"input": str(pred), "error": message})
                failed.append({"gt": str(truth), "pred": str(pred), "error": message})
        if self.as_json:
            content = {"results": list(map(self._as_json, results)), "failed": failed, "left_out": left_out.as_json()}
            click.echo(json.dumps(content, indent=2))
        left_out.report()
        count = sum(len(scores.videos) for scores in results)
        if failed:
            with suppress(UserError):  # the message would say that all else was done
                problems.raise_if_any(count)
            click.get_current_context().exit(UserError.exit_code)
        problems.raise_if_any(count)

    def _score(self, truth: Path, pred: Path, file: Path, problems: ErrorReport) -> "FolderScores":
        """Returns the scores of a pair of folders. Error messages name ``file`` if an earlier run wrote it."""
        from sam2fast.evaluation.folders import EvaluationError, evaluate_folders

        def note(video: "VideoScore") -> None:
            if video.problems:
                problems.add(video.name, "; ".join(video.problems))

        options: dict[str, Any] = {"strict": self.strict, "processes": self.processes, "on_video": note}
        options |= {"skip_first_and_last": not self.keep, "ignored_labels": self.ignored_labels}
        try:
            scores = evaluate_folders(truth, pred, **options, progress=not reporting().quiet)
        except EvaluationError as error:
            raise UserError(format_error(error) + _earlier_run_note(file)) from error
        if not scores.objects and not scores.problems:
            why = _why_unscored(sum(video.frames for video in scores.videos))
            raise UserError(f"nothing to score: {scores.truth} {why}{_earlier_run_note(file)}")
        return scores

    def _as_json(self, scores: "FolderScores") -> dict[str, Any]:
        videos = {
            video.name: _percent(video)
            | {"objects": {str(i): _percent(score) | {"frames": score.frames} for i, score in video.objects.items()}}
            for video in scores.videos
            if not video.problems
        }
        return _percent(scores) | {
            "gt": str(scores.truth),
            "pred": str(scores.pred),
            "first_and_last_skipped": not self.keep,
            "ignored_labels": self.ignored_labels,
            "videos": videos,
            "problems": scores.problems,
            "left_out": _left_out(scores).as_json(),
            "only_in_gt": scores.only_truth,
            "only_in_pred": scores.only_pred,
            "masks_only_in_gt": sum(len(video.only_truth) for video in scores.videos),
            "masks_only_in_pred": sum(len(video.only_pred) for video in scores.videos),
        }


evaluate = command(EvaluateCommand, output_options())


def _left_out(scores: "FolderScores") -> LeftOut:
    """Counts the videos and masks of a pair of folders that are not scored."""
    left_out = LeftOut()
    for folder, side in ((scores.truth, "only_truth"), (scores.pred, "only_pred")):
        for name in getattr(scores, side):
            left_out.add("video", f"only {folder} has it", name)
        for video in scores.videos:
            for name in getattr(video, side):
                left_out.add("mask", f"only {folder} has it", f"{video.name}/{name}")
    for video in scores.videos:
        if not video.objects and not video.problems:
            left_out.add("video", f"{scores.truth} {_why_unscored(video.frames)}", video.name)
    return left_out


def _why_unscored(frames: int) -> str:
    """Returns the reason why videos have no scores, for messages that begin with the folder of the ground truth."""
    from sam2fast.evaluation.folders import NO_FRAME

    return "shows no object in the scored frames" if frames else NO_FRAME


def _earlier_run_note(file: Path) -> str:
    """Returns the last clause of an error message, on results of an earlier run, if these results exist."""
    return f"; {file} is from an earlier run" if file.is_file() else ""


def _table(scores: "FolderScores") -> Iterator[str]:
    """Yields a line for each object, for each video with several objects, and for all objects."""
    rows: list[tuple[str, str, VideoScore | ObjectScore | FolderScores, int]] = []
    for video in scores.videos:
        rows += [(video.name, str(i), score, score.frames) for i, score in video.objects.items()]
        if len(video.objects) > 1:
            rows.append((video.name, "all", video, sum(score.frames for score in video.objects.values())))
    rows.append(("all", str(len(scores.objects)), scores, sum(score.frames for score in scores.objects)))
    width = max(len("video"), *(len(name) for name, *_ in rows))
    yield f"{'video':<{width}}  object    J&F      J      F  masks"
    for name, i, score, count in rows:
        yield f"{name:<{width}}  {i:>6}  {score.j_and_f:>5.1f}  {score.j:>5.1f}  {score.f:>5.1f}  {count:>5}"


def _percent(score: "FolderScores | VideoScore | ObjectScore") -> dict[str, float | None]:
    """Returns scores in percent, with None for NaN, since JSON lacks NaN."""
    values = {"J&F": score.j_and_f, "J": score.j, "F": score.f}
    return {name: None if math.isnan(value) else value for name, value in values.items()}
