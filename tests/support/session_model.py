"""A model of a video session by frame numbers, without tensors: the rules of ``docs/tracking.md`` a second time."""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from sam2fast.compat.video_state import VideoState
from sam2fast.tracking.page_pool import Page
from sam2fast.tracking.session import TrackedObject


@dataclass
class ObjectFacts:
    """Frames on which something is known of one object."""

    points: dict[int, int] = field(default_factory=dict)  # how many, by frame
    masks: set[int] = field(default_factory=set)
    conditioning: set[int] = field(default_factory=set)
    tracked: list[int] = field(default_factory=list)  # what was written last comes last
    new_conditioning: set[int] = field(default_factory=set)
    new_tracked: list[int] = field(default_factory=list)
    backwards: dict[int, bool] = field(default_factory=dict)

    @classmethod
    def of(cls, tracked: TrackedObject) -> "ObjectFacts":
        """Those of a real session's object."""
        return cls(
            points={t: p["point_labels"].shape[1] for t, p in tracked.points.items()},
            masks=set(tracked.masks),
            conditioning=set(tracked.conditioning),
            tracked=list(tracked.tracked),
            new_conditioning=set(tracked.new_conditioning),
            new_tracked=list(tracked.new_tracked),
            backwards=dict(tracked.reverse),
        )

    def is_first_prompt(self, frame: int) -> bool:
        return frame not in self.backwards or not self.conditioning

    def has_result(self, frame: int, conditioning: bool) -> bool:
        """Whether an answer to a prompt of that kind on the frame shows the object."""
        new = self.new_conditioning if conditioning else self.new_tracked
        return frame in new or frame in self.conditioning or frame in self.tracked

    def write(self, frame: int) -> None:
        """An ordinary result."""
        if frame in self.tracked:
            self.tracked.remove(frame)
        self.tracked.append(frame)

    def forget_near(self, frame: int, distance: int | None) -> None:
        if distance is not None:
            self.tracked = [t for t in self.tracked if t == frame or abs(t - frame) > distance]

    def take_back(self, frame: int) -> None:
        self.points.pop(frame, None)
        self.masks.discard(frame)
        self.new_conditioning.discard(frame)
        self.new_tracked = [t for t in self.new_tracked if t != frame]
        if frame in self.conditioning:
            self.conditioning.remove(frame)
            self.write(frame)
            self.backwards.pop(frame, None)


class SessionModel:
    """All objects of a session, with its settings.

    ``sticks`` is ``add_all_frames_to_correct_as_cond``; frames nearer to prompts than ``clearing`` are forgotten.
    """

    def __init__(
        self, num_frames: int, sticks: bool = False, clearing: int | None = None, max_history: int | None = None
    ) -> None:
        self.num_frames, self.sticks, self.clearing, self.max_history = num_frames, sticks, clearing, max_history
        self.objects: dict[Hashable, ObjectFacts] = {}

    @property
    def ids(self) -> list[Hashable]:
        return list(self.objects)

    def prompt(self, frame: int, obj_id: Hashable, points: int | None, joining: bool = False) -> bool:
        """So many points, or a mask; says whether it makes the frame a conditioning frame."""
        known = self.objects.setdefault(obj_id, ObjectFacts())
        conditioning = known.is_first_prompt(frame) or self.sticks
        if points is None:
            known.masks.add(frame)
            known.points.pop(frame, None)
        else:
            known.points[frame] = points + (known.points.get(frame, 0) if joining else 0)
            known.masks.discard(frame)
        if conditioning:
            known.new_conditioning.add(frame)
        elif frame not in known.new_tracked:
            known.new_tracked.append(frame)
        return conditioning

    def clear(self, frame: int, obj_id: Hashable) -> None:
        if obj_id in self.objects:
            self.objects[obj_id].take_back(frame)

    def remove(self, obj_id: Hashable) -> list[int]:
        """The frames for which the others' masks are answered."""
        gone = self.objects.pop(obj_id, None)
        return sorted({*gone.points, *gone.masks}) if gone is not None and self.objects else []

    def shows_new_conditioning(self, frame: int) -> bool:
        """Which kind of new results an answer without a prompt shows."""
        return any(frame in known.new_conditioning for known in self.objects.values())

    def can_be_tracked(self) -> bool:
        return bool(self.objects) and all(o.conditioning or o.new_conditioning for o in self.objects.values())

    def preflight(self) -> None:
        """Results of prompts become memories."""
        for known in self.objects.values():
            for frame in (*known.new_tracked, *known.new_conditioning):
                known.forget_near(frame, self.clearing)
            for frame in known.new_tracked:
                known.write(frame)
            known.conditioning |= known.new_conditioning
            known.tracked = [t for t in known.tracked if t not in known.conditioning]
            known.new_tracked, known.new_conditioning = [], set()

    def order(self, start: int | None, count: int | None, backwards: bool) -> list[int]:
        """The frames of a pass, after :meth:`preflight`."""
        first = min(t for o in self.objects.values() for t in o.conditioning) if start is None else start
        more = self.num_frames if count is None else count
        if backwards:
            is_inside = 0 < first < self.num_frames
            return [t for t in range(first, -1, -1) if first - more <= t] if is_inside else []
        return [t for t in range(self.num_frames) if first <= t <= first + more]

    def track(self, objects: dict[Hashable, ObjectFacts], frame: int, backwards: bool) -> None:
        for known in objects.values():
            if frame in known.conditioning:
                known.forget_near(frame, self.clearing)
            else:
                known.write(frame)
                if self.max_history is not None:
                    known.tracked = known.tracked[-self.max_history :]
            known.backwards[frame] = backwards


