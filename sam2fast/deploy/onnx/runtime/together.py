"""Numpy version of :class:`~sam2fast.tracking.strategies.Together`, with the same decisions."""

from typing import NamedTuple

import numpy as np

from sam2fast.tracking.together_rules import (
    APART,
    AREA_GAIN,
    FARTHEST,
    FORGOTTEN,
    HELD,
    LEAST_GAIN,
    LEAST_SQUARE,
    LIMIT,
    NEAR,
    REACH,
    ROUNDS,
    SHARED,
    TURNED,
    VISIBLE,
    WEIGHT,
)


class ObjectMotion(NamedTuple):
    """Motion of B objects after a frame, fp64. Positions and areas are fractions of the mask's side and area."""

    frames: np.ndarray  # (B, 1) number of frames with measured motion; 0 if the motion is unknown
    position: np.ndarray  # (B, 2) x and y of the object's centre
    velocity: np.ndarray  # (B, 2) change of the centre's x and y per frame
    area: np.ndarray  # (B, 1) area of the object
    contact: np.ndarray  # (B, 1) number of consecutive frames in contact with other objects
    unseen: np.ndarray  # (B, 1) number of consecutive frames without a visible mask

    def are_near(self, radii: float) -> np.ndarray:
        """Returns ``(B, B)`` bool, True if two expected centres are within ``radii`` times the sum of the radii."""
        centre, radius, is_known = self.position + self.velocity, np.sqrt(self.area / np.pi), self.frames > 0
        distance = np.sqrt(np.square(centre[:, None] - centre[None]).sum(axis=2))
        return (distance < radii * (radius + radius.T)) & is_known & is_known.T

    def distance(self, height: int, width: int) -> np.ndarray:
        """Returns motion costs ``(B, h, w)`` fp32 of all pixels in logits. The cost of unknown motion is 0."""
        weight = (WEIGHT / 2) * (self.frames > 0) / np.maximum(self.area / np.pi, LEAST_SQUARE)
        x, y = np.split(self.position + self.velocity, 2, axis=1)
        of_x, of_y = ((weight * np.square(_places(n) - at)).astype(np.float32) for n, at in ((width, x), (height, y)))
        return np.minimum(of_x[:, None, :] + of_y[:, :, None], np.float32(FARTHEST))

    def with_groups(self, claims: np.ndarray, touching: np.ndarray) -> "ObjectMotion":
        """Shifts positions so that a group of touching objects has the centre of its claimed pixels.

        Args:
            claims: pixels ``(B, h, w)`` bool that each object claims.
            touching: pairs ``(B, B)`` bool of touching objects.
        """
        is_known = self.frames > 0
        near = ((touching | np.eye(len(claims), dtype=bool)) & is_known.T).astype(np.float32)
        group = near @ near > 0
        measured, size = _centres(_joined_masks(group, claims))
        expected, count = _centres(_joined_masks(group, self.distance(*claims.shape[1:]) <= WEIGHT / 2))
        is_moved = touching.any(axis=1, keepdims=True) & is_known & (np.minimum(size, count) >= VISIBLE)
        return self._replace(position=self.position + np.where(is_moved, measured - expected, 0.0))

    def turned_back(self, logits: np.ndarray, touching: np.ndarray) -> tuple["ObjectMotion", np.ndarray]:
        """Exchanges the motion of two objects that turned back. Returns the motion and the other touching pairs.

        Args:
            logits: mask logits ``(B, h, w)`` from -10 to 10.
            touching: pairs ``(B, B)`` bool of touching objects.
        """
        near = np.maximum(1 - self.distance(*logits.shape[1:]) / np.float32(REACH), 0)
        sums = _flat(logits) @ _flat(near).T
        size, is_known, own = self.area.astype(np.float32) * (logits[0].size / 2), self.frames > 0, sums.diagonal()
        passing = (own[:, None] + own - (sums + sums.T)) / np.maximum(size + size.T, 1)
        is_pair = touching & is_known & is_known.T
        has_turned, rows = is_pair & (passing <= -TURNED), np.arange(len(logits))
        other = np.where(has_turned.any(axis=1), np.where(has_turned, passing, 0).argmin(axis=1), rows)
        other = np.where(other[other] == rows, other, rows)
        motion = self._replace(position=self.position[other], velocity=self.velocity[other])
        return motion, is_pair & ~has_turned

    def after(self, masks: np.ndarray, in_contact: np.ndarray) -> "ObjectMotion":
        """Returns the motion after a frame.

        Args:
            masks: masks ``(B, h, w)`` bool on the frame.
            in_contact: flags ``(B, 1)`` bool of objects that touch another object.
        """
        measured, size = _centres(masks)
        share = size / masks[0].size
        expected, is_new, is_visible = self.position + self.velocity, self.frames == 0, size >= VISIBLE
        is_brief = in_contact & (self.contact < HELD)
        is_held = (is_brief | ~is_visible) & ~is_new
        gain = np.maximum(1 / np.maximum(self.frames, 1), LEAST_GAIN)
        faster = self.velocity + gain * (measured - expected)
        larger = self.area + AREA_GAIN * (share - self.area)
        unseen = np.where(is_visible, 0.0, self.unseen + 1)
        return ObjectMotion(
            np.where((unseen > FORGOTTEN) & ~is_brief, 0.0, self.frames + (is_visible & ~is_held)),
            np.where(is_held, expected.clip(0, 1), measured),
            np.where(is_held, self.velocity, np.where(is_new, 0.0, faster)),
            np.where(is_held, self.area, np.where(is_new, share, larger)),
            np.where(in_contact, self.contact + 1, 0.0),
            unseen,
        )


