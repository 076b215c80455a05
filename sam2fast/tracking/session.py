"""A session: a video, its objects with their prompts, results and memories, and what identifies its model."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.modeling.model_identity import OpenedWith
from sam2fast.tracking.features import FeatureCache
from sam2fast.tracking.memory_bank import MemoryBank
from sam2fast.tracking.outputs import FrameResult
from sam2fast.tracking.page_pool import Page
from sam2fast.tracking.strategies import SAM2, Strategy
from sam2fast.tracking.strategies.sam2long import continued
from sam2fast.utils.thread_guard import CallGuard
from sam2fast.video_io import Frames


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
        """Replaces each hypothesis by its parent, with its own result on the frame."""
        rows = (result, *result.others)
        before = [o.tracked for o in self.hypotheses(len(rows))]
        after = continued(before, [row.parent for row in rows], frame, rows)
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
            reachable = [t for rank, t in enumerate(nearest) if rank < rules.max_conditioning or t >= oldest]
            self.conditioning = {t: self.conditioning[t] for t in reachable}

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


@dataclass(eq=False, repr=False)
class VideoSession:
    """A video, its objects and their memories. It does not hold the model.

    Predictors return :class:`~sam2fast.compat.video_state.VideoState`, which answers the original's keys, too.

    Args:
        frames: of the video.
        features: of its frames, those used last.
        bank: of memories.
        opened_with: the model it belongs to.
        offload_video_to_cpu, offload_state_to_cpu: as requested; neither changes where anything is computed.
        max_history: how many tracked frames of an object are kept at most.
        max_cond_frames: how many conditioning frames are attended to, if that is less than the model's own limit.
        strategy: decides about masks and memories.
    """

    frames: Frames
    features: FeatureCache
    bank: MemoryBank
    opened_with: OpenedWith
    offload_video_to_cpu: bool = False
    offload_state_to_cpu: bool = False
    max_history: int | None = None
    max_cond_frames: int | None = None
    strategy: Strategy = SAM2
    # By id, in the order in which ids were first seen.
    objects: dict[Any, TrackedObject] = field(default_factory=dict, init=False)
    obj_ids: list[Any] = field(default_factory=list, init=False)
    # Pairs of ids, both ways, of objects that a strategy does not compare: their prompts overlap.
    exempt: frozenset[tuple[Any, Any]] = field(default=frozenset(), init=False)
    guard: CallGuard = field(default_factory=CallGuard, init=False)

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return self.bank.layout.device

    @property
    def num_frames(self) -> int:
        """Length of the video."""
        return len(self.frames)

    @property
    def video_size(self) -> tuple[int, int]:
        """(height, width) of the video."""
        return self.frames.height, self.frames.width

    def add(self, obj_id: Any, tracked: TrackedObject) -> None:
        """Registers an object under a new id."""
        objects = {**self.objects, obj_id: tracked}
        ids = list(objects)
        self.objects, self.obj_ids = objects, ids  # together: Ctrl-C may come between any two lines

    def remove(self, obj_id: Any) -> None:
        """Forgets an object; the others keep their order. ``KeyError`` for an id that there is not."""
        objects = dict(self.objects)
        del objects[obj_id]
        ids, exempt = list(objects), frozenset(pair for pair in self.exempt if obj_id not in pair)
        self.objects, self.obj_ids, self.exempt = objects, ids, exempt

    def clear(self) -> None:
        """Forgets all objects and frees the bank.

        The list of ids that callers may hold is emptied, as in the original.
        """
        bank = self.bank.emptied()  # first: allocating it may fail
        self.objects, self.obj_ids[:], self.bank, self.exempt = {}, [], bank, frozenset()

    def check_saveable(self) -> None:
        """Checks that all prompts and results are in ``objects``, which a subclass may keep elsewhere.

        Raises:
            ValueError: they are not.
        """


class UnchangedOnError:
    """A transaction: after an exception in its block, Ctrl-C included, the state is as it was before.

    Not a generator of :mod:`contextlib`: if Ctrl-C interrupts that module's own code, the generator is resumed when it
    is collected, and would undo what later calls have done.

    Args:
        state: its objects and ids are restored.
        objects: those that the block changes; their contents are restored.
    """

    def __init__(self, state: VideoSession, objects: Iterable[TrackedObject]) -> None:
        self._state, self._objects, self._ids, self._exempt = state, state.objects, state.obj_ids, state.exempt
        self._before = [(tracked, vars(tracked.copy())) for tracked in objects]

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            return
        self._state.objects, self._state.obj_ids, self._state.exempt = self._objects, self._ids, self._exempt
        for tracked, entries in self._before:
            vars(tracked).update(entries)


def check_kind(session: object) -> None:
    """
    Raises:
        TypeError: ``session`` is no session.
    """
    if not isinstance(session, VideoSession):
        kind = "None" if session is None else f"a {type(session).__name__}"
        raise TypeError(f"inference_state is {kind}; expected the session that init_state() returned")
