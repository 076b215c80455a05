"""The report of failed inputs."""

from types import SimpleNamespace

import pytest
from tqdm import tqdm

from sam2fast.cli import reporting
from sam2fast.cli.jobs import work_through
from sam2fast.cli.terminal import ClosedPipeError
from sam2fast.cli.user_errors import MAX_REPORTED, ErrorReport, UserError


def test_a_long_report_counts_the_rest(capsys):
    problems = ErrorReport("videos")
    problems.raise_if_any(7)
    for number in range(MAX_REPORTED + 2):
        problems.add(f"video{number}", "is damaged")
    capsys.readouterr()
    with pytest.raises(UserError):
        problems.raise_if_any(99)
    report = capsys.readouterr().err
    assert report.count("is damaged") == MAX_REPORTED and "and 2 more, listed above" in report


@pytest.mark.parametrize(
    ("subject", "line", "told"),
    [
        ("a", "frame 3 is damaged", "a: frame 3 is damaged"),
        ("a.mp4", "no such file: a.mp4", "no such file: a.mp4"),
        ("x+y", "of several\n  lines", "x+y: of several lines"),
    ],
)
def test_each_subject_is_named_once(subject, line, told, capsys):
    problems = ErrorReport("videos")
    problems.add(subject, line)
    assert capsys.readouterr().err == f"sam2fast: {told}\n"
    with pytest.raises(UserError, match="1 of 7 videos had problems"):
        problems.raise_if_any(7)
    assert capsys.readouterr().err == ""  # of a single one the line above is enough
    problems.add("b", "also damaged")
    with pytest.raises(UserError, match="2 of 7 videos had problems"):
        problems.raise_if_any(7)
    assert f"  {told}\n" in capsys.readouterr().err


def test_a_closed_pipe_of_a_progress_bar_is_no_error_of_an_input(monkeypatch):
    def display(*args, **options):
        raise BrokenPipeError

    monkeypatch.setattr(reporting, "reporting", lambda: reporting.Reporting(progress=True))
    with reporting.progress_bar("images", 1, "images") as bar, monkeypatch.context() as patch:
        patch.setattr("tqdm.std.tqdm.display", display)
        with pytest.raises(ClosedPipeError):
            bar.display()  # within `refresh` the error would keep the lock of all bars


def test_a_closed_pipe_in_a_job_is_no_error_of_its_item():
    def unwrap():
        raise ClosedPipeError

    def runner(*args, **options):
        return [SimpleNamespace(job="a.png", unwrap=unwrap)]

    with pytest.raises(ClosedPipeError):
        list(work_through(str, ["a.png"], runner, str, ErrorReport("images"), tqdm(disable=True)))
