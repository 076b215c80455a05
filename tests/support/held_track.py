"""The command ``sam2fast``, with videos that wait at a frame: ``python held_track.py FOLDER ARGUMENT...``.

Each process that reaches the frame warns, writes a file named after its process id to the folder, and waits for the
file ``go``. Worker processes import this file, so they wait, too.
"""

import os
import sys
import warnings
from pathlib import Path
from typing import Any

from waiting import wait_until

from sam2fast.cli import main, track_run

HELD = 3  # the frame
folder, *arguments = sys.argv[1:]
frame_record = track_run.frame_record


def hold(frame: int, *values: Any) -> dict[str, Any]:
    if frame == HELD:
        warnings.warn("held", stacklevel=1)
        Path(folder, str(os.getpid())).touch()
        assert wait_until(Path(folder, "go").exists, 60)
    return frame_record(frame, *values)


track_run.frame_record = hold

if __name__ == "__main__":
    main(arguments, prog_name="sam2fast")
