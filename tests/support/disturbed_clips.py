"""Data sets that disturb a training once, when a process makes its third clip."""

import os
import signal
import time
from pathlib import Path

import numpy as np
from torch.utils.data import get_worker_info

from sam2fast.datasets.clip import Clip
from sam2fast.training.data.clip import ClipDataset


class DisturbedClips:
    """Another data set with a disturbance at the third clip, which creates ``file``."""

    def __init__(self, dataset: ClipDataset, file: str) -> None:
        self.dataset, self.file, self.clips = dataset, Path(file), 0

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, index: int, rng: np.random.Generator) -> Clip:
        self.clips += 1
        if self.clips == 3:
            self.disturb()
        return self.dataset.sample(index, rng)

    def disturb(self) -> None:
        raise NotImplementedError


class KilledClips(DisturbedClips):
    """Kills the first worker process, as when memory runs out."""

    def disturb(self) -> None:
        if get_worker_info() is not None and not self.file.exists():
            self.file.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class PausedClips(DisturbedClips):
    """Pauses the second process of a run, for a test to disturb it; a restarted one continues."""

    def disturb(self) -> None:
        if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "0"):
            self.file.write_text(str(os.getpid()))
            time.sleep(3600)