def separated(logits: np.ndarray, state: np.ndarray, sharing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Assigns each pixel to one object. Returns the mask logits ``(B, h, w)`` and the motion state ``(B, 8)``.

    Args:
        logits: mask logits ``(B, h, w)`` fp32.
        state: motion state ``(B, 8)`` fp64 after the previous frame; zeros if the motion is unknown.
        sharing: bool ``(B, B)``, True for two objects that may not share pixels.
    """
    claims, motion = logits > 0, ObjectMotion(*np.split(state, [1, 3, 5, 6, 7], axis=1))
    touching = sharing & (overlaps(claims) | motion.are_near(NEAR))
    limited = logits.clip(-LIMIT, LIMIT)
    motion, is_passing = motion.with_groups(claims, touching).turned_back(limited, touching)
    offered = _joined_masks(is_passing & ~motion.are_near(APART), claims)
    kept = _kept(claims, offered, limited - motion.distance(*logits.shape[1:]), sharing)
    masks = np.where(claims & ~kept, np.float32(-LIMIT), logits)
    masks = np.where(kept & ~claims, np.where(claims, logits, np.float32(0)).max(axis=0), masks)
    return masks, np.concatenate(motion.after(kept, touching.any(axis=1, keepdims=True)), axis=1)


def overlaps(masks: np.ndarray) -> np.ndarray:
    """Returns ``(B, B)`` bool, True if two ``masks (B, h, w)`` share more than a tenth of the smaller mask's pixels."""
    shared = _flat(masks) @ _flat(masks).T
    size = shared.diagonal()
    return SHARED * shared > np.minimum(size[:, None], size[None])


def _kept(claims: np.ndarray, offered: np.ndarray, strength: np.ndarray, sharing: np.ndarray) -> np.ndarray:
    """Returns ``(B, h, w)`` bool, True for claimed or offered pixels that the object keeps."""
    left, kept, rows = claims | offered, np.zeros_like(claims), np.arange(len(claims))[:, None, None]
    for _ in range(ROUNDS):
        is_first = left & (np.where(left, strength, -np.inf).argmax(axis=0) == rows)
        kept, left = kept | is_first, left & ~is_first & ~_joined_masks(sharing, is_first)
    return kept | left & claims


def _joined_masks(pairs: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Returns the union of ``masks (B, h, w)`` for each row of bool ``pairs (B, B)``. Columns select the masks."""
    return (pairs.astype(np.float32) @ _flat(masks) > 0).reshape(masks.shape)


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1).astype(np.float32)


def _centres(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns centres ``(B, 2)`` as fractions of a side and areas ``(B, 1)`` of masks. An empty mask has centre 0."""
    by_x, by_y = masks.sum(axis=1, dtype=np.float64), masks.sum(axis=2, dtype=np.float64)
    size = by_x.sum(axis=1, keepdims=True)
    sums = [(counts * _places(counts.shape[1])).sum(axis=1, keepdims=True) for counts in (by_x, by_y)]
    return np.concatenate(sums, axis=1) / np.maximum(size, 1), size


def _places(count: int) -> np.ndarray:
    """Returns pixel centres ``(count,)`` fp64, as fractions of a side."""
    return (np.arange(count) + 0.5) / count
