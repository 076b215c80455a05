"""Published tracking strategies in plain numpy, one object at a time; nothing is shared with the package.

Each is told its frames in order: ``prompt`` on the first, and then ``attend`` and ``track`` for each further one.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

SPATIAL, MOST_POINTERS = 6, 16  # memories beside the conditioning ones; object pointers, the conditioning one included
CONDITIONING_ROW = 6
ABSENT = -1024.0
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Decoded:
    """The decoder's three candidates for one object on one frame, before the presence rule."""

    masks: Floats  # (3, 4F, 4F) float32 logits
    ious: Floats  # (3,) float32, predicted
    score: float  # logit of the object being there

    def present(self, threshold: float) -> "Decoded":
        """With masks of an absent object."""
        return self if self.score > threshold else replace(self, masks=np.full_like(self.masks, ABSENT))

    def argmax(self) -> int:
        return int(np.argmax(self.ious))


@dataclass(frozen=True)
class Attended:
    """What an object attends to."""

    memories: list[tuple[int, int]]  # frame, row of maskmem_tpos_enc
    pointers: list[tuple[int, float]]  # frame, position that the sine code gets
    memory_factors: list[float] | None = None  # of keys, one per memory
    pointer_factors: list[float] | None = None


def enlarged(logits: Floats, size: tuple[int, int]) -> Floats:
    """A mask ``(h, w)`` or ``(N, h, w)`` at another size, as the model enlarges it."""
    x = torch.as_tensor(np.asarray(logits, dtype=np.float32))
    x = x.reshape(1, -1, *x.shape[-2:])
    return F.interpolate(x, size, mode="bilinear", align_corners=False)[0].numpy().reshape(*logits.shape[:-2], *size)


def usual_pointers(
    frame: int, prompted: Sequence[int], tracked: Collection[int], num_frames: int
) -> list[tuple[int, float]]:
    """SAM 2's own: those of prompted frames, and of the nearest frames before, at their distance in frames."""
    most = min(num_frames, MOST_POINTERS)
    distances = [(t, frame - t) for t in prompted]
    distances += [(frame - d, d) for d in range(1, most) if frame - d in tracked]
    return [(t, d / (most - 1)) for t, d in distances]


# SAMURAI


class Kalman:
    """Boxes ``x, y, a, h`` (centre, width / height, height) with constant velocities, in double precision."""

    def __init__(self, measured: Floats) -> None:
        h = measured[3]
        self.mean = np.r_[measured, np.zeros(4)]
        self.covariance = np.diag(np.square([h / 10, h / 10, 1e-2, h / 10, h / 16, h / 16, 1e-5, h / 16]))

    def predict(self) -> None:
        h, step = self.mean[3], np.eye(8) + np.eye(8, k=4)
        noise = np.diag(np.square([h / 20, h / 20, 1e-2, h / 20, h / 160, h / 160, 1e-5, h / 160]))
        self.mean = step @ self.mean
        self.covariance = step @ self.covariance @ step.T + noise

    def update(self, measured: Floats) -> None:
        h = self.mean[3]
        seen = self.covariance[:4, :4] + np.diag(np.square([h / 20, h / 20, 1e-1, h / 20]))
        gain = self.covariance[:, :4] @ np.linalg.inv(seen)
        self.mean = self.mean + gain @ (measured - self.mean[:4])
        self.covariance = self.covariance - gain @ seen @ gain.T

    def box(self) -> tuple[float, float, float, float]:
        x, y, a, h = self.mean[:4].tolist()
        return x - a * h / 2, y - h / 2, x + a * h / 2, y + h / 2


