"""Tracks interacting objects jointly. A contested pixel goes to the object with the best matching motion."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from sam2fast.modeling.sam2_base import gather_chosen
from sam2fast.tracking.strategies.base import Decided, MaskCandidates, Strategy
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
    STATE_SIZE,
    TURNED,
    VISIBLE,
    WEIGHT,
)

ABSENT = 1e4  # larger than any difference of two strengths


class Trajectory(NamedTuple):
    """Stores the motion of B objects after a frame, fp64. Positions and areas are fractions of the mask's size."""

    frames: Tensor  # (B, 1) number of frames on which motion was measured; 0: motion is unknown
    position: Tensor  # (B, 2) x, y of the centre
    velocity: Tensor  # (B, 2) change of the position per frame
    area: Tensor  # (B, 1) area of the mask
    contact: Tensor  # (B, 1) number of successive frames in contact so far
    unseen: Tensor  # (B, 1) number of successive frames without a visible mask so far

    @classmethod
    def of(cls, state: Tensor) -> "Trajectory":
        """Unpacks a state ``(B, 8)``."""
        return cls(*state.split([1, 2, 2, 1, 1, 1], dim=1))

    def are_near(self, radii: float) -> Tensor:
        """Returns ``(B, B)`` bool, True if expected centres are nearer than ``radii`` times the sum of both radii."""
        centre, radius, is_known = self.position + self.velocity, (self.area / math.pi).sqrt(), self.frames > 0
        distance = (centre[:, None] - centre[None]).square().sum(2).sqrt()
        return (distance < radii * (radius + radius.t())) & is_known & is_known.t()

    def distance(self, height: int, width: int) -> Tensor:
        """Returns each pixel's cost ``(B, h, w)`` fp32 in logits by distance from the expected centre; 0 if unknown."""
        weight = (WEIGHT / 2) * (self.frames > 0) / (self.area / math.pi).clamp(min=LEAST_SQUARE)
        x, y = (self.position + self.velocity).split(1, dim=1)
        of_x, of_y = (weight * (_pixel_centres(n, x) - at).square() for n, at in ((width, x), (height, y)))
        return (of_x.float()[:, None, :] + of_y.float()[:, :, None]).clamp_(max=FARTHEST)

    def with_groups(self, claims: Tensor, touching: Tensor) -> "Trajectory":
        """Moves groups of touching objects to the centre of their claims, for example after camera motion.

        The group of an object includes all objects that the object touches, directly or through one other object. The
        centre of the group's claims is compared with the centre of discs at the expected positions.

        Args:
            claims: Claimed pixels ``(B, h, w)`` bool.
            touching: Touching pairs ``(B, B)`` bool, False for an object and itself.
        """
        is_known = self.frames > 0
        itself = torch.eye(len(claims), dtype=torch.bool, device=claims.device)
        near = ((touching | itself) & is_known.t()).float()
        group = near @ near > 0
        measured, size = _centres((group.float() @ claims.flatten(1).float() > 0).view_as(claims))
        discs = self.distance(*claims.shape[1:]) <= WEIGHT / 2
        expected, count = _centres((group.float() @ discs.flatten(1).float() > 0).view_as(claims))
        is_moved = touching.any(1, keepdim=True) & is_known & (torch.minimum(size, count) >= VISIBLE)
        return self._replace(position=self.position + torch.where(is_moved, measured - expected, 0.0))

    def turned_back(self, logits: Tensor, touching: Tensor) -> tuple["Trajectory", Tensor]:
        """Exchanges the motion of objects that have turned back. Also returns pairs that may be passing.

        Two objects have turned back if exchanging their expected positions raises the sum of their logits at these
        positions by ``TURNED`` per pixel. The returned pairs are ``(B, B)`` bool.

        Args:
            logits: Logits ``(B, h, w)`` from -10 to 10.
            touching: Touching pairs ``(B, B)`` bool, False for an object and itself.
        """
        near = (1 - self.distance(*logits.shape[1:]) / REACH).clamp_(min=0)
        with torch.autocast(logits.device.type, enabled=False):
            sums = logits.flatten(1) @ near.flatten(1).t()
        size, is_known, diagonal = self.area.float() * (logits[0].numel() / 2), self.frames > 0, sums.diagonal()
        passing = (diagonal[:, None] + diagonal - (sums + sums.t())) / (size + size.t()).clamp(min=1)
        is_pair = touching & is_known & is_known.t()
        has_turned = is_pair & (passing <= -TURNED)
        lowest, other = torch.where(has_turned, passing, 0.0).min(1)
        rows = torch.arange(len(other), device=other.device)
        other = torch.where(lowest < 0, other, rows)
        other = torch.where(other[other] == rows, other, rows)
        motion = self._replace(position=self.position[other], velocity=self.velocity[other])
        return motion, is_pair & ~has_turned

    def after(self, masks: Tensor, in_contact: Tensor) -> "Trajectory":
        """Returns the motion updated by a frame's masks.

        Args:
            masks: Masks ``(B, h, w)`` bool on the frame.
            in_contact: True for objects that touch another object, ``(B, 1)``.
        """
        measured, size = _centres(masks)
        share = size / masks[0].numel()
        expected, is_new, is_visible = self.position + self.velocity, self.frames == 0, size >= VISIBLE
        is_brief = in_contact & (self.contact < HELD)
        is_held = (is_brief | ~is_visible) & ~is_new
        faster = self.velocity + (1 / self.frames.clamp(min=1)).clamp(min=LEAST_GAIN) * (measured - expected)
        larger = self.area + AREA_GAIN * (share - self.area)
        unseen = torch.where(is_visible, 0.0, self.unseen + 1)
        frames = self.frames + (is_visible & ~is_held)
        return Trajectory(
            torch.where((unseen > FORGOTTEN) & ~is_brief, 0.0, frames),
            torch.where(is_held, expected.clamp(0, 1), measured),
            torch.where(is_held, self.velocity, torch.where(is_new, 0.0, faster)),
            torch.where(is_held, self.area, torch.where(is_new, share, larger)),
            torch.where(in_contact, self.contact + 1, 0.0),
            unseen,
        )


