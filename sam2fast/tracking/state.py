"""A session: a video, its objects with their prompts, results and memories, and the model it belongs to."""

import logging
from collections.abc import Callable, Collection, Iterator, MutableMapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor

from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.modeling.model_identity import OpenedWith
from sam2fast.tracking.features import FeatureCache
from sam2fast.tracking.frame_result import FrameResult
from sam2fast.tracking.memory_bank import MemoryBank
from sam2fast.tracking.page_pool import Page
from sam2fast.tracking.strategies import SAM2, Strategy
from sam2fast.utils.thread_guard import CallGuard
from sam2fast.video_io import Frames

_log = logging.getLogger(__name__)

Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass
class TrackedObject:
    """Prompts and results of one object, by frame."""

    points: dict[int, dict[str, Tensor]] = field(default_factory=dict)  # point_coords (1, P, 2), point_labels (1, P)
    masks: dict[int, Tensor] = field(default_factory=dict)  # (1, 1, S, S)
    # Results with a memory: of prompted frames and of the others. A frame is in at most one of them.
    conditioning: dict[int, FrameResult] = field(default_factory=dict)
    tracked: dict[int, FrameResult] = field(default_factory=dict)
    # Results of prompts since the last propagation, which commits them to one or the other.
    new_conditioning: dict[int, FrameResult] = field(default_factory=dict)
    new_tracked: dict[int, FrameResult] = field(default_factory=dict)
    # Frames that a propagation visited, and whether it went backwards.
    reverse: dict[int, bool] = field(default_factory=dict)
    # What ``tracked`` is in the object's other hypotheses, by their number from 1; ``tracked`` is the best one's. A
    # number without an entry is equal to the best one.
    others: dict[int, dict[int, FrameResult]] = field(default_factory=dict)

    def hypotheses(self, count: int) -> list["TrackedObject"]:
        """The object in each of ``count`` hypotheses, the best one first, which is the object itself."""
        others = (self.others.get(i, self.tracked) for i in range(1, count))
        return [self, *(replace(self, tracked=tracked, others={}) for tracked in others)]

    def is_initial(self, frame: int) -> bool:
        """Whether a prompt on the frame is an initial one, rather than a correction that attends to memories."""
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

    def kept_on(self, frame: int) -> FrameResult:
        """The result kept on a frame. ``KeyError`` if there is none."""
        return self.conditioning[frame] if frame in self.conditioning else self.tracked[frame]

    def state_before(self, frame: int, reverse: bool) -> Page | None:
        """What a strategy knew after the frame before, if that was tracked in the same direction or prompted."""
        before = frame + 1 if reverse else frame - 1
        if before in self.conditioning:
            return self.conditioning[before].state
        if self.reverse.get(before) is not reverse or before not in self.tracked:
            return None
        return self.tracked[before].state

    def keep_tracked(self, frame: int, result: FrameResult, max_history: int | None) -> None:
        """Stores a tracked frame and forgets the oldest beyond ``max_history``."""
        if result.others:
            if self.tracked.get(frame) is not result:
                self._branch(frame, result)
            result.others = ()
        elif self.tracked.get(frame) is not result:
            self.tracked.pop(frame, None)  # so that it becomes the newest
            self.tracked[frame] = result
        if max_history is not None:
            for tracked in self._histories():
                for old in list(tracked)[: max(0, len(tracked) - max_history)]:
                    del tracked[old]

    def _branch(self, frame: int, result: FrameResult) -> None:
        """Each hypothesis becomes the one that it continues, with its result on the frame."""
        rows = (result, *result.others)
        before = [o.tracked for o in self.hypotheses(len(rows))]
        after = [{**{t: r for t, r in before[row.parent].items() if t != frame}, frame: row} for row in rows]
        vars(self).update(tracked=after[0], others=dict(enumerate(after[1:], 1)))  # at once: Ctrl-C may come

    def _histories(self) -> list[dict[int, FrameResult]]:
        return [self.tracked, *self.others.values()]

    def forget_around(self, frame: int, distance: int) -> None:
        """Drops tracked results up to ``distance`` frames away; that of the frame itself stays."""
        for results in self._histories():
            for near in [t for t in results if t != frame and abs(t - frame) <= distance]:
                del results[near]

    def forget_unreachable(self, frame: int, rules: MemoryRules, kept: Collection[int]) -> None:
        """Drops what neither a prompt on the frame nor any later frame can use; for streams, which never go back.

        Args:
            kept: tracked frames that can be attended to.
        """
        oldest = frame - rules.reach
        for results in self._histories():
            for tracked in [t for t in results if t not in kept and t != frame]:
                del results[tracked]
        for past in (self.points, self.masks, self.reverse):
            for t in [t for t in past if t < frame]:
                del past[t]
        if 0 <= rules.max_conditioning < len(self.conditioning):
            # Nearest first: they are attended to if there are too many. The others may count as tracked frames.
            nearest = sorted(self.conditioning, reverse=True)
            kept = [t for rank, t in enumerate(nearest) if rank < rules.max_conditioning or t >= oldest]
            self.conditioning = {t: self.conditioning[t] for t in kept}

    def remove_prompts(self, frame: int) -> None:
        """Removes the prompts on a frame; the result of a conditioning frame becomes an ordinary one."""
        for prompts in (self.points, self.masks, self.new_conditioning, self.new_tracked):
            prompts.pop(frame, None)
        if frame in self.conditioning:
            self.others.clear()
            self.tracked[frame] = self.conditioning.pop(frame)
            self.reverse.pop(frame, None)

    def copy(self) -> "TrackedObject":
        """Another object with the same prompts and results."""
        copied = TrackedObject(**{name: dict(entries) for name, entries in vars(self).items()})
        copied.others = {i: dict(tracked) for i, tracked in self.others.items()}
        return copied

    def clear(self) -> None:
        """Forgets all prompts and results."""
        for results in vars(self).values():
            results.clear()


