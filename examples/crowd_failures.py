"""Counts failures in crowds, and compares rules that may avoid them: nano on the clips of ``strategy_clips.py``.

    pip install --no-deps trackeval                       # HOTA and IDF1
    python examples/crowd_failures.py                     # together, sam2 and three ideas on 50 crowds
    python examples/crowd_failures.py --kinds crossing    # on crossing clips
    python examples/crowd_failures.py --told --first 1000 --clips 16    # rules that know the true masks

Each row has J&F, its mean difference from ``together`` with its standard error, HOTA and IDF1 of TrackEval by the IoU
of masks, and the number of objects by ending (``ENDINGS``). The rules are

- ``other candidate``: an object without a mask takes another candidate that covers its expected place;
- ``pointers``: masks of ``together`` are exchanged if their pointers are nearer to other objects' first ones;
- ``clean memories``: memories that were written while another object claimed the pixels are not used;
- ``best candidate``, ``true positions``, ``right memories``: these know the true masks.
"""

import argparse
import itertools
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from crowd_detections import for_trackeval
from crowd_detections import measured as by_trackeval
from numpy.typing import NDArray
from shared import Masks, finish, open_clip, packaged, tracked
from strategy_clips import COUNT, KINDS, LAST, SIZE, row_of, strategy_clip
from torch import Tensor
from torch.nn import functional as F

from sam2fast.datasets.clip import Clip
from sam2fast.modeling.sam2_base import gather_chosen
from sam2fast.tracking.strategies import Attended, Decided, History, MaskCandidates, Strategy, Together
from sam2fast.tracking.strategies.base import Sam2
from sam2fast.tracking.strategies.together import VISIBLE, WEIGHT, Trajectory, overlaps

ENDINGS = ("right", "swapped", "on another", "merged", "lost", "background", "partly")
SEEN = 20  # pixels of an object that counts as visible
BEFORE, WINDOW, SURE = 5, 4, 0.3  # frames of first pointers, frames of later ones, least gain per object


@dataclass(frozen=True)
class OtherCandidate(Together):
    """Gives an object without a mask another of its candidates, if that covers its expected place."""

    def choose(self, candidates: MaskCandidates, state: Tensor) -> Decided:
        decided = super().choose(candidates, state)
        if decided.masks is None:
            return decided
        shown, motion = decided.masks[:, 0] > 0, Trajectory.of(state)
        near = (motion.distance(*shown.shape[1:]) <= WEIGHT / 2) & (motion.frames > 0)[:, :, None]
        free = ((candidates.masks > 0) & (near & ~shown.any(0))[:, None]).sum((2, 3))
        is_lost = (shown.sum((1, 2)) < VISIBLE)[:, None] & (free >= VISIBLE)
        return super().choose(candidates._replace(ious=torch.where(is_lost, free.float(), candidates.ious)), state)


@dataclass(frozen=True)
class CleanMemories(Together):
    """Attends to the nearest memories without 1 in their record: no other object claimed their pixels."""

    record_size: ClassVar[int] = 1

    def choose(self, candidates: MaskCandidates, state: Tensor) -> Decided:
        decided = super().choose(candidates, state)
        if candidates.valid is None or candidates.sharing is None:
            return decided
        claims = (gather_chosen(candidates.masks, decided.candidate)[:, 0] > 0) & candidates.valid[:, :, None]
        return decided._replace(record=(overlaps(claims) & candidates.sharing).any(1, keepdim=True).float())

    def attend(self, history: History) -> Attended:
        past = [t for t in history.past() if t in history.tracked and history.distance(t) <= history.rules.reach]
        clean = [t for t in past if not history.tracked[t].record.item()][: history.rules.recent]
        prompted = [(t, history.rules.num_maskmem - 1) for t in history.conditioning]
        return Attended(prompted + [(t, row) for row, t in enumerate(clean)], super().attend(history).pointers)


@dataclass(frozen=True)
class Told(CleanMemories):
    """Knows the true masks ``(T, O, h, w)``. The last value of its state is the frame."""

    truth: Tensor = field(compare=False)
    purpose: str

    state_size: ClassVar[int] = 9

    def choose(self, candidates: MaskCandidates, state: Tensor) -> Decided:
        if candidates.sharing is None:
            return Decided(candidates.best(), torch.zeros_like(state))
        frame = int(state[0, 8]) + 1
        truth, state = self.truth[frame], state[:, :8]
        if self.purpose == "best candidate":
            candidates = candidates._replace(ious=_ious(candidates.masks > 0, truth[:, None]))
        elif self.purpose == "true positions":
            state = self._positions(frame)
        decided = Together.choose(self, candidates, state)
        assert decided.state is not None and decided.masks is not None
        shown = decided.masks[:, 0] > 0
        is_wrong = shown.any(2).any(1) & (_ious(shown, truth) < 0.5) & (self.purpose == "right memories")
        after = F.pad(decided.state, (0, 1), value=frame)
        return decided._replace(state=after, record=is_wrong[:, None].float())

    def _positions(self, frame: int) -> Tensor:
        """Returns a state ``(O, 8)`` with the true centres; of a hidden object, on the nearest frame that shows it."""
        rows = []
        for masks in self.truth.unbind(1):
            size = masks.sum((1, 2))
            known = torch.nonzero(size >= VISIBLE)[:, 0]
            near = int(known[(known - frame).abs().argmin()])
            y, x = (torch.nonzero(masks[near]).double().mean(0) + 0.5).tolist()
            height, width = masks.shape[1:]
            rows.append([1, x / width, y / height, 0, 0, float(size[known].median()) / (height * width), 0, 0])
        return torch.tensor(rows, dtype=torch.float64)


