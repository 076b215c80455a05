"""Tracks interacting objects jointly: a pixel that several claim goes to the one whose motion explains it."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from sam2fast.modeling.sam2_base import gather_chosen
from sam2fast.tracking.strategies.base import Decided, MaskCandidates, Strategy

SHARED = 10  # masks overlap if they share more than this part of the smaller, a tenth
NEAR = 1.1  # objects touch if their centres are nearer than the sum of their radii, times this
LIMIT = 10.0  # logits beyond it count as this; a lost pixel gets the negative one
WEIGHT, FARTHEST = 8.0, 32.0  # logits that a squared radius from the predicted centre costs, twice; and at most
LEAST_SQUARE = 1e-4  # of a radius
VISIBLE = 4  # pixels
HELD = 12  # frames of contact in which motion only goes on
REACH = 16.0  # logits that motion costs at two radii from a centre: so far around it logits are compared
TURNED = 9.0  # logits for each pixel, summed over two objects, that say that these have turned back
APART = 0.75  # as NEAR: objects that are not nearer get back what others claim
FORGOTTEN = 3  # frames unseen after which motion is unknown
LEAST_GAIN, AREA_GAIN = 0.15, 0.3  # of what is measured, for velocity and area
ABSENT = 1e4  # more than strengths differ by
ROUNDS = 2  # a whole and the one of its parts that keep a pixel


class Trajectory(NamedTuple):
    """Stores the motion of B objects after a frame, fp64. Positions and areas are shares of the mask's."""

    frames: Tensor  # (B, 1) number of frames on which motion was measured; 0: it is unknown
    position: Tensor  # (B, 2) x, y of the centre
    velocity: Tensor  # (B, 2) for each frame
    area: Tensor  # (B, 1)
    contact: Tensor  # (B, 1) frames in contact until now
    unseen: Tensor  # (B, 1) frames without a visible mask until now

    @classmethod
    def of(cls, state: Tensor) -> "Trajectory":
        """Reads a state ``(B, 8)``."""
        return cls(*state.split([1, 2, 2, 1, 1, 1], dim=1))

    def are_near(self, radii: float) -> Tensor:
        """Returns ``(B, B)`` bool, True if centres are expected nearer than ``radii`` times the sum of their radii."""
        centre, radius, is_known = self.position + self.velocity, (self.area / math.pi).sqrt(), self.frames > 0
        distance = (centre[:, None] - centre[None]).square().sum(2).sqrt()
        return (distance < radii * (radius + radius.t())) & is_known & is_known.t()

    def distance(self, height: int, width: int) -> Tensor:
        """Returns the cost ``(B, h, w)`` fp32 of each pixel by motion, in logits; 0 if motion is unknown."""
        weight = (WEIGHT / 2) * (self.frames > 0) / (self.area / math.pi).clamp(min=LEAST_SQUARE)
        x, y = (self.position + self.velocity).split(1, dim=1)
        of_x, of_y = (weight * (_places(n, x) - at).square() for n, at in ((width, x), (height, y)))
        return (of_x.float()[:, None, :] + of_y.float()[:, :, None]).clamp_(max=FARTHEST)

    def with_groups(self, claims: Tensor, touching: Tensor) -> "Trajectory":
        """Moves objects that touch together to their claims, as a moving camera does.

        An object's group are the objects that it touches, and the objects that those touch. The group's claims are
        compared with discs at the expected positions.

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
        """Exchanges the motion of two objects that have turned back. Returns pairs that may pass each other, too.

        Two objects have turned back if each one's logits are larger where the other is expected, together by
        ``TURNED``. The pairs are ``(B, B)`` bool.

        Args:
            logits: Logits ``(B, h, w)`` from -10 to 10.
            touching: Touching pairs ``(B, B)`` bool, False for an object and itself.
        """
        near = (1 - self.distance(*logits.shape[1:]) / REACH).clamp_(min=0)
        with torch.autocast(logits.device.type, enabled=False):
            sums = logits.flatten(1) @ near.flatten(1).t()
        size, is_known, own = self.area.float() * (logits[0].numel() / 2), self.frames > 0, sums.diagonal()
        passing = (own[:, None] + own - (sums + sums.t())) / (size + size.t()).clamp(min=1)
        is_pair = touching & is_known & is_known.t()
        has_turned = is_pair & (passing <= -TURNED)
        lowest, other = torch.where(has_turned, passing, 0.0).min(1)
        rows = torch.arange(len(other), device=other.device)
        other = torch.where(lowest < 0, other, rows)
        other = torch.where(other[other] == rows, other, rows)
        motion = self._replace(position=self.position[other], velocity=self.velocity[other])
        return motion, is_pair & ~has_turned

    def after(self, masks: Tensor, in_contact: Tensor) -> "Trajectory":
        """Returns the motion after one more frame, with ``masks (B, h, w)`` bool and ``in_contact (B, 1)`` bool."""
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
    """SAM 2's rule for interacting objects. It keeps similar objects apart when they cross.

    Each pixel that several objects claim goes to one of them: the one with the largest logit minus a cost that grows
    with the distance from its predicted position. The others lose the pixel in their masks and memories. Motion is a
    constant velocity, measured from the kept masks. While objects touch, their motion continues for up to 12 frames,
    and moves with the centre of all their claims, as with a moving camera. Two objects exchange their motion when their
    logits show that they have turned back. Otherwise, an object that is expected apart from an object that it touches
    gets back the pixels that the other claims at its position.

    Results depend on which objects are tracked together. A single object has SAM 2's bits. Objects with overlapping
    prompts, such as a part and its whole, may share pixels. Masks of objects with a prompt on the frame neither change
    others nor are changed. Holes are filled afterwards.
    """

    state_size: ClassVar[int] = 8
    sees_others: ClassVar[bool] = True

    def choose(self, candidates: MaskCandidates, state: Tensor) -> Decided:
        choice = candidates.best()
        if candidates.valid is None or candidates.sharing is None:  # a prompt
            return Decided(choice)
        logits, motion = gather_chosen(candidates.masks, choice)[:, 0], Trajectory.of(state)
        claims = (logits > 0) & candidates.valid[:, :, None]
        touching = candidates.sharing & (overlaps(claims) | motion.are_near(NEAR))
        limited = logits.clamp(-LIMIT, LIMIT)
        motion, is_passing = motion.with_groups(claims, touching).turned_back(limited, touching)
        strength = limited.sub_(motion.distance(*logits.shape[1:]))
        gives = is_passing & ~motion.are_near(APART)
        offered = (gives.float() @ claims.flatten(1).float()).view(claims.shape) > 0
        kept = _kept(claims, offered, strength, candidates.sharing)
        masks = torch.where(claims & ~kept, -LIMIT, logits)
        masks = torch.where(kept & ~claims, torch.where(claims, logits, 0.0).amax(0), masks)
        after = motion.after(kept, touching.any(1, keepdim=True))
        return Decided(choice, torch.cat(after, dim=1), masks=masks[:, None])


def overlaps(masks: Tensor) -> Tensor:
    """Returns ``(B, B)`` bool, True if two ``masks (B, h, w)`` share more than a tenth of the smaller one's pixels."""
    with torch.autocast(masks.device.type, enabled=False):  # counts must be exact
        flat = masks.flatten(1).float()
        shared = flat @ flat.t()
    size = shared.diagonal()
    return SHARED * shared > torch.minimum(size[:, None], size[None])


