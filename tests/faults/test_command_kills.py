"""Commands that write a folder, killed or without room at some file operations: the next run continues."""

import random
import signal

import pytest
from chosen_places import some
from command_kills import CommandKills, ExtractKills, ImageKills, TrackKills
from killed import Fault, forked

SUBJECTS = {
    "reverse": lambda folder: TrackKills(folder, 4, 1, 2),
    "segment resumed": lambda folder: ImageKills(folder, "ab"),
    "masks": lambda folder: ImageKills(folder, "ab"),
    "find": lambda folder: ImageKills(folder, "ab"),
    "extract": ExtractKills,
}


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request, tmp_path_factory):
    """A command, and the name of its variant."""
    kills: CommandKills = SUBJECTS[request.param](tmp_path_factory.mktemp("subject"))
    kills.whole(request.param)
    yield kills, request.param
    kills.close()


def test_killed_again_and_again(subject, out):
    """Each run continues the previous one; the final bytes are those of an uninterrupted run."""
    kills, variant = subject
    for turn, change in enumerate(some(random.Random(0), 2, kills.changes[variant])):
        ended = forked(kills.busiest(out, variant), Fault(change, out))
        # Later runs find finished work, and may make fewer changes.
        assert ended.code in (-signal.SIGKILL, *([0] if turn else [])), ended
        kills.left_whole(out)
    kills.goes_on(out, variant)


def test_a_full_disk(subject, out):
    """At a file operation, and during a write; each time the next run continues."""
    kills, variant = subject
    faults = [Fault(change, out, None) for change in some(random.Random(2), 1, kills.changes[variant] // 2)]
    for fault in [*faults, Fault(size=100, number=None)]:
        ended = forked(kills.busiest(out, variant), fault)
        line = kills.after_full_disk(ended)
        assert ended.code and str(out) in line
        kills.left_whole(out)
        assert not [*out.glob("*.part")]
    kills.goes_on(out, variant)
