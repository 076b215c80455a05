"""A session on a video: its frames, and its objects with their prompts and results."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from sam2fast.deploy.onnx.runtime.frames import ImageFrames


class ObjectOnFrame(NamedTuple):
    """One object's result on one frame."""

    mask: np.ndarray  # (1, h, w) logits, holes filled
    score: np.ndarray  # (1,) logit of its presence
    pointer: np.ndarray  # (C,)
    memory: np.ndarray | None  # (n, m); None until the prompt is committed


Results = dict[int, ObjectOnFrame]


@dataclass
class OnnxObject:
    """Prompts and results of one object, by frame."""

    points: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)  # (1, P, 2) and (1, P)
    masks: dict[int, np.ndarray] = field(default_factory=dict)  # (1, 1, S, S)
    # Results with a memory, of prompted frames and of the others; a frame is in at most one of them.
    conditioning: Results = field(default_factory=dict)
    tracked: Results = field(default_factory=dict)
    # Results of prompts since the last propagation, which commits them to one or the other.
    new_conditioning: Results = field(default_factory=dict)
    new_tracked: Results = field(default_factory=dict)
    # Frames that a propagation visited, and whether it went backwards.
    reverse: dict[int, bool] = field(default_factory=dict)

    def is_initial(self, frame: int) -> bool:
        """Whether a prompt on the frame is a first one, rather than a correction that attends to memories."""
        return frame not in self.reverse or not self.conditioning

    def new_results(self, conditioning: bool) -> Results:
        """New results of one kind."""
        return self.new_conditioning if conditioning else self.new_tracked

    def result_on(self, frame: int, conditioning: bool) -> ObjectOnFrame | None:
        """The latest result on a frame: a new one of the given kind, else a kept one of either kind."""
        for results in (self.new_results(conditioning), self.conditioning, self.tracked):
            if frame in results:
                return results[frame]
        return None

    def kept_on(self, frame: int) -> ObjectOnFrame:
        """The result kept on a frame. ``KeyError`` if there is none."""
        return self.conditioning[frame] if frame in self.conditioning else self.tracked[frame]

    def remove_prompts(self, frame: int) -> None:
        """Removes the prompts on a frame; the result of a conditioning frame becomes an ordinary one."""
        for prompts in (self.points, self.masks, self.new_conditioning, self.new_tracked):
            prompts.pop(frame, None)
        if frame in self.conditioning:
            self.tracked[frame] = self.conditioning.pop(frame)
            self.reverse.pop(frame, None)

    def forget_around(self, frame: int, distance: int) -> None:
        """Drops tracked results up to ``distance`` frames away; that of the frame itself stays."""
        for near in [t for t in self.tracked if t != frame and abs(t - frame) <= distance]:
            del self.tracked[near]

    def commit(self, encoded: dict[tuple[bool, int], ObjectOnFrame]) -> None:
        """Moves new results, with their memories by kind and frame, to the kept ones."""
        for (conditioning, frame), result in encoded.items():
            if conditioning:
                self.conditioning[frame] = result
            else:
                self.tracked[frame] = result
        self.new_tracked.clear()
        self.new_conditioning.clear()
        # Also a correction of a conditioning frame, unless it was stored as one: the original's rule.
        for frame in self.conditioning:
            self.tracked.pop(frame, None)


@dataclass
class OnnxVideoState:
    """A video and its objects. The original's keys work, too: ``state["obj_ids"]``."""

    frames: ImageFrames
    objects: dict[Any, OnnxObject] = field(default_factory=dict)  # by id, in the order of their first prompts
    encoded: tuple[int, list[np.ndarray]] | None = None  # the last encoded frame and its levels

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
