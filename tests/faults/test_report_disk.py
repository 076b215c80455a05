"""What a training reports, on a disk that becomes full."""

import errno
from pathlib import Path

from killed import Fault, forked, tells_errors

from sam2fast.checkpoints import CheckpointError
from sam2fast.cli.train_run import _traceback_in
from sam2fast.training.reporting import Reporter


def test_reports_name_their_file(tmp_path: Path) -> None:
    """Also those for TensorBoard, whose own writer prints a traceback from a thread."""
    for tensorboard in (False, True):
        reporter = Reporter(tmp_path / str(tensorboard), 0, tensorboard)
        (file,) = (tmp_path / str(tensorboard)).rglob("events*") if tensorboard else [reporter._path]

        def report(reporter: Reporter = reporter) -> None:
            for step in range(1, 100):
                reporter.report(step, "train", {f"a name that is rather long {number}": 1.0 for number in range(50)})

        ended = forked(tells_errors(report), Fault(size=5000, number=None))
        name = reporter._path if file.stat().st_size < 5000 else file
        assert (ended.code, ended.stderr, ended.stdout) == (1, "", f"{errno.EFBIG} {name}\n")


def test_what_went_wrong_first_is_told(tmp_path: Path) -> None:
    """And not that its traceback has no room either."""

    def work() -> int:
        try:
            with _traceback_in(tmp_path / "error.txt"):
                raise CheckpointError("first")
        except CheckpointError:
            return 5
        return 0

    assert forked(work, Fault(0, tmp_path, number=None)).code == 5
