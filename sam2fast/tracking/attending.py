"""Selects the memories that objects attend to on a frame, and gathers them from the memory bank."""

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
    """Returns one object's data for a strategy. The returned mappings are read-only."""
    results = MappingProxyType(tracked.conditioning), MappingProxyType(tracked.tracked)
    return History(frame, reverse, state.num_frames, *results, rules, MappingProxyType(tracked.reverse))


def attended_frames(
    state: VideoSession, objects: Sequence[TrackedObject], frame: int, reverse: bool, rules: MemoryRules
) -> list[Attended]:
    """Returns the frames that each object attends to. The session's strategy selects the frames.

    Raises:
        ValueError: If the strategy's selection is invalid.
    """
    if type(state.strategy).attend is Strategy.attend:  # SAM 2's rule
        settings = state.num_frames, reverse, rules
        return [Attended(*select_memories(frame, o.conditioning, o.tracked, *settings)) for o in objects]
    histories = [history_of(state, o, frame, reverse, rules) for o in objects]
    return [_checked(state.strategy, state.strategy.attend(history), history) for history in histories]


def _checked(strategy: Strategy, attended: Attended, history: History) -> Attended:
    """Checks and returns a strategy's selection.

    Raises:
        ValueError: If ``attended`` is not an ``Attended``, an entry is not a pair, a frame has no result, or a row,
            distance, span or factor is invalid.
    """
    if not isinstance(attended, Attended):
        name = type(attended).__name__
        raise _error(strategy, history, f"returned a {name} from attend(); expected Attended(memories, pointers)")
    conditioning, tracked, rules = history.conditioning, history.tracked, history.rules
    for name, part in (("memory", attended.memories), ("pointer", attended.pointers)):
        try:
            frames = [t for t, _ in part] if isinstance(part, list | tuple) else None
        except (TypeError, ValueError):
            frames = None
        if frames is None:
            expected = f"({'frame, row' if name == 'memory' else 'frame, distance'})"
            raise _error(strategy, history, f"returned {name} entries {part!r}; expected a list of pairs {expected}")
        for t in frames:
            if t not in conditioning and t not in tracked:
                raise _error(strategy, history, f"attends to the {name} of frame {t}, which has none")
    for t, row in attended.memories:
        if not 0 <= _integer(row) < rules.num_maskmem:
            raise _error(strategy, history, f"gave frame {t} row {row!r}; expected 0 to {rules.num_maskmem - 1}")
    if attended.pointers and not rules.use_pointers:
        raise _error(strategy, history, "attends to pointers, but the model does not (use_obj_ptrs_in_encoder is off)")
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
    """Returns the number of values, or None if a value is not a number."""
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
    """Returns the pages of the frames that an object attends to.

    Args:
        state: The strategy's state of the object, or None.
        has_factors: True if the strategy weights attention keys.
    """
    conditioning, tracked_frames = tracked.conditioning, tracked.tracked
    results = [conditioning[t] if t in conditioning else tracked_frames[t] for t, _ in attended.memories]
    pages = [result.memory for result in results if result.memory is not None]
    times = [row for _, row in attended.memories]
    of_memories, of_pointers = attended.factors or ([1.0] * len(pages), [1.0] * len(attended.pointers))
    # A strategy may select more frames than SAM 2's rule. The table width counts excess frames as conditioning frames.
    limit = rules.max_conditioning if rules.max_conditioning >= 0 else len(conditioning)
    excess = max(len(pages) - rules.recent, len(attended.pointers) - (rules.max_pointers - 1))
    pointers = [(conditioning[t] if t in conditioning else tracked_frames[t]).pointer for t, _ in attended.pointers]
    distances = [distance for _, distance in attended.pointers]
    weights = (of_memories, of_pointers) if has_factors else None
    count = max(min(len(conditioning), limit), excess)
    return AttendedPages(pages, times, pointers, distances, count, attended.span or 0, state, weights)


def gather_memory(
    model: SAM2Base, bank: MemoryBank, objects: Sequence[AttendedPages], rules: MemoryRules, num_frames: int
) -> AttendedMemory:
    """Returns the memory that ``objects`` attend to in a prediction from a prompt."""
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
    """Returns the memories that the tables select from the pools, with spatial and temporal encodings.

    Does not synchronize with the device.

    Args:
        pages: Pool of memories ``(rows, n, C_mem)``.
        pointers: Pool of pointers ``(rows, C)``.
        num_frames: Length of the video.
        has_span: If True, a nonzero ``span`` in the tables replaces the normalizer of distances.
        has_factors: If True, attention keys are weighted by the factors in the tables.
    """
    (H, W), m = model.memory_size, model.mem_dim
    (B, P), split = tables.pointer_table.shape, pointers.shape[-1] // m
    position = model.encode_memory_positions(pages[:1, 0, :, None, None].expand(1, m, H, W))
    distance = tables.distance
    if has_span:
        longest = max(1, min(num_frames, model.max_obj_ptrs_in_encoder) - 1)
        distance = distance / torch.where(tables.span > 0, tables.span, longest)[:, None] * longest
    # A pointer has more channels than a memory token, so each pointer is split into tokens with equal encoding.
    valid = tables.pointer_valid[:, :, None].expand(-1, -1, split) > 0
    key_factors = None
    if has_factors:
        key_factors = torch.cat([tables.page_factor, tables.pointer_factor.repeat_interleave(split, dim=1)], dim=1)
    return AttendedMemory(
        pages=pages,
        page_table=tables.page_table,
        page_time=tables.page_time,
        position_encoding=as_pages(position)[0],
        time_encoding=model.maskmem_tpos_enc[:, 0, 0],
        pointers=pointers.index_select(0, tables.pointer_table.flatten()).view(B, P * split, m),
        pointer_encoding=engine_for(model).encode_distances(distance, valid[..., 0], num_frames),
        pointer_valid=valid.flatten(1),
        key_factors=key_factors,
    )
