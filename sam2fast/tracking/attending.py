"""What the objects of a session attend to on a frame: chosen by its strategy, and found in its memory bank."""

import operator
from array import array
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from sam2fast.engine import engine_for
from sam2fast.kernels.memory_attention import AttendedMemory
from sam2fast.modeling.memory_selection import MemoryRules, select_memories
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.memory_bank import AttendedPages, MemoryBank, StepTables, as_pages
from sam2fast.tracking.page_pool import Page
from sam2fast.tracking.session import TrackedObject, VideoSession
from sam2fast.tracking.strategies.base import Attended, History, Strategy


def history_of(state: VideoSession, tracked: TrackedObject, frame: int, reverse: bool, rules: MemoryRules) -> History:
    """What a strategy sees of an object."""
    results = MappingProxyType(tracked.conditioning), MappingProxyType(tracked.tracked)
    return History(frame, reverse, state.num_frames, *results, rules, MappingProxyType(tracked.reverse))


def attended_frames(
    state: VideoSession, objects: Sequence[TrackedObject], frame: int, reverse: bool, rules: MemoryRules
) -> list[Attended]:
    """The frames that each object attends to, by the ``rules`` of the session.

    Raises:
        ValueError: the strategy's choice is not possible.
    """
    if type(state.strategy).attend is Strategy.attend:  # SAM 2's own rule
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
    pages = [result.memory for result in results if result.memory is not None]
    times = [row for _, row in attended.memories]
    of_memories, of_pointers = attended.factors or ([1.0] * len(pages), [1.0] * len(attended.pointers))
    # A strategy may choose more than the model does. What exceeds it counts as conditioning frames.
    limit = rules.max_conditioning if rules.max_conditioning >= 0 else len(conditioning)
    more = max(len(pages) - rules.recent, len(attended.pointers) - (rules.max_pointers - 1))
    pointers = [(conditioning[t] if t in conditioning else tracked_frames[t]).pointer for t, _ in attended.pointers]
    distances = [distance for _, distance in attended.pointers]
    weights = (of_memories, of_pointers) if has_factors else None
    count = max(min(len(conditioning), limit), more)
    return AttendedPages(pages, times, pointers, distances, count, attended.span or 0, state, weights)


def gather_memory(
    model: SAM2Base, bank: MemoryBank, objects: Sequence[AttendedPages], rules: MemoryRules, num_frames: int
) -> AttendedMemory:
    """The memory that these objects attend to, in their order, outside of a step: for a prompt."""
    assert bank.memories is not None
    shape = bank.shape_of(objects, rules, in_buckets=False)
    bank.reserve(shape)
    integers = StepTables.integers(shape, bank.attended_rows(objects), pinned=bank.memories.data.is_cuda)
    tables = StepTables.views(integers.to(bank.memories.data.device, non_blocking=True), shape)
    has_span, has_factors = any(o.span for o in objects), any(o.factors is not None for o in objects)
    pools = bank.memories.data, bank.pointers.data
    return attended_by_tables(model, *pools, tables, num_frames, has_span, has_factors)


def attended_by_tables(
    model: SAM2Base,
    pages: Tensor,
    pointers: Tensor,
    tables: StepTables,
    num_frames: int,
    has_span: bool,
    has_factors: bool,
) -> AttendedMemory:
    """The memory that tables on the device select from the pools; nothing is read back.

    Args:
        pages: ``(rows, n, C_mem)`` of the pool of memories.
        pointers: ``(rows, C)`` of the pool of pointers.
        num_frames: length of the video.
        has_span: objects may have their own, of the tables.
        has_factors: likewise.
    """
    split = pointers.shape[-1] // model.mem_dim
    memory = attended_memory(
        model,
        pages,
        tables.page_table,
        tables.page_time,
        pointers.index_select(0, tables.pointer_table.clamp(min=0).flatten()).unflatten(0, tables.pointer_table.shape),
        tables.distance,
        tables.pointer_table[:, :, None].expand(-1, -1, split) >= 0,
        num_frames,
        tables.span if has_span else None,
    )
    if not has_factors:
        return memory
    factors = [tables.page_factor, tables.pointer_factor.repeat_interleave(split, dim=1)]
    return memory._replace(key_factors=torch.cat(factors, dim=1))


def attended_memory(
    model: SAM2Base,
    pages: Tensor,
    page_table: Tensor,
    page_time: Tensor,
    pointers: Tensor,
    distance: Tensor,
    valid: Tensor,
    num_frames: int,
    span: Tensor | None = None,
) -> AttendedMemory:
    """Memories and pointers with the model's encodings of space and time.

    Args:
        pages, page_table, page_time: see :class:`AttendedMemory`.
        pointers: ``(B, P, C)``.
        distance: ``(B, P)`` frames from the current one to each pointer's.
        valid: ``(B, P, C / C_mem)`` bool, of each token of a pointer.
        num_frames: length of the video.
        span: ``(B,)`` what distances are divided by; 0 for the model's, which is also used for None.
    """
    (H, W), m = model.memory_size, model.mem_dim
    B, P, C = pointers.shape
    position = model.encode_memory_positions(pages[:1, 0, :, None, None].expand(1, m, H, W))
    if span is not None:
        longest = max(1, min(num_frames, model.max_obj_ptrs_in_encoder) - 1)
        distance = distance / torch.where(span > 0, span, longest)[:, None] * longest
    encoding = engine_for(model).encode_distances(distance, valid[..., 0], num_frames)
    # A pointer is wider than a memory token. It becomes several tokens with the same encoding.
    split = C // m
    return AttendedMemory(
        pages=pages,
        page_table=page_table,
        page_time=page_time,
        position_encoding=as_pages(position)[0],
        time_encoding=model.maskmem_tpos_enc[:, 0, 0],
        pointers=pointers.reshape(B, P * split, m),
        # Converted after it is repeated: one copy instead of two.
        pointer_encoding=encoding[:, :, None].expand(B, P, split, m).to(pointers.dtype).reshape(B, P * split, m),
        pointer_valid=valid.flatten(1),
    )
