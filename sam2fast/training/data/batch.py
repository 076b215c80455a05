"""Batches of clips. The objects of all clips of a batch are concatenated."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sam2fast.datasets.clip import Clip


@dataclass(frozen=True)
class ClipBatch:
    """Batch of B clips with T frames of S x S pixels. The B clips have O objects in total."""

    frames: Tensor  # (T, B, S, S, 3) uint8 RGB
    masks: Tensor  # (T, O, S, S) bool
    video: Tensor  # (O,) int64: index of the clip that each object belongs to
    seeds: tuple[int, ...]  # seeds for sampling prompts from masks, one per clip
    plan_seed: int = 0  # seed for choosing the frames that get prompts, in all clips
    names: tuple[str, ...] = ()  # names of the clips
    key: str = "all"  # key that selects the loss in the trainer

    @property
    def num_frames(self) -> int:
        return self.frames.shape[0]

    @property
    def num_videos(self) -> int:
        return self.frames.shape[1]

    @property
    def num_objects(self) -> int:
        return self.masks.shape[1]

    def to(self, device: torch.device) -> "ClipBatch":
        """Copies the batch's tensors to ``device``."""
        frames, masks, video = (x.to(device, non_blocking=True) for x in (self.frames, self.masks, self.video))
        return replace(self, frames=frames, masks=masks, video=video)

    def pin_memory(self) -> "ClipBatch":
        """Copies the batch's tensors to page-locked memory. :meth:`to` copies page-locked tensors asynchronously."""
        frames, masks, video = (x.pin_memory() for x in (self.frames, self.masks, self.video))
        return replace(self, frames=frames, masks=masks, video=video)


def collate(clips: Sequence[Clip], seeds: Sequence[int], key: str = "all", plan_seed: int = 0) -> ClipBatch:
    """Collates clips with objects to a batch. Clips must have equal numbers of frames and equal, square sizes."""
    shapes = {clip.frames.shape for clip in clips}
    if len(shapes) != 1:
        raise ValueError(f"the clips of a batch must have one shape (T, S, S, 3), got {sorted(shapes)}")
    T, height, width, _ = shapes.pop()
    if height != width:
        raise ValueError(f"training needs square frames, got {height}x{width}: end the transforms with a square resize")
    counts = [clip.masks.shape[1] for clip in clips]
    if not all(counts):
        raise ValueError(f"clip {clips[counts.index(0)].name!r} has no object")
    frames = np.stack([clip.frames for clip in clips], axis=1)
    masks = np.concatenate([clip.masks for clip in clips], axis=1)
    video = torch.repeat_interleave(torch.arange(len(clips)), torch.tensor(counts))
    names = tuple(clip.name for clip in clips)
    return ClipBatch(torch.from_numpy(frames), torch.from_numpy(masks), video, tuple(seeds), plan_seed, names, key)
