"""DAM4SAM and d4sm in plain numpy, one object at a time, told frames as those of :mod:`plain_strategies`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from plain_strategies import CONDITIONING_ROW, MOST_POINTERS, Attended, Decoded, Floats, enlarged

MEMORIES, DISTRACTORS = 7, 3  # in all; and of them, at most, frames that show a distractor
EVERY, REST = 5, 5  # frames between older memories, and after a distractor before the next
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)
Mask = NDArray[np.bool_]


def filled(logits: Floats, most: int = 8) -> Floats:
    """Logits with holes of at most so many pixels closed, as SAM 2 closes them."""
    labels, _ = scipy.ndimage.label(logits <= 0, EIGHT_NEIGHBOURS)
    small = (np.bincount(labels.ravel()) <= most)[labels] & (labels > 0)
    return np.where(small, np.float32(0.1), logits)


def largest_part(mask: Mask) -> Mask:
    """The largest of the mask's 8-connected parts, the first of equals."""
    labels, _ = scipy.ndimage.label(mask, EIGHT_NEIGHBOURS)
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


def sides(mask: Mask, last: int) -> tuple[int, int]:
    """Width and height of a mask's box, from its first pixel to its last one, plus ``last``."""
    rows, columns = np.nonzero(mask)
    return int(np.ptp(columns)) + last, int(np.ptp(rows)) + last


def overlap(inner: Mask, outer: Mask, last: int) -> float:
    """Of the boxes of two masks, one inside the other."""
    (w, h), (wide, high) = sides(inner, last), sides(outer, last)
    return 1.0 if wide <= 1 or high <= 1 else (w * h) / (wide * high)


class Introspection:
    """Decides whether a frame shows a distractor. ``last`` is 1 where boxes include their last pixel, else 0."""

    LEAST_IOU, MOST_OVERLAP, RATIO, WINDOW, RECENT = 0.8, 0.7, (0.8, 1.2), 300, 10

    def __init__(self, last: int) -> None:
        self.last = last
        self.sizes: list[int] = []
        self.last_added = -1

    def add(self, frame: int, iou: float, chosen: Mask, others: Sequence[Mask]) -> bool:
        """Whether the frame shows a distractor; masks are of the video's size."""
        self.sizes.append(int(chosen.sum()))
        least, most = self.RATIO
        rested = frame - self.last_added > REST or self.last_added == -1
        if not (iou > self.LEAST_IOU and least <= self._ratio() <= most and rested):
            return False
        beside = [other & ~chosen for other in others]
        unions = [largest_part(one) | chosen for one in beside if one.any()]
        if min((overlap(chosen, union, self.last) for union in unions), default=1.0) > self.MOST_OVERLAP:
            return False
        self.last_added = frame
        return True

    def _ratio(self) -> float:
        """The newest size by the median of the newest ones, itself included."""
        visible = [n for n in self.sizes[-self.WINDOW :] if n >= 1]
        if len(self.sizes) < 2 or self.sizes[-1] < 1:
            return -1.0
        return float(self.sizes[-1] / np.median(visible[-self.RECENT :]))