def _ious(masks: Tensor, truth: Tensor) -> Tensor:
    return (masks & truth).sum((-2, -1)) / (masks | truth).sum((-2, -1)).clamp(min=1)


def ending(found: Masks, truth: Masks, o: int) -> str:
    """Returns the ending of object ``o``, on the last frames that show it. Masks are ``(T, O, H, W)``."""
    frames = np.flatnonzero(truth[:, o].sum((1, 2)) >= SEEN)[-LAST:]
    shared = (found[frames][:, :, None] & truth[frames][:, None]).sum((0, 3, 4))  # by mask and object
    area, size = truth[frames].sum((0, 2, 3)), found[frames, o].sum()
    if 2 * shared[o, o] > area[o] + size - shared[o, o]:
        return "right"
    if size < SEEN:
        return "lost"
    covers = 2 * shared[o] > np.maximum(area, SEEN)
    if covers[o] and covers.sum() > 1:
        return "merged"
    other = int(shared[o].argmax())
    if other != o and 3 * shared[o, other] > size:
        return "swapped" if shared[other, o] > SEEN and shared[other].argmax() == o else "on another"
    return "background" if 3 * shared[o].sum() < size else "partly"


def exchanged(found: Masks, pointers: NDArray[np.float64]) -> Masks:
    """Returns masks ``(T, O, H, W)``, each moved to the object with the nearest first pointers.

    Pointers ``(T, O, C)`` less their mean over objects are compared by their cosine, averaged over ``WINDOW`` frames.
    The best order of the objects is taken if it is better than the present one by ``SURE`` per object.
    """
    unit = pointers - pointers.mean(1, keepdims=True)
    unit /= np.maximum(np.linalg.norm(unit, axis=2, keepdims=True), 1e-9)
    own, result = unit[:BEFORE].mean(0), found.copy()
    orders = np.array([*itertools.permutations(range(found.shape[1]))])
    for t in range(BEFORE, len(found)):
        likeness = unit[max(0, t - WINDOW + 1) : t + 1].mean(0) @ own.T  # by mask and object
        gain = likeness[orders, np.arange(found.shape[1])].sum(1)
        if gain.max() > gain[0] + SURE * found.shape[1]:
            result[t] = found[t, orders[gain.argmax()]]
    return result


def with_pointers(predictor: Any, state: Any, clip: Clip) -> tuple[Masks, NDArray[np.float64]]:
    """Returns masks of a clip and object pointers ``(T, O, C)``."""
    found, bank = tracked(predictor, state, clip), state.bank
    every = [{**o.tracked, **o.conditioning} for o in state.objects.values()]
    pointers = [[bank.pointers.read(results[t].pointer).tolist() for results in every] for t in range(len(clip.frames))]
    return found, np.array(pointers)


def rules_for(clip: Clip, told: bool, side: int) -> dict[str, Strategy]:
    """Returns the rules by name."""
    if not told:
        ideas = {"other candidate": OtherCandidate(), "clean memories": CleanMemories()}
        return {"together": Together(), "sam2": Sam2(), **ideas}
    truth = F.interpolate(torch.from_numpy(clip.masks).float(), size=(side, side), mode="area") > 0.5
    purposes = ("best candidate", "true positions", "right memories")
    return {"together": Together(), **{purpose: Told(truth, purpose) for purpose in purposes}}


def measures(found: Sequence[Masks], clips: Sequence[Clip]) -> dict[str, Any]:
    """Returns HOTA and IDF1 after the first frame, and the number of objects by ending."""
    data = {}
    for masks, clip in zip(found, clips, strict=True):
        pair = (
            [{o: m.ravel() for o, m in enumerate(frame) if m.any()} for frame in x[1:]] for x in (clip.masks, masks)
        )
        data[clip.name] = for_trackeval(*pair, mask_ious, masks[0, 0].size)
    ends = Counter(ending(m, c.masks, o) for m, c in zip(found, clips, strict=True) for o in range(m.shape[1]))
    return {**by_trackeval(data), **{name: ends[name] for name in ENDINGS}}


def mask_ious(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Returns IoUs ``(N, M)`` of masks ``(N, P)`` and ``(M, P)``."""
    shared = one.astype(float) @ other.astype(float).T
    return shared / (one.sum(1)[:, None] + other.sum(1) - shared)


def main(options: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=COUNT, help="of each kind (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="index of the first clip (default: %(default)s)")
    parser.add_argument("--size", type=int, default=SIZE, help="side of the frames (default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["crowd"])
    parser.add_argument("--told", action="store_true", help="rules that know the true masks")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="a JSON file for the rows")
    args, start = parser.parse_args(options), time.perf_counter()
    predictor, rows = packaged("nano", args.device), []
    for kind in args.kinds:
        clips = [strategy_clip(kind, args.first + i, args.size, both=True) for i in range(args.clips)]
        found: dict[str, list[Masks]] = {}
        for clip in clips:
            features = open_clip(predictor, clip).features
            for name, strategy in rules_for(clip, args.told, predictor.image_size // 4).items():
                with torch.inference_mode():
                    state = predictor.init_state([*clip.frames], strategy=strategy)
                    state.features = features
                    masks, pointers = with_pointers(predictor, state, clip)
                found.setdefault(name, []).append(masks)
                if name == "together" and not args.told:
                    found.setdefault("pointers", []).append(exchanged(masks, pointers))
            print(".", end="", flush=True, file=sys.stderr)
        first: list[float] = []
        for name, each in found.items():
            rows.append({**row_of(kind, name, clips, each, first), **measures(each, clips)})
    finish(args, start, rows)


if __name__ == "__main__":
    main()
