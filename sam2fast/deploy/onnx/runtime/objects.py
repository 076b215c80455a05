"""A session on a video: its frames, and its objects with their prompts and results."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from sam2fast.deploy.onnx.runtime.frames import ImageFrames
from sam2fast.tracking.records import ObjectRecord


class ObjectOnFrame(NamedTuple):
    """One object's result on one frame."""

    mask: np.ndarray  # (1, h, w) logits, holes filled
    score: np.ndarray  # (1,) logit of its presence
    pointer: np.ndarray  # (C,)
    memory: np.ndarray | None  # (n, m); None until the prompt is committed
    state: np.ndarray | None  # (8,) motion after the frame, fp64; None on a prompt, and with the strategy sam2


OnnxObject = ObjectRecord[ObjectOnFrame]


@dataclass
class OnnxVideoState:
    """A video and its objects. The original's keys work, too: ``state["obj_ids"]``."""

    frames: ImageFrames
    strategy: str  # sam2 or together
    objects: dict[Any, OnnxObject] = field(default_factory=dict)  # by id, in the order of their first prompts
    encoded: tuple[int, list[np.ndarray]] | None = None  # the last encoded frame and its levels
    # Pairs of ids, in both orders, of objects that share pixels with the strategy together: their prompts overlap.
    exempt: frozenset[tuple[Any, Any]] = frozenset()

    @property
    def obj_ids(self) -> list[Any]:
        """The ids of all objects."""
        return list(self.objects)

    @property
    def num_frames(self) -> int:
        """Length of the video."""
        return len(self.frames)

    @property
    def video_height(self) -> int:
        """In pixels."""
        return self.frames.height

    @property
    def video_width(self) -> int:
        """In pixels."""
        return self.frames.width

    def __getitem__(self, key: str) -> Any:
        if key not in ("obj_ids", "num_frames", "video_height", "video_width"):
            raise KeyError(key)
        return getattr(self, key)
