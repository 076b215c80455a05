"""Defines the constants of the strategy ``together``, and finds pairs of objects that share pixels.

Imports only the standard library, since exported trackers contain this file.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sam2fast.tracking.records import ObjectRecord, Result

SHARED = 10  # masks overlap if they share more than this part of the smaller, a tenth
NEAR = 1.1  # objects touch if their centres are nearer than the sum of their radii, times this
LIMIT = 10.0  # largest absolute logit that is compared; a lost pixel gets the negative limit
WEIGHT, FARTHEST = 8.0, 32.0  # twice the cost in logits of one radius from the predicted centre; largest cost
LEAST_SQUARE = 1e-4  # smallest squared radius
VISIBLE = 4  # smallest mask in pixels from which motion is measured
HELD = 12  # number of frames in contact for which motion is predicted instead of measured
REACH = 16.0  # cost at two radii from a centre; logits are compared up to there
TURNED = 9.0  # logits per pixel, summed over two objects, from which the objects have turned back
APART = 0.75  # as NEAR: objects that are not nearer get back the pixels that others claim
FORGOTTEN = 3  # frames without a visible mask after which motion is unknown
LEAST_GAIN, AREA_GAIN = 0.15, 0.3  # smallest gain of measured velocities; gain of measured areas
STATE_SIZE = 8  # numbers of an object's motion
ROUNDS = 2  # two objects keep a pixel: a whole and one of its parts


def updated_exempt_pairs(
    objects: Mapping[Any, ObjectRecord[Result]],
    exempt: Collection[tuple[Any, Any]],
    overlaps: Callable[[Sequence[Result]], list[list[bool]]],
) -> frozenset[tuple[Any, Any]]:
    """Returns pairs of ids, in both orders, of objects with overlapping prompts: parts and wholes, which share pixels.

    Prompts are compared whenever an object is prompted on a frame where another has a prompt. An object's first prompt
    is also compared with tracked masks of others. The last comparison counts.

    Args:
        objects: All objects by id. Their new prompts are not committed yet.
        exempt: Pairs until now.
        overlaps: Function of N results that returns N rows of N values, True if the masks overlap.
    """
    pairs = set(exempt)
    for frame in sorted({t for o in objects.values() for t in (*o.new_conditioning, *o.new_tracked)}):
        shown = {i: result for i, o in objects.items() if (result := _shown(o, frame)) is not None}
        for a, row in zip(shown, overlaps(list(shown.values())), strict=True):
            for b, is_exempt in zip(shown, row, strict=True):
                if a != b and _are_compared(objects[a], objects[b], frame):
                    (pairs.update if is_exempt else pairs.difference_update)([(a, b), (b, a)])
    return frozenset(pairs)


def _shown(tracked: ObjectRecord[Result], frame: int) -> Result | None:
    """Returns the latest result on a frame, of any type."""
    kinds = tracked.new_conditioning, tracked.new_tracked, tracked.conditioning, tracked.tracked
    return next((results[frame] for results in kinds if frame in results), None)


def _are_compared(new: ObjectRecord[Result], other: ObjectRecord[Result], frame: int) -> bool:
    """Returns True if an object has a new prompt on the frame that is compared with another's mask there."""
    is_prompted = frame in other.conditioning or frame in other.points or frame in other.masks
    return (frame in new.new_conditioning or frame in new.new_tracked) and (is_prompted or not new.conditioning)
