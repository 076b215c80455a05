"""Session on a video: its frames, and its objects with their prompts and results."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from sam2fast.deploy.onnx.runtime.frames import ImageFrames
from sam2fast.tracking.object_results import ObjectResults


class ObjectOnFrame(NamedTuple):
    """Result of one object on one frame."""

    mask: np.ndarray  # (1, h, w) logits with filled holes
    score: np.ndarray  # (1,) logit of the object's presence
    pointer: np.ndarray  # (C,)
    memory: np.ndarray | None  # memory tokens (n, m); None until the prompt is committed
    state: np.ndarray | None  # (8,) fp64 motion after the frame; None on prompted frames and for the strategy sam2


OnnxObject = ObjectResults[ObjectOnFrame]


@dataclass
class OnnxVideoState:
    """A video and its objects. Supports four keys of the official state, such as ``state["obj_ids"]``."""

    frames: ImageFrames
    strategy: str  # sam2 or together
    objects: dict[Any, OnnxObject] = field(default_factory=dict)  # by id, in the order of their first prompts
    encoded: tuple[int, list[np.ndarray]] | None = None  # index and feature levels of the last encoded frame
    # Id pairs (a, b) and (b, a) of objects with overlapping prompts. The strategy together lets them share pixels.
    exempt: frozenset[tuple[Any, Any]] = frozenset()

    @property
    def obj_ids(self) -> list[Any]:
        """The ids of all objects."""
        return list(self.objects)

    @property
    def num_frames(self) -> int:
        """The number of frames of the video."""
        return len(self.frames)

    @property
    def video_height(self) -> int:
        """The height of the video in pixels."""
        return self.frames.height

    @property
    def video_width(self) -> int:
        """The width of the video in pixels."""
        return self.frames.width

    def __getitem__(self, key: str) -> Any:
        if key not in ("obj_ids", "num_frames", "video_height", "video_width"):
            raise KeyError(key)
        return getattr(self, key)
