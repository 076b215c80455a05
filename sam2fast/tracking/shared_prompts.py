"""Finds pairs of objects with overlapping prompts, such as a part and its whole, that strategies do not compare."""

from collections.abc import Sequence
from typing import Any

import torch

from sam2fast.tracking.outputs import FrameResult
from sam2fast.tracking.session import TrackedObject, VideoSession
from sam2fast.tracking.strategies.decision import ITSELF, SHARING
from sam2fast.tracking.strategies.together import overlaps
from sam2fast.tracking.together_rules import updated_exempt_pairs


def exempt_pairs(state: VideoSession) -> frozenset[tuple[Any, Any]]:
    """Returns the session's exempt pairs, updated by new prompts that are not committed yet."""

    def overlap(results: Sequence[FrameResult]) -> list[list[bool]]:
        return overlaps(torch.cat([result.mask for result in results])[:, 0] > 0).tolist()

    return updated_exempt_pairs(state.objects, state.exempt, overlap)


def pairs_of(state: VideoSession, objects: Sequence[TrackedObject]) -> list[list[int]]:
    """Returns the table of pairs of a step's rows: ``ITSELF`` on the diagonal, ``SHARING`` for compared rows, else 0.

    Each row is one hypothesis of an object. Only hypotheses with the same index are compared.
    """
    count, hypotheses = len(objects), state.strategy.hypotheses
    pairs = [[SHARING] * count for _ in objects]
    index = {id(o): i for i, o in enumerate(objects)}
    for pair in state.exempt:
        a, b = (index.get(id(state.objects.get(obj_id))) for obj_id in pair)
        if a is not None and b is not None:
            pairs[a][b] = 0
    rows = []
    for i, row in enumerate(pairs):
        row[i] = ITSELF
        for number in range(hypotheses):
            rows.append([0] * (count * hypotheses))
            rows[-1][number::hypotheses] = row
    return rows


def saved_pairs(state: VideoSession) -> list[list[int]]:
    """Returns the exempt pairs as indices of objects, for JSON."""
    numbers = {obj_id: i for i, obj_id in enumerate(state.objects)}
    return sorted([numbers[a], numbers[b]] for a, b in state.exempt)


def restored_pairs(state: VideoSession, saved: Sequence[Sequence[int]]) -> frozenset[tuple[Any, Any]]:
    """Returns the exempt pairs from the result of :func:`saved_pairs`, for a session with the same objects.

    Raises:
        ValueError, TypeError, LookupError: If ``saved`` is invalid.
    """
    ids = dict(enumerate(state.objects))
    return frozenset((ids[a], ids[b]) for a, b in saved)
