"""A data set by which a job of a cluster is told in the middle of a run to make room."""

import os
import signal
from pathlib import Path

import numpy as np

from sam2fast.training.data.clip import Clip, ClipDataset


class InterruptedClips:
    """Another data set; every process is told so at its third clip, once, and leaves a file then."""

    def __init__(self, dataset: ClipDataset, folder: str) -> None:
        self.dataset, self.clips = dataset, 0
        self.file = Path(folder) / f"told-{os.environ.get('RANK')}"

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, index: int, rng: np.random.Generator) -> Clip:
        self.clips += 1
        if self.clips == 3 and not self.file.exists():
            self.file.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGUSR2)
        return self.dataset.sample(index, rng)
