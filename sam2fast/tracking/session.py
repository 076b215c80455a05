"""Defines a session, which stores a video, objects with prompts, results and memories, and the model's identity."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.modeling.model_identity import OpenedWith
from sam2fast.tracking.features import FeatureCache
from sam2fast.tracking.memory_bank import MemoryBank
from sam2fast.tracking.object_results import ObjectResults
from sam2fast.tracking.outputs import FrameResult
from sam2fast.tracking.page_pool import Page
from sam2fast.tracking.strategies import SAM2, Strategy
from sam2fast.tracking.strategies.sam2long import continued
from sam2fast.utils.thread_guard import CallGuard
from sam2fast.video_io import Frames


@dataclass
class TrackedObject(ObjectResults[FrameResult]):
    """Stores prompts and results of one object, by frame. Points are dicts of ``point_coords`` and ``point_labels``."""

    # Tracked results of hypotheses 1, 2, ..., by hypothesis index. Results of hypothesis 0, the best hypothesis, are in
    # ``tracked``. A hypothesis without an entry has the results of the best hypothesis.
    others: dict[int, dict[int, FrameResult]] = field(default_factory=dict)

    def hypotheses(self, count: int) -> list["TrackedObject"]:
        """Returns ``count`` objects, one per hypothesis, with its results. The first object is this object itself."""
        others = (self.others.get(i, self.tracked) for i in range(1, count))
        return [self, *(replace(self, tracked=tracked, others={}) for tracked in others)]

    def state_before(self, frame: int, reverse: bool) -> Page | None:
        """Returns the strategy's state from :meth:`result_before`, or None if there is no result."""
        before = self.result_before(frame, reverse)
        return None if before is None else before.state

    def keep_tracked(self, frame: int, result: FrameResult, max_history: int | None) -> None:
        """Stores a tracked result. If there are more than ``max_history`` results, drops the oldest results."""
        if result.others:
            if self.tracked.get(frame) is not result:
                self._branch(frame, result)
            result.others = ()
        elif self.tracked.get(frame) is not result:
            self.tracked.pop(frame, None)  # inserts the newest result last
            self.tracked[frame] = result
        if max_history is not None:
            for tracked in self._histories():
                for old in list(tracked)[: max(0, len(tracked) - max_history)]:
                    del tracked[old]

    def _branch(self, frame: int, result: FrameResult) -> None:
        """Replaces each hypothesis by the results of its parent, and a new result on the frame."""
        rows = (result, *result.others)
        before = [o.tracked for o in self.hypotheses(len(rows))]
        after = continued(before, [row.parent for row in rows], frame, rows)
        vars(self).update(tracked=after[0], others=dict(enumerate(after[1:], 1)))  # one call, in case Ctrl-C interrupts

    def _histories(self) -> list[dict[int, FrameResult]]:
        return [self.tracked, *self.others.values()]

    def forget_unreachable(self, frame: int, rules: MemoryRules, kept: Collection[int]) -> None:
        """Drops data that neither prompts on ``frame`` nor later frames use. Keeps results on frames in ``kept``."""
        oldest = frame - rules.reach
        for results in self._histories():
            for tracked in [t for t in results if t not in kept and t != frame]:
                del results[tracked]
        for past in (self.points, self.masks, self.reverse):
            for t in [t for t in past if t < frame]:
                del past[t]
        if 0 <= rules.max_conditioning < len(self.conditioning):
            # Later frames attend to the nearest conditioning frames. Farther conditioning frames within reach may count
            # as tracked frames.
            nearest = sorted(self.conditioning, reverse=True)
            reachable = [t for rank, t in enumerate(nearest) if rank < rules.max_conditioning or t >= oldest]
            self.conditioning = {t: self.conditioning[t] for t in reachable}

    def remove_prompts(self, frame: int) -> None:
        """Removes the prompts on a frame. The result of a conditioning frame becomes a tracked result."""
        if frame in self.conditioning:
            self.others.clear()
        super().remove_prompts(frame)

    def commit(self, encoded: Mapping[int, FrameResult], clearing_distance: int | None) -> None:
        """Stores new results, see :meth:`ObjectResults.commit`. New results drop all hypotheses except the best."""
        has_new = bool(self.new_tracked or self.new_conditioning)
        super().commit(encoded, clearing_distance)
        if has_new:
            self.others.clear()

    def copy(self) -> "TrackedObject":
        """Returns a copy with the same prompts and results. Changes of the copy's dicts do not affect this object."""
        copied = TrackedObject(**{name: dict(entries) for name, entries in vars(self).items()})
        copied.others = {i: dict(tracked) for i, tracked in self.others.items()}
        return copied

    def clear(self) -> None:
        """Removes all prompts and results."""
        for results in vars(self).values():
            results.clear()


