"""``--help``, and ``--help-all`` of commands with rare options."""

import re

import pytest
from document_commands import options


@pytest.mark.parametrize(
    ("command", "rare"),
    [("segment", "--ray"), ("masks", "--workers"), ("serve", "--offline"), ("train", "--partition"), ("vos", "--ray")],
)
def test_only_the_full_help_lists_rare_options(run, command, rare):
    usual, full = (run(command, flag).stdout for flag in ("--help", "--help-all"))
    assert f"  {rare} " in full and f"  {rare} " not in usual
    assert usual.splitlines()[-1].startswith("  --help-all ")


def test_track(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert len(run("track", "--help").stdout.splitlines()) < 90
    listed = re.findall(r"^  (?:(-\w), )?(--[\w-]+) ", run("track", "--help-all").stdout, re.MULTILINE)
    assert {flag for flags in listed for flag in flags if flag} == options()["sam2fast track"] - {"videos"}


def test_a_command_without_rare_options(run):
    assert run("env", "--help-all").exit_code == 2
