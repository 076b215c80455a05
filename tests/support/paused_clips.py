"""A data set that stops in the middle of a run, so that a test can do something to it there."""

import os
import time
from pathlib import Path

import numpy as np

from sam2fast.training.data.clip import Clip, ClipDataset


class PausedClips:
    """Another data set; the second process of a run waits for ever before its third clip, and leaves a file.

    A process that was started again does not.
    """

    def __init__(self, dataset: ClipDataset, file: str) -> None:
        self.dataset, self.file, self.clips = dataset, Path(file), 0

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, index: int, rng: np.random.Generator) -> Clip:
        self.clips += 1
        if self.clips == 3 and (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "0"):
            self.file.write_text(str(os.getpid()))
            time.sleep(3600)
        return self.dataset.sample(index, rng)
