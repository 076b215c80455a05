"""Sources that both readers of videos refuse."""

import pytest

from sam2fast.video_io import open_frames, read_frames


def assert_both_refuse(source, error, message):
    """By random access and as a stream; ``source`` makes it."""
    for read in (open_frames, read_frames):
        with pytest.raises(error, match=message):
            read(source(), 32)