@dataclass(eq=False, repr=False)
class VideoSession:
    """Stores a video, its objects and their memories, but not the model.

    Predictors return a subclass with the official keys, :class:`~sam2fast.compat.video_state.VideoState`.

    Args:
        frames: Frames of the video.
        features: Cache of image features.
        bank: Memory bank with the memories of all objects.
        opened_with: Identity of the session's model.
        offload_video_to_cpu, offload_state_to_cpu: Arguments of ``init_state``.
        max_history: Maximum number of tracked frames stored per object. If None, there is no limit.
        max_cond_frames: Maximum number of conditioning frames to attend to. The model's limit may be lower.
        strategy: Rule that selects masks and memories.
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
    # Objects by id, in the order of their first prompts.
    objects: dict[Any, TrackedObject] = field(default_factory=dict, init=False)
    obj_ids: list[Any] = field(default_factory=list, init=False)
    # Pairs of ids, in both orders, of objects that may share pixels because their prompts overlap.
    exempt: frozenset[tuple[Any, Any]] = field(default=frozenset(), init=False)
    guard: CallGuard = field(default_factory=CallGuard, init=False)

    @property
    def device(self) -> torch.device:
        """Device of all computations."""
        return self.bank.layout.device

    @property
    def num_frames(self) -> int:
        """Number of frames of the video."""
        return len(self.frames)

    @property
    def video_size(self) -> tuple[int, int]:
        """Height and width of the video."""
        return self.frames.height, self.frames.width

    def add(self, obj_id: Any, tracked: TrackedObject) -> None:
        """Adds an object with a new id."""
        objects = {**self.objects, obj_id: tracked}
        ids = list(objects)
        self.objects, self.obj_ids = objects, ids  # one statement, in case Ctrl-C interrupts

    def remove(self, obj_id: Any) -> None:
        """Removes an object. The other objects keep their order. Raises ``KeyError`` if the id is unknown."""
        objects = dict(self.objects)
        del objects[obj_id]
        ids, exempt = list(objects), frozenset(pair for pair in self.exempt if obj_id not in pair)
        self.objects, self.obj_ids, self.exempt = objects, ids, exempt

    def clear(self) -> None:
        """Removes all objects and their memories. Empties the list of ids in place, as in the official package."""
        bank = self.bank.emptied()  # comes first, since allocating the bank may fail
        self.objects, self.obj_ids[:], self.bank, self.exempt = {}, [], bank, frozenset()

    def check_saveable(self) -> None:
        """Raises ``ValueError`` if a subclass stores prompts or results outside ``objects``."""


class UnchangedOnError:
    """Context manager that restores the session if its block raises an exception, including Ctrl-C.

    The class does not use :func:`contextlib.contextmanager`. If Ctrl-C interrupted that function's code, the generator
    would resume only on deletion, and would undo the changes of later calls.

    Args:
        state: Session. The objects and ids of the session are restored.
        objects: Objects that the block changes. The prompts and results of these objects are restored.
    """

    def __init__(self, state: VideoSession, objects: Iterable[TrackedObject]) -> None:
        self._state, self._objects, self._ids, self._exempt = state, state.objects, state.obj_ids, state.exempt
        self._before = [(tracked, vars(tracked.copy())) for tracked in objects]

    def __enter__(self) -> None:
        pass

    def __exit__(self, exc_type: type[BaseException] | None, *error: object) -> None:
        if exc_type is None:
            return
        self._state.objects, self._state.obj_ids, self._state.exempt = self._objects, self._ids, self._exempt
        for tracked, entries in self._before:
            vars(tracked).update(entries)


def check_kind(session: object) -> None:
    """Checks the type of a session.

    Raises:
        TypeError: If ``session`` is not a session.
    """
    if not isinstance(session, VideoSession):
        name = "None" if session is None else f"a {type(session).__name__}"
        raise TypeError(f"inference_state is {name}; expected the session that init_state() returned")