def _kept(claims: Tensor, offered: Tensor, strength: Tensor, sharing: Tensor) -> Tensor:
    """Returns the pixels ``(B, h, w)`` bool that each object keeps of those that it claims or is offered.

    The strongest object takes a pixel from all objects that compete with it. Of the others, such as the parts of a
    whole, the strongest takes it in turn.
    """
    order = torch.arange(len(claims), 0, -1.0, device=claims.device)[:, None, None]  # of equals the first wins
    left, kept = claims | offered, torch.zeros_like(claims)
    for _ in range(ROUNDS):
        # By maxima and products: argmax and where take several times as long on the CPU.
        is_first = left & _is_largest((~left).float().mul_(-ABSENT).add_(strength))
        is_first = is_first & _is_largest(is_first.float().mul_(order))
        is_taken = (sharing.float() @ is_first.flatten(1).float()).view(claims.shape) > 0
        kept, left = kept | is_first, left & ~is_first & ~is_taken
    return kept | left & claims


def _centres(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Returns centres ``(B, 2)`` of ``masks (B, h, w)`` as shares of a side, 0 if empty, and areas ``(B, 1)``."""
    by_x, by_y = masks.sum(1, dtype=torch.float64), masks.sum(2, dtype=torch.float64)
    size = by_x.sum(1, keepdim=True)
    sums = [(count * _places(count.shape[1], count)).sum(1, keepdim=True) for count in (by_x, by_y)]
    return torch.cat(sums, dim=1) / size.clamp(min=1), size


def _is_largest(x: Tensor) -> Tensor:
    """Returns True where ``x (B, h, w)`` has the largest of the B values."""
    return x == x.amax(0)


def _places(count: int, like: Tensor) -> Tensor:
    """Returns centres of pixels ``(count,)`` fp64, as shares of a side, on the device of ``like``."""
    return (torch.arange(count, dtype=torch.float64, device=like.device) + 0.5) / count
