"""The report of failed inputs."""

import pytest

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