class PassModel:
    """A pass over the video. Raises RuntimeError if an object has no prompt; the session is as it was."""

    def __init__(self, session: SessionModel, start: int | None, count: int | None, backwards: bool, lag: int) -> None:
        if not session.can_be_tracked():
            raise RuntimeError("an object has no prompt")
        session.preflight()
        self._session, self._backwards, self._lag = session, backwards, lag
        self._coming = deque(session.order(start, count, backwards))
        self._objects = dict(session.objects)
        self._waiting: deque[tuple[int, list[Hashable]]] = deque()
        self._failure: RuntimeError | None = None

    def next(self) -> tuple[int, list[Hashable]] | None:
        """The next frame and its ids, None at the end, or RuntimeError if an object's last prompt was taken back."""
        while len(self._waiting) <= self._lag and self._failure is None:
            session = self._session
            self._objects = {i: o for i, o in self._objects.items() if session.objects.get(i) is o}
            if not self._objects or not self._coming:
                break
            if not all(o.conditioning for o in self._objects.values()):
                self._failure = RuntimeError("an object has no prompt any more")
                break
            frame = self._coming.popleft()
            session.track(self._objects, frame, self._backwards)
            self._waiting.append((frame, list(self._objects)))
        if self._waiting:
            return self._waiting.popleft()
        if self._failure is not None:
            failure, self._failure, self._objects = self._failure, None, {}
            raise failure
        return None


def assert_facts(state: VideoState, model: SessionModel) -> None:
    """A session knows what the model says, of each object on each frame."""
    assert state.obj_ids == state["obj_ids"] == list(state.objects) == model.ids
    for obj_id, tracked in state.objects.items():
        actual, expected = ObjectFacts.of(tracked), model.objects[obj_id]
        if model.max_history is None:  # otherwise the order says what is forgotten next
            actual.tracked.sort()
            expected = ObjectFacts(**{**vars(expected), "tracked": sorted(expected.tracked)})
        assert actual == expected, f"object {obj_id!r}"


def assert_consistent(state: VideoState) -> None:
    """Results are finite, have the memories they need, and pages and rows belong to one another."""
    pages: dict[str, list[Page]] = {}
    for tracked in state.objects.values():
        assert not tracked.conditioning.keys() & tracked.tracked.keys()
        for kind, results in vars(tracked).items():
            if kind not in ("conditioning", "tracked", "new_conditioning", "new_tracked"):
                continue
            for result in results.values():
                assert all(x.isfinite().all() for x in (result.mask, result.iou, result.score))
                assert (result.memory is None) == kind.startswith("new_")
                pages.setdefault("pointers", []).append(result.pointer)
                pages.setdefault("memories", []).extend([] if result.memory is None else [result.memory])
    for name, owned in pages.items():
        if not owned:
            continue
        pool: Any = getattr(state.bank, name)
        rows = {id(page): page.row for page in owned if page.row is not None}
        assert len(set(rows.values())) == len(rows), f"two pages in one row of the {name}"
        assert not set(rows.values()) & set(pool._free), f"a page in a free row of the {name}"
        for page in owned:
            assert page.row is not None or page.archived is not None
            assert page.row is None or pool._owners[page.row]() is page
            assert pool.read(page).isfinite().all(), name