class VideoState(MutableMapping[str, Any]):
    """A video, its objects and their memories; made by ``init_state``. It does not hold the model.

    It is the original's ``inference_state``, too. When a key is asked for or assigned that holds prompts, results or
    features, it becomes the original's nested dicts, and stays so: they are what later calls read and write, object by
    object. Keys that only describe the video and the objects are answered without that.

    Args:
        frames: of the video.
        features: of its frames, those used last.
        bank: of memories.
        opened_with: the model it belongs to.
        offload_video_to_cpu, offload_state_to_cpu: as requested; neither changes where anything is computed.
        max_history: how many tracked frames of an object are kept at most.
        max_cond_frames: how many conditioning frames are attended to, if that is less than the model's own limit.
        as_dict: the original's nested dicts of a session; None for a session that cannot become these.
        strategy: decides about masks and memories.

    Attributes:
        official: the original's dict, or None; then ``objects``, ``features`` and ``bank`` are empty.
    """

    def __init__(
        self,
        frames: Frames,
        features: FeatureCache,
        bank: MemoryBank,
        opened_with: OpenedWith,
        offload_video_to_cpu: bool = False,
        offload_state_to_cpu: bool = False,
        max_history: int | None = None,
        max_cond_frames: int | None = None,
        as_dict: "AsDict | None" = None,
        strategy: Strategy = SAM2,
    ) -> None:
        self.frames: Frames = frames
        self.features: FeatureCache = features
        self.bank: MemoryBank = bank
        self.opened_with = opened_with
        self.offload_video_to_cpu: bool = offload_video_to_cpu
        self.offload_state_to_cpu: bool = offload_state_to_cpu
        self.max_history = max_history
        self.max_cond_frames = max_cond_frames
        self.device: torch.device = bank.layout.device
        self.objects: dict[Any, TrackedObject] = {}  # by id, in the order in which ids were first seen
        self.obj_ids: list[Any] = []
        self.guard = CallGuard()
        self.official: MutableMapping[str, Any] | None = None
        self._as_dict = as_dict
        self.strategy: Strategy = strategy

    @classmethod
    def of_dict(cls, session: MutableMapping[str, Any]) -> "VideoState":
        """The session that is a caller's own dict with the original's keys; calls read and write this dict.

        Raises:
            TypeError: the dict lacks keys.
        """
        missing = [key for key in OFFICIAL_KEYS if key not in session and key not in _NOT_NEEDED]
        if missing:
            raise TypeError(
                f"inference_state is a dict without {', '.join(map(repr, missing))}; expected the session that "
                "init_state() returned, or a dict with the keys of the original's"
            )
        state = cls.__new__(cls)
        attributes = {"official": session, "frames": session.get("images"), "max_history": None, "strategy": SAM2}
        vars(state).update(attributes, opened_with=None, guard=CallGuard())
        return state

    @property
    def num_frames(self) -> int:
        """Length of the video."""
        return len(self.frames) if self.official is None else self.official["num_frames"]

    @property
    def video_size(self) -> tuple[int, int]:
        """(height, width) of the video."""
        if self.official is not None:
            return self.official["video_height"], self.official["video_width"]
        return self.frames.height, self.frames.width

    @property
    def storage_device(self) -> torch.device:
        """Where the original keeps results."""
        return torch.device("cpu") if self.offload_state_to_cpu else self.device

    def to_official(self, reason: str) -> MutableMapping[str, Any]:
        """The session as the original's dict, which it is from now on.

        Args:
            reason: why, for the log.
        """
        if self.official is None:
            if self._as_dict is None:
                raise TypeError(f"{reason}: only sessions of a SAM2VideoPredictor can be the original's dict")
            inexact = self.bank.approximations.named()
            _log.warning(
                "%s: the session is the original's dict from here on, and computed object by object, which is slower%s",
                reason,
                f", and without its approximations {inexact}" if inexact else "",
            )
            self.official = self._as_dict(self)
            self.objects, self.bank = {}, self.bank.emptied()
            self.features.clear()
        return self.official

    def add(self, obj_id: Any, tracked: TrackedObject) -> None:
        """Registers an object under a new id."""
        objects = {**self.objects, obj_id: tracked}
        ids = list(objects)
        self.objects, self.obj_ids = objects, ids  # together: Ctrl-C may come between any two lines

    def remove(self, obj_id: Any) -> None:
        """Forgets an object; the others keep their order. ``KeyError`` for an id that there is not."""
        objects = dict(self.objects)
        del objects[obj_id]
        ids = list(objects)
        self.objects, self.obj_ids = objects, ids

    def clear(self) -> None:
        """Forgets all objects and frees the bank.

        The list of ids that callers may hold is emptied, as in the original. The original's dict becomes empty.
        """
        if self.official is not None:
            self.official.clear()
            return
        bank = self.bank.emptied()  # first: allocating it may fail
        self.objects, self.obj_ids[:], self.bank = {}, [], bank

    def __getitem__(self, key: str) -> Any:
        if self.official is None and key in _DESCRIPTION:
            return _DESCRIPTION[key](self)
        if self.official is None and key not in OFFICIAL_KEYS:
            raise KeyError(key)
        return self.to_official(f"inference_state[{key!r}] was asked for")[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.to_official(f"inference_state[{key!r}] was set")[key] = value

    def __delitem__(self, key: str) -> None:
        del self.to_official(f"inference_state[{key!r}] was deleted")[key]

    def __iter__(self) -> Iterator[str]:
        return iter(OFFICIAL_KEYS if self.official is None else self.official)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, key: object) -> bool:
        return any(key == known for known in self)

    def copy(self) -> dict[str, Any]:
        """A shallow copy of the original's dict, as ``dict(state)``; both go on with the same nested dicts."""
        return dict(self)

    def __repr__(self) -> str:
        height, width = self.video_size
        ids = self.obj_ids if self.official is None else self.official["obj_ids"]
        return f"VideoState({self.num_frames} frames of {width}x{height}, objects {ids})"

    def __getstate__(self) -> dict[str, Any]:
        self.to_official("inference_state was copied or pickled")
        return {**vars(self), "features": None, "guard": None, "bank": self.bank.layout, "_as_dict": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.features, self.bank = FeatureCache(self.frames, self.device), MemoryBank(state["bank"])
        self.guard = CallGuard()

    # By identity: comparing the values of the mapping would compute them.
    __eq__ = object.__eq__
    __hash__ = object.__hash__


AsDict = Callable[[VideoState], dict[str, Any]]

# Keys that the methods can do without, if features of all frames are cached.
_NOT_NEEDED = ("images", "offload_video_to_cpu", "offload_state_to_cpu")
# Keys that describe a session, and do not change it.
_DESCRIPTION: dict[str, Callable[[VideoState], Any]] = {
    "images": lambda s: s.frames,
    "num_frames": lambda s: s.num_frames,
    "offload_video_to_cpu": lambda s: s.offload_video_to_cpu,
    "offload_state_to_cpu": lambda s: s.offload_state_to_cpu,
    "video_height": lambda s: s.video_size[0],
    "video_width": lambda s: s.video_size[1],
    "device": lambda s: s.device,
    "storage_device": lambda s: s.storage_device,
    "obj_id_to_idx": lambda s: MappingProxyType({obj_id: i for i, obj_id in enumerate(s.objects)}),
    "obj_idx_to_id": lambda s: MappingProxyType(dict(enumerate(s.objects))),
    "obj_ids": lambda s: s.obj_ids,
}
# In the original's order. `dict(state)` reads the keys in turn: the first one that changes a session makes this one the
# original's nested dicts, so that the ids after it are their dicts and not the read-only views above.
OFFICIAL_KEYS = (
    "images",
    "num_frames",
    "offload_video_to_cpu",
    "offload_state_to_cpu",
    "video_height",
    "video_width",
    "device",
    "storage_device",
    "point_inputs_per_obj",
    "mask_inputs_per_obj",
    "cached_features",
    "constants",
    "obj_id_to_idx",
    "obj_idx_to_id",
    "obj_ids",
    "output_dict_per_obj",
    "temp_output_dict_per_obj",
    "frames_tracked_per_obj",
)
