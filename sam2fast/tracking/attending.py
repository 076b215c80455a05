"""What the objects of a session attend to on a frame: chosen by its strategy, and found in its memory bank."""

import operator
from array import array
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Any

from sam2fast.modeling.memory_selection import MemoryRules, select_memories
from sam2fast.tracking.memory_bank import AttendedPages
from sam2fast.tracking.outputs import FrameResult
from sam2fast.tracking.page_pool import Page
from sam2fast.tracking.session import TrackedObject, VideoSession
from sam2fast.tracking.strategies.base import Attended, History, Strategy


def history_of(state: VideoSession, tracked: TrackedObject, frame: int, reverse: bool, rules: MemoryRules) -> History:
    """What a strategy sees of an object."""
    results = MappingProxyType(tracked.conditioning), MappingProxyType(tracked.tracked)
    return History(frame, reverse, state.num_frames, *results, rules, MappingProxyType(tracked.reverse))


def follows_sam2(state: VideoSession) -> bool:
    """Whether the session's strategy leaves the choice of memories to SAM 2's own rule."""
    return type(state.strategy).attend is Strategy.attend


def attended_frames(
    state: VideoSession, objects: Sequence[TrackedObject], frame: int, reverse: bool, rules: MemoryRules
) -> list[Attended]:
    """The frames that each object attends to, by the ``rules`` of the session.

    Raises:
        ValueError: the strategy's choice is not possible.
    """
    if follows_sam2(state):
        given = state.num_frames, reverse, rules
        return [Attended(*select_memories(frame, o.conditioning, o.tracked, *given)) for o in objects]
    histories = [history_of(state, o, frame, reverse, rules) for o in objects]
    return [_checked(state.strategy, state.strategy.attend(history), history) for history in histories]


def _checked(strategy: Strategy, attended: Attended, history: History) -> Attended:
    """What a strategy chose.

    Raises:
        ValueError: it is no ``Attended``, or has something else than pairs, a frame without a result, or a row that
            there is not.
    """
    if not isinstance(attended, Attended):
        kind = type(attended).__name__
        raise _error(strategy, history, f"returned a {kind} from attend(); expected Attended(memories, pointers)")
    conditioning, tracked, rules = history.conditioning, history.tracked, history.rules
    for kind, part in (("memory", attended.memories), ("pointer", attended.pointers)):
        try:
            frames = [t for t, _ in part] if isinstance(part, list | tuple) else None
        except (TypeError, ValueError):
            frames = None
        if frames is None:
            expected = f"({'frame, row' if kind == 'memory' else 'frame, distance'})"
            raise _error(strategy, history, f"gave as {kind} {part!r}; expected a list of pairs {expected}")
        for t in frames:
            if t not in conditioning and t not in tracked:
                raise _error(strategy, history, f"attends to the {kind} of frame {t}, which has none")
    for t, row in attended.memories:
        if not 0 <= _integer(row) < rules.num_maskmem:
            raise _error(strategy, history, f"gave frame {t} row {row!r}; expected 0 to {rules.num_maskmem - 1}")
    if attended.pointers and not rules.use_pointers:
        raise _error(strategy, history, "attends to pointers, and the model to none (use_obj_ptrs_in_encoder is off)")
    distances = [distance for _, distance in attended.pointers]
    if _count(distances) is None:
        raise _error(strategy, history, f"gave distances {distances}; expected numbers")
    if attended.span is not None and (not strategy.has_span or _integer(attended.span) < 1):
        fault = f"gave a span of {attended.span!r}; expected an integer above 0, and has_span = True"
        raise _error(strategy, history, fault)
    if attended.factors is not None:
        is_pair = isinstance(attended.factors, list | tuple)
        counts = tuple(map(_count, attended.factors)) if is_pair else None
        if not strategy.has_factors or counts != (len(attended.memories), len(attended.pointers)):
            fault = (
                f"gave factors {attended.factors!r}; expected {len(attended.memories)} numbers and "
                f"{len(attended.pointers)}, in a tuple of two lists, and has_factors = True"
            )
            raise _error(strategy, history, fault)
    return attended