class PlainDam4sam:
    """Frames that show a distractor become conditioning ones. ``video_size`` is height and width."""

    CONDITIONING = 4  # of them, at most, are attended to

    def __init__(self, video_size: tuple[int, int]) -> None:
        self.video_size = video_size
        self.introspection = Introspection(last=0)
        self.conditioning = {0}
        self.visible: dict[int, int] = {}  # frame -> low-resolution pixels of the mask

    def prompt(self, frame: int) -> None:
        """A later prompt, which shows the object and begins the introspection again; that of frame 0 is known."""
        self.conditioning.add(frame)
        self.visible[frame] = 1
        self.introspection = Introspection(last=0)

    def track(self, frame: int, decoded: Decoded) -> tuple[int, bool]:
        """The chosen candidate, and whether the frame becomes a conditioning one, to be encoded again."""
        decoded, chosen = decoded.present(0.0), decoded.argmax()
        self.visible[frame] = int((decoded.masks[chosen] > 0).sum())
        shown = enlarged(decoded.masks, self.video_size) > 0
        others = [shown[j] for j in range(3) if j != chosen]
        added = self.introspection.add(frame, float(decoded.ious[chosen]), shown[chosen], others)
        if added:
            self.conditioning.add(frame)
        return chosen, added

    def attend(self, frame: int) -> Attended:
        chosen = self._conditioning(frame)
        recent = self._recent(frame, chosen)
        memories = [(t, CONDITIONING_ROW) for t in chosen] + [(t, row) for row, t in enumerate(recent)]
        reach = min(frame + 1, MOST_POINTERS) - 1
        near = [t for t in range(frame - 1, frame - 1 - reach, -1) if t not in chosen and self._seen(t)]
        return Attended(memories, [(t, (frame - t) / reach) for t in [*chosen, *near]])

    def _conditioning(self, frame: int) -> list[int]:
        """The newest before the neighbour, the first frame, and then the nearest; the neighbour is not among them."""
        before = sorted((t for t in self.conditioning if t < frame - 1), reverse=True)
        return list(dict.fromkeys([*before[:1], 0, *before]))[: self.CONDITIONING]

    def _recent(self, frame: int, chosen: Sequence[int]) -> list[int]:
        def ordinary(t: int) -> bool:
            return t not in self.conditioning and self._seen(t)

        newest = frame - 1
        if not (newest not in chosen and self._seen(newest)):
            newest = next((t for t in range(frame - 2, 0, -1) if ordinary(t)), 0)
        recent, t = [], newest
        while t > 0 and len(recent) < MEMORIES - len(chosen):
            recent.append(t)
            t = (t - 1) // EVERY * EVERY
            while t > 0 and not ordinary(t):
                t -= EVERY
        return recent

    def _seen(self, frame: int) -> bool:
        return self.visible.get(frame, 0) >= 1


@dataclass
class Entry:
    """A memory of d4sm: of the ``first`` frame, a ``distractor``'s, or ``recent``."""

    frame: int
    kind: str


class PlainD4sm:
    """DAM4SAM's authors' version for several objects: an ordered list of memories, in which places become rows."""

    def __init__(self, video_size: tuple[int, int]) -> None:
        self.video_size = video_size
        self.introspection = Introspection(last=1)
        self.memories = [Entry(0, "first")]
        self.pointers = [0]
        self.pending: Entry | None = None

    def attend(self, frame: int) -> Attended:
        newest, count = len(self.memories) - 1, len(self.pointers)
        rows = [newest - i if one.kind == "recent" else CONDITIONING_ROW for i, one in enumerate(self.memories)]
        positions = [frame, *(count - i for i in range(1, count))]
        return Attended(
            [(one.frame, row) for one, row in zip(self.memories, rows, strict=True)],
            [(t, p / max(1, count - 1)) for t, p in zip(self.pointers, positions, strict=True)],
        )

    def track(self, frame: int, decoded: Decoded) -> tuple[int, bool]:
        """The chosen candidate, and whether the frame shows a distractor."""
        decoded, chosen = decoded.present(0.0), decoded.argmax()
        masks = [filled(mask) if j == chosen else mask for j, mask in enumerate(decoded.masks)]
        shown = enlarged(np.stack(masks), self.video_size) > 0
        self._add_pending()
        if not shown[chosen].any():
            return chosen, False
        self._remember(frame)
        others = [shown[j] for j in range(3) if j != chosen]
        added = self.introspection.add(frame, float(decoded.ious[chosen]), shown[chosen], others)
        if added:
            # The last memory is always this frame's: ordinary ones before a distractor's are of multiples of five, and
            # those are not replaced. The published code has a branch for another last one, too.
            assert self.memories[-1].frame == frame
            self.pending = Entry(frame, "distractor")
        return chosen, added

    def _add_pending(self) -> None:
        if self.pending is not None:
            self.memories[-1], self.pending = self.pending, None
            if len(self._of("distractor")) > DISTRACTORS:
                self._drop_oldest("distractor")

    def _remember(self, frame: int) -> None:
        self.pointers.append(frame)
        if len(self.pointers) > MOST_POINTERS:
            del self.pointers[1]
        recent = self._of("recent")
        if not recent or recent[-1].frame % EVERY == 0:
            self.memories.append(Entry(frame, "recent"))
        else:
            place = next(i for i, one in enumerate(self.memories) if one is recent[-1])
            self.memories[place] = replace(recent[-1], frame=frame)
        if len(self._of("recent")) > DISTRACTORS and len(self.memories) > MEMORIES:
            self._drop_oldest("recent")

    def _of(self, kind: str) -> list[Entry]:
        return [one for one in self.memories if one.kind == kind]

    def _drop_oldest(self, kind: str) -> None:
        oldest = self._of(kind)[0]
        self.memories = [one for one in self.memories if one is not oldest]
