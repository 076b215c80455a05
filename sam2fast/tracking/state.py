"""What is known about a video and its objects between calls."""

import weakref
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.arrivals import HostCopy
from sam2fast.tracking.features import FeatureCache
from sam2fast.tracking.memory_bank import Memory, MemoryBank
from sam2fast.tracking.official_views import VIEWS
from sam2fast.tracking.page_pool import Page
from sam2fast.tracking.selection import MemoryRules
from sam2fast.utils.thread_guard import ThreadGuard
from sam2fast.video_io import Frames


class FrameCopies(NamedTuple):
    """Results of N objects on one frame, on their way to the CPU."""

    masks: HostCopy  # (N, 1, h, w)
    ious: HostCopy  # (N, 1)
    scores: HostCopy  # (N, 1)


class FrameResult:
    """One object on one frame; the small tensors lie on the CPU, or are on their way.

    Attributes:
        pointer: the object pointer.
        memory: none until the prompt is final.
    """

    __slots__ = ("_copies", "_tensors", "memory", "pointer")

    def __init__(self, mask: Tensor, iou: Tensor, score: Tensor, pointer: Page, memory: Memory | None) -> None:
        self._tensors: tuple[Tensor, Tensor, Tensor] | None = (mask, iou, score)
        self._copies: tuple[FrameCopies, int] | None = None
        self.pointer = pointer
        self.memory = memory

    @classmethod
    def arriving(cls, copies: FrameCopies, row: int, pointer: Page, memory: Memory | None) -> "FrameResult":
        """The result that is row ``row`` of copies that need not have come yet."""
        result = cls.__new__(cls)
        result._tensors, result._copies = None, (copies, row)
        result.pointer, result.memory = pointer, memory
        return result

    @property
    def mask(self) -> Tensor:
        """``(1, 1, h, w)`` fp32 low-resolution logits, holes filled."""
        return self.arrived()[0]

    @property
    def iou(self) -> Tensor:
        """``(1, 1)`` predicted."""
        return self.arrived()[1]

    @property
    def score(self) -> Tensor:
        """``(1, 1)`` logit of the object's presence."""
        return self.arrived()[2]

    def with_memory(self, memory: Memory) -> "FrameResult":
        """The same result with its memory."""
        return FrameResult(*self.arrived(), self.pointer, memory)

    def arrived(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mask, IoU and score; waits for them once."""
        if self._tensors is None:
            assert self._copies is not None
            copies, row = self._copies
            # Clones: views would keep the results of all objects alive as long as one of them.
            mask, iou, score = (copy.row(row).float() for copy in copies)
            self._tensors, self._copies = (mask, iou, score), None
        return self._tensors


@dataclass
class TrackedObject:
    """Prompts and results of one object, by frame."""

    points: dict[int, dict[str, Tensor]] = field(default_factory=dict)  # point_coords (1, P, 2), point_labels (1, P)
    masks: dict[int, Tensor] = field(default_factory=dict)  # (1, 1, S, S)
    # Results with a memory: of prompted frames and of the others. A frame is in at most one of them.
    conditioning: dict[int, FrameResult] = field(default_factory=dict)
    tracked: dict[int, FrameResult] = field(default_factory=dict)
    # Results of prompts since the last propagation, to become one or the other.
    new_conditioning: dict[int, FrameResult] = field(default_factory=dict)
    new_tracked: dict[int, FrameResult] = field(default_factory=dict)
    # Frames that a propagation visited, and whether it went backwards.
    reverse: dict[int, bool] = field(default_factory=dict)

    def is_initial(self, frame: int) -> bool:
        """Whether a prompt on the frame is a first one, rather than a correction that has memories to attend to."""
        return frame not in self.reverse or not self.conditioning

    def results(self, conditioning: bool) -> dict[int, FrameResult]:
        """The results kept as conditioning ones, or the others."""
        return self.conditioning if conditioning else self.tracked

    def new_results(self, conditioning: bool) -> dict[int, FrameResult]:
        """The same for prompts since the last propagation."""
        return self.new_conditioning if conditioning else self.new_tracked

    def result_on(self, frame: int, conditioning: bool) -> FrameResult | None:
        """The latest result on a frame: a new one of the given kind, else a kept one of either kind."""
        for results in (self.new_results(conditioning), self.conditioning, self.tracked):
            if frame in results:
                return results[frame]
        return None

    def keep_tracked(self, frame: int, result: FrameResult, max_history: int | None) -> None:
        """Stores a tracked frame and forgets the oldest beyond ``max_history``."""
        self.tracked.pop(frame, None)  # so that it becomes the newest
        self.tracked[frame] = result
        if max_history is not None:
            for old in list(self.tracked)[: max(0, len(self.tracked) - max_history)]:
                del self.tracked[old]

    def forget_around(self, frame: int, distance: int) -> None:
        """Drops tracked results up to ``distance`` frames away; that of the frame itself stays."""
        for near in [t for t in self.tracked if t != frame and abs(t - frame) <= distance]:
            del self.tracked[near]

    def forget_unreachable(self, frame: int, rules: MemoryRules) -> None:
        """Drops what neither a prompt on the frame nor any later frame can use; for videos that never go back."""
        oldest = frame - rules.reach
        for tracked in [t for t in self.tracked if t < oldest]:
            del self.tracked[tracked]
        for past in (self.points, self.masks, self.reverse):
            for t in [t for t in past if t < frame]:
                del past[t]
        if 0 <= rules.max_conditioning < len(self.conditioning):
            # Nearest first, as they are attended to when there are too many. One that is not may count as tracked.
            nearest = sorted(self.conditioning, reverse=True)
            kept = [t for rank, t in enumerate(nearest) if rank < rules.max_conditioning or t >= oldest]
            self.conditioning = {t: self.conditioning[t] for t in kept}

    def take_back(self, frame: int) -> None:
        """Forgets prompts on a frame; what a conditioning frame holds becomes an ordinary result."""
        for prompts in (self.points, self.masks, self.new_conditioning, self.new_tracked):
            prompts.pop(frame, None)
        if frame in self.conditioning:
            self.tracked[frame] = self.conditioning.pop(frame)
            self.reverse.pop(frame, None)

    def copy(self) -> "TrackedObject":
        """Another object with the same prompts and results."""
        return TrackedObject(**{name: dict(entries) for name, entries in vars(self).items()})

    def clear(self) -> None:
        """Forgets all prompts and results."""
        for results in vars(self).values():
            results.clear()


class VideoState(Mapping[str, Any]):
    """A video, its objects and their memories; made by ``init_state``.

    Also answers the keys of the original's ``inference_state``, read-only: what is changed through them would not be
    noticed.

    Args:
        frames: of the video.
        features: of its frames, as needed.
        bank: for the memories.
        offload_video_to_cpu, offload_state_to_cpu: as asked for; neither changes where anything is computed.
        max_history: how many tracked frames of an object are kept at most.
        max_cond_frames: how many conditioning frames are attended to, if that is less than the model's own limit.
    """

    def __init__(
        self,
        frames: Frames,
        features: FeatureCache,
        bank: MemoryBank,
        offload_video_to_cpu: bool = False,
        offload_state_to_cpu: bool = False,
        max_history: int | None = None,
        max_cond_frames: int | None = None,
    ) -> None:
        self.frames: Frames = frames
        self.features: FeatureCache = features
        self.bank: MemoryBank = bank
        self.offload_video_to_cpu: bool = offload_video_to_cpu
        self.offload_state_to_cpu: bool = offload_state_to_cpu
        self.max_history = max_history
        self.max_cond_frames = max_cond_frames
        self.device: torch.device = bank.model.device
        self.objects: dict[Any, TrackedObject] = {}  # by id, in the order in which ids were first seen
        self.obj_ids: list[Any] = []
        # Another predictor that may use this too, and by what its and the model's weights were known then.
        self.accepted: tuple[weakref.ref[SAM2Base], Hashable] | None = None
        self.guard = ThreadGuard()

    @property
    def num_frames(self) -> int:
        """Of the video."""
        return len(self.frames)

    @property
    def video_size(self) -> tuple[int, int]:
        """(height, width) of the video."""
        return self.frames.height, self.frames.width

    @property
    def rules(self) -> MemoryRules:
        """Which memories a frame attends to."""
        slots = self.bank.approximations.memory_slots
        rules = replace(MemoryRules.of(self.bank.model), memory_slots=slots)
        if self.max_cond_frames is None or 0 <= rules.max_conditioning <= self.max_cond_frames:
            return rules
        return replace(rules, max_conditioning=self.max_cond_frames)

    @property
    def storage_device(self) -> torch.device:
        """Where the original would keep results; the views answer with tensors there."""
        return torch.device("cpu") if self.offload_state_to_cpu else self.device

    def add(self, obj_id: Any, tracked: TrackedObject) -> None:
        """Registers an object under a new id."""
        objects = {**self.objects, obj_id: tracked}
        ids = list(objects)
        self.objects, self.obj_ids = objects, ids  # at once: Ctrl-C may come between any two lines

    def remove(self, obj_id: Any) -> None:
        """Forgets an object; the others keep their order. ``KeyError`` for an id that there is not."""
        objects = dict(self.objects)
        del objects[obj_id]
        ids = list(objects)
        self.objects, self.obj_ids = objects, ids

    def clear(self) -> None:
        """Forgets all objects and frees the bank.

        The list of ids that callers may hold is emptied, as in the original.
        """
        bank = MemoryBank(self.bank.model, self.bank.approximations)  # first: there may be no memory for it
        self.objects, self.obj_ids[:], self.bank = {}, [], bank

    def __getitem__(self, key: str) -> Any:
        return VIEWS[key](self)

    def __iter__(self) -> Iterator[str]:
        return iter(VIEWS)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        height, width = self.video_size
        return f"VideoState({self.num_frames} frames of {width}x{height}, objects {self.obj_ids})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "VideoState":
        raise TypeError("a video state cannot be copied so; predictor.move_state(state) gives another one")

    # A state is itself, not its values: comparing those would compute them.
    __eq__ = object.__eq__
    __hash__ = object.__hash__


class UnchangedOnError:
    """A block: after an exception, Ctrl-C included, a state has the objects that it had before.

    No generator of :mod:`contextlib`: where Ctrl-C cuts that module's own code off, the generator would go on when it
    is collected, and take back what later calls have done.

    Args:
        state: whose objects these are.
        objects: those that the block changes; they hold again what they held.
    """

    def __init__(self, state: VideoState, objects: Iterable[TrackedObject]) -> None:
        self._state, self._objects, self._ids = state, state.objects, state.obj_ids
        self._before = [(tracked, vars(tracked.copy())) for tracked in objects]

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            return
        self._state.objects, self._state.obj_ids = self._objects, self._ids
        for tracked, entries in self._before:
            vars(tracked).update(entries)