def _integer(value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        return -1


def _count(values: Any) -> int | None:
    """How many numbers there are; None if these are no numbers."""
    try:
        return len(array("f", values))
    except TypeError:
        return None


def _error(strategy: Strategy, history: History, fault: str) -> ValueError:
    return ValueError(f"{type(strategy).__name__}, on frame {history.frame}, {fault}")


def whole_windows(
    state: VideoSession,
    objects: Sequence[TrackedObject],
    frame: int,
    reverse: bool,
    rules: MemoryRules,
    known: Sequence[Page | None],
) -> list[AttendedPages] | None:
    """:func:`whole_window` of each object; None if one has none, or the session chooses memories in another way.

    Args:
        known: what the strategy knows of each object.
    """
    if not follows_sam2(state) or state.strategy.has_factors:
        return None
    windows = []
    for tracked, page in zip(objects, known, strict=True):
        window = whole_window(tracked, frame, reverse, state.num_frames, rules, page)
        if window is None:
            return None
        windows.append(window)
    return windows


def whole_window(
    tracked: TrackedObject, frame: int, reverse: bool, num_frames: int, rules: MemoryRules, state: Page | None
) -> AttendedPages | None:
    """What an object attends to by SAM 2's own rule, in one look, if it was tracked on all frames that the rule looks
    back to, as in a long pass; otherwise None.

    The pages are those of :func:`select_memories` and :func:`attended_pages`.
    """
    conditioning, limit, recent = tracked.conditioning, rules.max_conditioning, rules.recent
    all_are_chosen = bool(conditioning) and (limit == -1 or len(conditioning) <= limit)
    if not all_are_chosen or rules.stride != 1 or recent < 1 or not rules.use_pointers:
        return None
    forward, behind = -1 if reverse else 1, min(num_frames, rules.max_pointers) - 1
    window = range(frame - forward, frame - forward * (max(recent, behind) + 1), -forward)  # the nearest first
    try:
        known = [tracked.tracked[t] for t in window]
    except KeyError:
        return None
    pointers, distances = [], []
    for t, result in conditioning.items():
        distance = (frame - t) * forward
        if distance >= 0 or not rules.only_past_pointers:
            pointers.append(result.pointer)
            distances.append(distance if rules.signed_distances else abs(distance))
    pointers += [result.pointer for result in known[:behind]]
    distances += range(1, behind + 1)
    pages = pages_of([*conditioning.values(), *known[recent - 1 :: -1]])
    times = [rules.num_maskmem - 1] * len(conditioning) + list(range(recent - 1, -1, -1))
    return AttendedPages(pages, times, pointers, distances, len(conditioning), state=state)


def pages_of(results: Iterable[FrameResult]) -> list[Page]:
    """The memories of results that have one."""
    return [result.memory for result in results if result.memory is not None]


def attended_pages(
    tracked: TrackedObject,
    attended: Attended,
    rules: MemoryRules,
    state: Page | None,
    has_factors: bool,
) -> AttendedPages:
    """The pages of the frames that an object attends to.

    Args:
        state: what the strategy knows of the object.
        has_factors: of the strategy.
    """
    conditioning, tracked_frames = tracked.conditioning, tracked.tracked
    results = [conditioning[t] if t in conditioning else tracked_frames[t] for t, _ in attended.memories]
    pages, times = pages_of(results), [row for _, row in attended.memories]
    of_memories, of_pointers = attended.factors or ([1.0] * len(pages), [1.0] * len(attended.pointers))
    # A strategy may choose more than the model does. What exceeds it counts as conditioning frames.
    limit = rules.max_conditioning if rules.max_conditioning >= 0 else len(conditioning)
    more = max(len(pages) - rules.recent, len(attended.pointers) - (rules.max_pointers - 1))
    pointers = [(conditioning[t] if t in conditioning else tracked_frames[t]).pointer for t, _ in attended.pointers]
    distances = [distance for _, distance in attended.pointers]
    weights = (of_memories, of_pointers) if has_factors else None
    count = max(min(len(conditioning), limit), more)
    return AttendedPages(pages, times, pointers, distances, count, attended.span or 0, state, weights)