@dataclass(frozen=True)
class Together(Strategy):
    """SAM 2's rule for interacting objects. Similar objects are kept apart when they cross.

    If several objects claim a pixel, the pixel goes to the object with the largest logit minus a cost. The cost grows
    with the distance from the object's predicted position. The other objects lose the pixel in their masks and
    memories. Motion is a constant velocity, measured from the resulting masks. While objects touch, their motion is
    extrapolated for up to 12 frames, and follows the centre of all their claims, for example with a moving camera. If
    the logits of two objects show that both have turned back, these objects exchange their motion. If two touching
    objects have not turned back and are expected apart, each object also competes for pixels claimed by the other
    object.

    The results of an object depend on all objects that are tracked in the same step. A single object has the same
    results as in SAM 2, bit by bit. Objects with overlapping prompts, such as a part and its whole, may share pixels.
    Objects with a prompt on the frame do not compete for pixels. Holes are filled after pixels are assigned.
    """

    state_size: ClassVar[int] = STATE_SIZE
    sees_others: ClassVar[bool] = True

    def choose(self, candidates: MaskCandidates, state: Tensor) -> Decided:
        choice = candidates.best()
        if candidates.valid is None or candidates.sharing is None:  # the step is a prompt
            return Decided(choice)
        logits, motion = gather_chosen(candidates.masks, choice)[:, 0], Trajectory.of(state)
        claims = (logits > 0) & candidates.valid[:, :, None]
        touching = candidates.sharing & (overlaps(claims) | motion.are_near(NEAR))
        limited = logits.clamp(-LIMIT, LIMIT)
        motion, is_passing = motion.with_groups(claims, touching).turned_back(limited, touching)
        strength = limited.sub_(motion.distance(*logits.shape[1:]))
        offers = is_passing & ~motion.are_near(APART)
        offered = (offers.float() @ claims.flatten(1).float()).view(claims.shape) > 0
        assigned = _assigned(claims, offered, strength, candidates.sharing)
        masks = torch.where(claims & ~assigned, -LIMIT, logits)
        masks = torch.where(assigned & ~claims, torch.where(claims, logits, 0.0).amax(0), masks)
        after = motion.after(assigned, touching.any(1, keepdim=True))
        return Decided(choice, torch.cat(after, dim=1), masks=masks[:, None])


def overlaps(masks: Tensor) -> Tensor:
    """Returns ``(B, B)`` bool, True if two ``masks (B, h, w)`` share more than a tenth of the smaller one's pixels."""
    with torch.autocast(masks.device.type, enabled=False):  # autocast would round the pixel counts
        flat = masks.flatten(1).float()
        shared = flat @ flat.t()
    size = shared.diagonal()
    return SHARED * shared > torch.minimum(size[:, None], size[None])


def _assigned(claims: Tensor, offered: Tensor, strength: Tensor, sharing: Tensor) -> Tensor:
    """Assigns claimed and offered pixels to objects. Returns assigned pixels ``(B, h, w)`` bool.

    The strongest object gets a pixel, and all objects that compete with this object lose the pixel. Among objects that
    do not compete with the strongest, such as parts of a whole, the next strongest also gets the pixel.
    """
    order = torch.arange(len(claims), 0, -1.0, device=claims.device)[:, None, None]  # ties go to the first object
    remaining, assigned = claims | offered, torch.zeros_like(claims)
    for _ in range(ROUNDS):
        # Uses maxima and matrix multiplications, since argmax and where are several times slower on the CPU.
        is_first = remaining & _is_largest((~remaining).float().mul_(-ABSENT).add_(strength))
        is_first = is_first & _is_largest(is_first.float().mul_(order))
        is_taken = (sharing.float() @ is_first.flatten(1).float()).view(claims.shape) > 0
        assigned, remaining = assigned | is_first, remaining & ~is_first & ~is_taken
    return assigned | remaining & claims


def _centres(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the centres ``(B, 2)`` of ``masks (B, h, w)`` as fractions of the sides, and areas ``(B, 1)`` in pixels.

    The centre of an empty mask is 0.
    """
    by_x, by_y = masks.sum(1, dtype=torch.float64), masks.sum(2, dtype=torch.float64)
    size = by_x.sum(1, keepdim=True)
    sums = [(count * _pixel_centres(count.shape[1], count)).sum(1, keepdim=True) for count in (by_x, by_y)]
    return torch.cat(sums, dim=1) / size.clamp(min=1), size


def _is_largest(x: Tensor) -> Tensor:
    """Returns ``(B, h, w)`` bool, True for the largest of the B values of ``x (B, h, w)`` at each pixel."""
    return x == x.amax(0)


def _pixel_centres(count: int, like: Tensor) -> Tensor:
    """Returns the centres ``(count,)`` fp64 of a side's pixels as fractions of the side, on the device of ``like``."""
    return (torch.arange(count, dtype=torch.float64, device=like.device) + 0.5) / count
