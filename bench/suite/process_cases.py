"""Sessions whose every call is a process of its own; see :mod:`suite.own_process`."""

import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from suite.machine import BENCH
from suite.missing import GaveUpError, MissingError
from suite.photographs import write_video
from suite.sessions import Sample, Session
from suite.subjects import VIDEO_ONLY, Setting, video_predictor

# Removed when the process ends.
_SCRATCH = functools.cache(lambda: tempfile.TemporaryDirectory(prefix="suite-"))


@functools.cache
def checkpoint_of(size: str, image_size: int) -> str:
    """A file of the tame weights that everybody loads, in the official form, made by our package.

    Raises:
        MissingError: it cannot be used here.
    """
    built = video_predictor("sam2fast", Setting(size, "fp32", image_size))
    path = Path(_SCRATCH().name) / f"{size}.pt"
    torch.save({"model": built.predictor.state_dict()}, path)
    built.closing.close()
    return str(path)


@functools.cache
def video_of(side: int, frames: int) -> str:
    """A folder of so many JPEG files."""
    folder = Path(_SCRATCH().name) / f"{side}-{frames}"
    folder.mkdir()
    write_video(folder, side, frames)
    return str(folder)


class OwnProcess(Session):
    """Runs a job for a subject, again for each call.

    Args:
        job: gives the name of the job at a setting.
    """

    def __init__(self, job: Callable[[Setting], str], subject: str, setting: Setting) -> None:
        if subject in VIDEO_ONLY and job(setting) != "video peak":
            raise MissingError("for video only")
        super().__init__()
        self.job, self.subject = job, subject

    def prepare(self, setting: Setting) -> None:
        self.peak_mib, what = None, self.job(setting)
        checkpoint = checkpoint_of(setting.size, setting.image_size)
        self.order = {"what": what, "subject": self.subject, "setting": asdict(setting), "checkpoint": checkpoint}
        # The last masks of a video are compared with the others' only: their memories differ by then.
        self.checked = [] if what == "video peak" else None
        if what == "video peak":
            self.order["video"] = video_of(setting.image_size, setting.history or 0)

    def call(self) -> Sample:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "result.npy"
            answer = _run({**self.order, "result": str(path)})
            for error in (MissingError, GaveUpError):
                if error.__name__ in answer:
                    raise error(answer[error.__name__])
            result = [torch.from_numpy(np.load(path))]
        self.notes, self.path = answer["notes"], answer["path"]
        if answer.get("peak_mib") is not None:
            self.peak_mib = max(self.peak_mib or 0.0, answer["peak_mib"])
        return Sample(answer["seconds"], result)


def _run(order: dict[str, Any]) -> dict[str, Any]:
    """The answer of a process of its own to an order.

    Raises:
        RuntimeError: the process failed; the message is the end of what it said.
    """
    command = [sys.executable, "-m", "suite.own_process", json.dumps(order)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=BENCH, check=False)
    if done.returncode:
        raise RuntimeError(f"its process failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


cold_start = functools.partial(OwnProcess, lambda setting: "cold start")
# With a history, of a video with so many frames; else of an image.
peak_memory = functools.partial(OwnProcess, lambda setting: "video peak" if setting.history else "image peak")
