"""Extracting frames of videos while the process is killed or the disk is full."""

import signal
from pathlib import Path

import pytest
from extract_kills import ExtractKills
from killed import Fault, forked


@pytest.fixture(scope="module")
def kills(tmp_path_factory: pytest.TempPathFactory) -> ExtractKills:
    return ExtractKills(tmp_path_factory.mktemp("undisturbed"))


def test_killed_at_some_steps(kills: ExtractKills, tmp_path: Path) -> None:
    for change in range(0, kills.changes, 5):
        out = tmp_path / str(change)
        assert forked(kills.command(out), Fault(change, out)).code == -signal.SIGKILL
        kills.left_whole(out)
        kills.goes_on(out)


def test_a_full_disk_leaves_no_partial_video(kills: ExtractKills, tmp_path: Path) -> None:
    """There is no partial image without an error either."""
    largest = max(map(len, kills.whole.values()))
    faults = [Fault(size=size, number=None) for size in (1, largest - 1)]
    faults += [Fault(change, tmp_path, number=None) for change in range(0, kills.changes, 6)]
    for number, fault in enumerate(faults):
        out = tmp_path / str(number)
        ended = forked(kills.command(out), fault)
        assert ended.code == (1 if number < 4 else ended.code) and "Traceback" not in ended.stderr, (fault, ended)
        told = any(words in ended.stderr for words in ("File too large: '", "No space left on device: '", "is full: "))
        assert told == bool(ended.code)
        kills.left_whole(out)
        kills.goes_on(out)
