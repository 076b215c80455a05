"""The rule of the strategy ``together`` in plain numpy, pixel by pixel; nothing is shared with the package."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


@dataclass
class PlainMotion:
    """What is known of one object; positions and areas are shares of the mask's."""

    frames: float = 0
    x: float = 0
    y: float = 0
    vx: float = 0
    vy: float = 0
    area: float = 0
    contact: float = 0
    unseen: float = 0

    @property
    def expected(self) -> tuple[float, float]:
        return self.x + self.vx, self.y + self.vy

    @property
    def radius(self) -> float:
        return math.sqrt(self.area / math.pi)

    def cost(self, row: int, column: int, height: int, width: int) -> np.float32:
        """Logits that motion speaks against a pixel, rounded as the engine rounds them."""
        if self.frames == 0:
            return np.float32(0)
        weight = 4 / max(self.area / math.pi, 1e-4)
        x, y = self.expected
        by_x = np.float32(weight * ((column + 0.5) / width - x) ** 2)
        by_y = np.float32(weight * ((row + 0.5) / height - y) ** 2)
        return min(by_x + by_y, np.float32(32))

    def is_near(self, other: "PlainMotion", radii: float = 1.1) -> bool:
        if self.frames == 0 or other.frames == 0:
            return False
        return math.dist(self.expected, other.expected) < radii * (self.radius + other.radius)

    def agreement(self, logits: Logits) -> float:
        """The logits where it is expected, weighted by how near they are, each at most 10."""
        weights = [
            [max(1 - self.cost(r, c, *logits.shape) / 16, 0) for c in range(logits.shape[1])]
            for r in range(len(logits))
        ]
        return float((np.clip(logits, -10, 10) * np.array(weights)).sum())

    def after(self, mask: NDArray[np.bool_], in_contact: bool) -> "PlainMotion":
        rows, columns = np.nonzero(mask)
        size, (height, width) = len(rows), mask.shape
        x, y = ((columns + 0.5).mean() / width, (rows + 0.5).mean() / height) if size else (0.0, 0.0)
        share, is_visible = size / mask.size, size >= 4
        is_brief = in_contact and self.contact < 12
        new = PlainMotion(self.frames, x, y, 0, 0, share)
        if self.frames == 0:
            new.frames = float(is_visible)
        elif is_brief or not is_visible:
            ex, ey = self.expected
            new = PlainMotion(self.frames, min(max(ex, 0), 1), min(max(ey, 0), 1), self.vx, self.vy, self.area)
        else:
            gain, (ex, ey) = max(0.15, 1 / self.frames), self.expected
            new.frames, new.area = self.frames + 1, 0.7 * self.area + 0.3 * share
            new.vx, new.vy = self.vx + gain * (x - ex), self.vy + gain * (y - ey)
        new.contact = self.contact + 1 if in_contact else 0
        new.unseen = 0 if is_visible else self.unseen + 1
        if new.unseen > 3 and not is_brief:
            new.frames = 0
        return new

    def moved(self, group: Sequence["PlainMotion"], claims: Sequence[NDArray[np.bool_]]) -> "PlainMotion":
        """With the centre of a group's claims where they are."""
        rows, columns = np.nonzero(np.any(claims, axis=0))
        height, width = claims[0].shape
        cells = [(r, c) for r in range(height) for c in range(width)]
        inside = [cell for cell in cells if min(one.cost(*cell, height, width) for one in group) <= 4]
        if min(len(rows), len(inside)) < 4:
            return self
        y, x = np.mean(inside, axis=0) + 0.5
        dx, dy = ((columns + 0.5).mean() - x) / width, ((rows + 0.5).mean() - y) / height
        return replace(self, x=self.x + dx, y=self.y + dy)


def plain_frame(
    logits: Logits, motions: Sequence[PlainMotion], exempt: Collection[tuple[int, int]]
) -> tuple[Logits, list[PlainMotion]]:
    """Masks and motions after a frame of logits ``(N, h, w)``; ascending pairs that are ``exempt`` are not compared."""
    count, height, width = logits.shape
    claims, found = logits > 0, logits.copy()

    def are_compared(i: int, j: int) -> bool:
        return i != j and (min(i, j), max(i, j)) not in exempt

    touching = np.zeros((count, count), bool)
    for i in range(count):
        for j in range(count):
            if are_compared(i, j):
                shared, smaller = (claims[i] & claims[j]).sum(), min(claims[i].sum(), claims[j].sum())
                touching[i, j] = 10 * shared > smaller or motions[i].is_near(motions[j])
    near = [{j for j in range(count) if (j == i or touching[i, j]) and motions[j].frames} for i in range(count)]
    moved = list(motions)
    for i, motion in enumerate(motions):
        if touching[i].any() and motion.frames:
            group = sorted(set().union(*(near[j] for j in near[i])))
            moved[i] = motion.moved([motions[j] for j in group], [claims[j] for j in group])
    motions, passing = moved, np.full((count, count), np.nan)
    for i, motion in enumerate(motions):
        for j in range(count):
            if touching[i, j] and motion.frames and motions[j].frames:
                straight = motion.agreement(logits[i]) + motions[j].agreement(logits[j])
                crossed = motion.agreement(logits[j]) + motions[j].agreement(logits[i])
                passing[i, j] = (straight - crossed) / max((motion.area + motions[j].area) / 2 * height * width, 1)
    other = [int(np.nanargmin(line)) if (line <= -9).any() else i for i, line in enumerate(passing)]
    motions = [
        replace(one, x=motions[j].x, y=motions[j].y, vx=motions[j].vx, vy=motions[j].vy) if other[j] == i else one
        for i, (j, one) in enumerate(zip(other, motions, strict=True))
    ]
    gives = [
        [passing[i, j] > -9 and not motions[i].is_near(motions[j], 0.75) for j in range(count)] for i in range(count)
    ]
    for row in range(height):
        for column in range(width):
            owners = [i for i in range(count) if claims[i, row, column]]
            left = [i for i in range(count) if i in owners or any(gives[i][j] for j in owners)]
            strength = {
                i: np.clip(logits[i, row, column], -10, 10) - motions[i].cost(row, column, height, width) for i in left
            }
            for _ in range(2):
                if not left:
                    break
                first = max(left, key=lambda i: (strength[i], -i))
                if first not in owners:
                    found[first, row, column] = max(logits[i, row, column] for i in owners)
                lost = [i for i in left if are_compared(i, first)]
                for i in lost:
                    if i in owners:
                        found[i, row, column] = -10
                left = [i for i in left if i != first and i not in lost]
    return found, [motion.after(found[i] > 0, touching[i].any()) for i, motion in enumerate(motions)]
