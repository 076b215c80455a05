"""A data set whose worker process is killed, once."""

import os
import signal
from pathlib import Path

import numpy as np
from torch.utils.data import get_worker_info

from sam2fast.training.data.clip import Clip, ClipDataset


class KilledClips:
    """Another data set; the first process that makes its third clip is killed, as where memory runs out."""

    def __init__(self, dataset: ClipDataset, file: str) -> None:
        self.dataset, self.file, self.clips = dataset, Path(file), 0

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, index: int, rng: np.random.Generator) -> Clip:
        self.clips += 1
        if self.clips == 3 and get_worker_info() is not None and not self.file.exists():
            self.file.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.dataset.sample(index, rng)
