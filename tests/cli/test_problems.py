"""The report of what could not be done."""

import pytest

from sam2fast.cli.errors import UserError
from sam2fast.cli.problems import SHOWN, Problems


@pytest.mark.parametrize(
    ("subject", "line", "told"),
    [
        ("a", "frame 3 is damaged", "a: frame 3 is damaged"),
        ("data/a", "data/a/00003.png cannot be read", "data/a/00003.png cannot be read"),
        ("a.mp4", "no such file: a.mp4", "no such file: a.mp4"),
        ("a", "not in a list", "not in a list"),
        ("x+y", "of several\n  lines", "x+y: of several lines"),
    ],
)
def test_each_is_named_once(subject, line, told, capsys):
    problems = Problems("videos")
    problems.add(subject, line)
    assert capsys.readouterr().err == f"sam2fast: {told}\n"
    with pytest.raises(UserError, match="1 of 7 videos had problems"):
        problems.raise_if_any(7)
    assert f"  {told}\n" in capsys.readouterr().err


def test_without_problems_nothing_is_said(capsys):
    Problems("videos").raise_if_any(7)
    assert capsys.readouterr() == ("", "")


def test_a_long_report_says_how_many_more(capsys):
    problems = Problems("films")
    for number in range(SHOWN + 2):
        problems.add(f"film{number}", "is damaged")
    capsys.readouterr()
    with pytest.raises(UserError):
        problems.raise_if_any(99)
    report = capsys.readouterr().err
    assert report.count("is damaged") == SHOWN and "and 2 more, told above" in report