def box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The first and last column and row ``x0, y0, x1, y1``, or zeros."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def xyah(box: Sequence[float]) -> Floats:
    x0, y0, x1, y1 = box
    h = (y1 - y0) or 1
    return np.array([(x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / h, h], dtype=np.float64)


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union else 0.0


class PlainSamurai:
    """Motion chooses among masks, by a ``weight``; boxes are in pixels of the input. Good frames are remembered."""

    PRESENCE, STABLE, LEAST_IOU, MEMORY_IOU = -1.0, 15, np.float32(0.3), 0.5

    def __init__(self, image_size: int, num_frames: int, weight: float = 0.25) -> None:
        self.image_size, self.num_frames, self.weight = image_size, num_frames, weight
        self.filter: Kalman | None = None
        self.stable = 0
        self.prompted: list[int] = []
        self.records: dict[int, tuple[float, float, float | None]] = {}  # of tracked frames: iou, score, motion's IoU

    def prompt(self, frame: int, decoded: Decoded | None = None) -> int:
        """A prompted frame, with candidates after a single click. A later prompt begins the motion again."""
        self.prompted.append(frame)
        self.filter, self.stable = None, 0
        return 0 if decoded is None else self._choose(decoded.present(self.PRESENCE))[0]

    def track(self, frame: int, decoded: Decoded, first: int = 0) -> int:
        """The chosen candidate; of those that are equal but for rounding, ``first`` is chosen."""
        chosen, motion = self._choose(decoded.present(self.PRESENCE), first)
        self.records[frame] = float(decoded.ious[chosen]), decoded.score, motion
        return chosen

    def attend(self, frame: int) -> Attended:
        good = [t for t in range(frame - 1, 1, -1) if self._valid(t)][: MOST_POINTERS - 1]
        recent = [frame - 1, *(t for t in good if t != frame - 1)]
        recent = [t for t in recent if t in self.records][:SPATIAL]
        memories = [(t, CONDITIONING_ROW) for t in self.prompted] + [(t, row) for row, t in enumerate(recent)]
        return Attended(memories, usual_pointers(frame, self.prompted, self.records, self.num_frames))

    def _valid(self, frame: int) -> bool:
        iou, score, motion = self.records.get(frame, (0.0, 0.0, None))
        return iou > self.MEMORY_IOU and score > 0 and (motion is None or motion > 0)

    def _choose(self, decoded: Decoded, first: int = 0) -> tuple[int, float | None]:
        shown = enlarged(decoded.masks, (self.image_size, self.image_size)) > 0
        boxes, best = [box_of(mask) for mask in shown], decoded.argmax()
        if self.filter is None or self.stable == 0:
            self.filter, self.stable = Kalman(xyah(boxes[best])), 1
            return best, None
        self.filter.predict()
        if self.stable < self.STABLE:
            if decoded.ious[best] > self.LEAST_IOU:
                self.filter.update(xyah(boxes[best]))
                self.stable += 1
            else:
                self.stable = 0
            return best, None
        motion = np.array([box_iou(self.filter.box(), box) if any(box) else 0.0 for box in boxes])
        # The second product is rounded to float32, the sum is not.
        weighted = self.weight * motion + np.float32(1 - self.weight) * decoded.ious
        best = first if weighted.max() - weighted[first] < 1e-12 else int(np.argmax(weighted))
        if decoded.ious[best] < self.LEAST_IOU:
            self.stable = 0
        else:
            self.filter.update(xyah(boxes[best]))
        return best, float(motion[best])


# SAM2Long


def ranked(scores: Sequence[float]) -> list[float]:
    """Factors 0.95 ... 1.05 by ascending score; of equal ones the first gets the lower."""
    factors = np.empty(len(scores))
    factors[np.argsort(scores, kind="stable")] = np.linspace(0.95, 1.05, len(scores))
    return factors.tolist()


class PlainSam2Long:
    """Pathways with their own histories, of which the best is shown. Slots are a frame's rows, one per pathway."""

    PROMPT_SCORE = 10.0

    def __init__(self, num_frames: int, paths: int = 3, least_iou: float = 0.1, uncertainty: float = 2.0) -> None:
        self.most_pointers = min(num_frames, MOST_POINTERS)
        self.paths, self.least_iou, self.uncertainty = paths, least_iou, uncertainty
        self.start = 0
        self.histories: list[dict[int, int]] = [{} for _ in range(paths)]  # frame -> slot
        self.totals = [0.0] * paths
        self.records: dict[int, list[tuple[float, float]]] = {}  # frame -> iou and score of each slot
        self.kept: dict[int, list[tuple[int, int]]] = {}  # frame -> parent and candidate of each slot

    def prompt(self, frame: int) -> None:
        self.start = frame

    def attend(self, frame: int, path: int = 0) -> Attended:
        """What a pathway attends to; on the frame after the prompt they are one."""
        records = {t: self.records[t][slot] for t, slot in self.histories[path].items()}
        good = [t for t in range(frame - 1, self.start, -1) if records[t][0] > self.least_iou and records[t][1] > 0]
        good = good[: self.most_pointers - 1]
        recent = good if frame - 1 in [self.start, *good[:1]] else [frame - 1, *good]
        maps, older = recent[:SPATIAL], recent[:-1][: self.most_pointers - 1]
        distances = [(self.start, frame - self.start), *((t, rank) for rank, t in enumerate(older, 1))]
        attended = Attended(
            [(self.start, CONDITIONING_ROW), *((t, row) for row, t in enumerate(maps))],
            [(t, d / (self.most_pointers - 1)) for t, d in distances],
        )
        return attended if not maps else self._weighted(attended, records)

    def track(self, frame: int, decoded: Sequence[Decoded]) -> list[tuple[int, int]]:
        """Parent and candidate of each kept row; ``decoded`` has one entry per pathway, or one after the prompt."""
        if frame == self.start + 1:
            kept = [(0, decoded[0].argmax())]
            self.histories = [{frame: 0} for _ in range(self.paths)]
        else:
            kept, self.totals = self._branch(decoded)
            self.histories = [{**self.histories[parent], frame: n} for n, (parent, _) in enumerate(kept)]
        self.records[frame] = [(float(decoded[p].ious[j]), decoded[p].score) for p, j in kept]
        self.kept[frame] = kept
        return kept

    def finish(self) -> dict[int, int]:
        """The slot whose mask is shown, of each tracked frame."""
        return dict(self.histories[0])

    def _branch(self, decoded: Sequence[Decoded]) -> tuple[list[tuple[int, int]], list[float]]:
        total = {
            (p, j): self.totals[p] + math.log(float(iou) + 1e-5)
            for p, one in enumerate(decoded)
            for j, iou in enumerate(one.ious)
        }
        order = sorted(total, key=lambda one: -total[one])  # a stable sort
        if max(abs(one.score) for one in decoded) > self.uncertainty:
            kept = order[: self.paths]
        else:
            first: dict[float, tuple[int, int]] = {}
            for p, j in order:
                iou = float(decoded[p].ious[j])
                first.setdefault(round(iou if decoded[p].score > 0 else -iou, 2), (p, j))
            kept = list(first.values())[: self.paths]
            for path in range(self.paths):
                if len(kept) < self.paths and path not in [p for p, _ in kept]:
                    kept.append(next(one for one in order if one[0] == path))
        return kept, [total[one] for one in kept]

    def _weighted(self, attended: Attended, records: dict[int, tuple[float, float]]) -> Attended:
        def factors(frames: list[int]) -> list[float]:
            by_age = [self.start, *sorted(t for t in frames if t != self.start)]
            values = ranked([self.PROMPT_SCORE, *(records[t][1] for t in by_age[1:])])
            return [dict(zip(by_age, values, strict=True))[t] for t in frames]

        maps, pointers = ([t for t, _ in part] for part in (attended.memories, attended.pointers))
        return replace(attended, memory_factors=factors(maps), pointer_factors=factors(pointers))


# The confident rule (SAM 3's), for one object


class PlainConfident:
    """Memories and pointers are of frames on which object and mask were predicted with some confidence."""

    LEAST = 0.01

    def __init__(self, num_frames: int, stride: int = 1) -> None:
        self.num_frames, self.stride = num_frames, stride
        self.conditioning: set[int] = set()
        self.confidence: dict[int, float] = {}  # of tracked frames

    def prompt(self, frame: int) -> None:
        self.conditioning.add(frame)
        self.confidence.pop(frame, None)

    def track(self, frame: int, decoded: Decoded) -> int:
        seen = 2 / (1 + math.exp(-decoded.score)) - 1 if decoded.score > 0 else 0.0
        self.confidence[frame] = seen * float(max(decoded.ious))
        return decoded.argmax()

    def attend(self, frame: int, reverse: bool = False) -> Attended:
        sign, most = -1 if reverse else 1, min(self.num_frames, MOST_POINTERS)
        prompted = self._nearest(frame)
        past = range(frame + 1, self.num_frames, self.stride) if reverse else range(frame - 1, 0, -self.stride)
        recent = [t for t in past if self.confidence.get(t, 0.0) > self.LEAST][: most - 1]
        if frame != (self.num_frames - 1 if reverse else 0) and recent[:1] != [frame - sign]:
            recent.insert(0, frame - sign)  # it takes row 0 and rank 1 even where it has nothing to read
        kept = self.confidence.keys() | (self.conditioning - set(prompted))
        memories = [(t, CONDITIONING_ROW) for t in prompted]
        memories += [(t, row) for row, t in enumerate(recent[:SPATIAL]) if t in kept]
        distances = [(t, (frame - t) * sign) for t in prompted if (frame - t) * sign >= 0]
        distances += [(t, rank) for rank, t in enumerate(recent[:-1][: most - 1], 1) if t in kept]
        return Attended(memories, [(t, d / (most - 1)) for t, d in distances])

    def _nearest(self, frame: int, limit: int = 4) -> list[int]:
        """The nearest prompted frame before, the nearest from ``frame`` on, and then by distance."""
        if len(self.conditioning) <= limit:
            return sorted(self.conditioning)
        before = [t for t in self.conditioning if t < frame]
        after = self.conditioning.difference(before)
        first = [*([max(before)] if before else []), *([min(after)] if after else [])]
        rest = sorted(self.conditioning.difference(first), key=lambda t: (abs(t - frame), t))
        return first + rest[: limit - len(first)]
