"""Encoder features of frames, computed when needed and kept for a while."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.video_io import Frames

# Frames whose features are kept: clicks go back and forth between a few.
FEATURES_KEPT = 4


class FrameFeatures(NamedTuple):
    """What the encoder says about one frame."""

    embedding: Tensor  # (1, C, H, W)
    high_res: list[Tensor]  # (1, C/8, 4H, 4W), (1, C/4, 2H, 2W), or none


class FeatureCache:
    """Features of the frames used last.

    Features computed under autocast and outside it are kept apart.

    Args:
        model: the encoder's.
        frames: of the video.
        size: how many frames' features are kept, about 17 MB each at 1024x1024 in fp32.
    """

    def __init__(self, model: SAM2Base, frames: Frames, size: int = FEATURES_KEPT) -> None:
        self.model = model
        self.frames = frames
        self.size = size
        self.kept: OrderedDict[tuple[int, torch.dtype | None], FrameFeatures] = OrderedDict()

    def __getitem__(self, frame: int) -> FrameFeatures:
        return self.encode([frame])[0]

    def keeps(self, frame: int) -> bool:
        """Whether the frame's features are there already."""
        return (frame, _autocast_dtype(self.model.device)) in self.kept

    def encode(self, frames: Sequence[int]) -> list[FrameFeatures]:
        """Features of several frames; those not kept from before are encoded as one batch."""
        kind = _autocast_dtype(self.model.device)
        missing = [t for t in frames if (t, kind) not in self.kept]
        if missing:
            levels = self.model.encode_image(torch.stack([self.frames[t] for t in missing]).to(self.model.device))
            for i, t in enumerate(missing):
                # Clones: a view would keep the whole batch alive as long as one of its frames.
                *high_res, embedding = (level[i : i + 1].clone() if len(missing) > 1 else level for level in levels)
                self.kept[t, kind] = FrameFeatures(embedding, high_res)
        for t in frames:
            self.kept.move_to_end((t, kind))
        if missing:  # not otherwise, or frames encoded ahead would be dropped before their turn
            while len(self.kept) > max(self.size, len(frames)):
                self.kept.popitem(last=False)
        return [self.kept[t, kind] for t in frames]


def _autocast_dtype(device: torch.device) -> torch.dtype | None:
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
