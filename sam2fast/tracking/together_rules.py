"""Defines the constants of the strategy ``together``, and finds pairs of objects that share pixels.

Imports only the standard library, since exported trackers contain this file.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sam2fast.tracking.object_results import ObjectResults, Result

SHARED = 10  # masks overlap if they share more than 1 / SHARED of the smaller mask's pixels
NEAR = 1.1  # objects touch if the distance of their centres is below NEAR times the sum of their radii
LIMIT = 10.0  # logits are clamped to this absolute value for comparisons; a lost pixel gets -LIMIT
WEIGHT, FARTHEST = 8.0, 32.0  # twice the cost in logits at one radius from the predicted centre; maximum cost
LEAST_SQUARE = 1e-4  # minimum squared radius in the computation of costs
VISIBLE = 4  # minimum mask size in pixels to measure motion
HELD = 12  # number of frames in contact for which motion is predicted instead of measured
REACH = 16.0  # cost at two radii from a centre; turning back is detected from pixels with a smaller cost
TURNED = 9.0  # minimum gain in logits per pixel, by exchanging positions, of objects that turned back
APART = 0.75  # at APART times the sum of their radii or more, touching objects compete for each other's pixels
FORGOTTEN = 3  # number of frames without a visible mask after which motion is unknown
LEAST_GAIN, AREA_GAIN = 0.15, 0.3  # minimum filter gain of velocities; filter gain of areas
STATE_SIZE = 8  # number of values of an object's state
ROUNDS = 2  # rounds of assigning a pixel to an object: a whole and its part may both get the pixel


def updated_exempt_pairs(
    objects: Mapping[Any, ObjectResults[Result]],
    exempt: Collection[tuple[Any, Any]],
    overlaps: Callable[[Sequence[Result]], list[list[bool]]],
) -> frozenset[tuple[Any, Any]]:
    """Returns pairs of ids, in both orders, of objects that may share pixels, such as parts and wholes.

    If two objects have prompts on a frame, these prompts are compared. An object's first prompt is also compared with
    tracked masks of other objects. The last comparison of a pair counts.

    Args:
        objects: All objects by id, before new prompts are committed.
        exempt: Exempt pairs before the new prompts.
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


def _shown(tracked: ObjectResults[Result], frame: int) -> Result | None:
    """Returns the latest result on a frame, from a new prompt, an earlier prompt or tracking."""
    kinds = tracked.new_conditioning, tracked.new_tracked, tracked.conditioning, tracked.tracked
    return next((results[frame] for results in kinds if frame in results), None)


def _are_compared(new: ObjectResults[Result], other: ObjectResults[Result], frame: int) -> bool:
    """Returns True if a new prompt of ``new`` on the frame is compared with the mask of ``other``."""
    is_prompted = frame in other.conditioning or frame in other.points or frame in other.masks
    return (frame in new.new_conditioning or frame in new.new_tracked) and (is_prompted or not new.conditioning)
