"""Writes tests/unit/together_cases.json: logits of objects that meet, with the masks and motion of ``Together``.

A character of logits and masks is the logit of a pixel, in halves from "@". Masks are null if they are the logits.
"""

import json
from pathlib import Path

import numpy as np
import torch

from sam2fast.tracking.strategies import MaskCandidates, Together

OUT = Path(__file__).parents[1] / "tests" / "unit" / "together_cases.json"
HEIGHT, WIDTH, FRAMES, ZERO = 8, 10, 24, ord("@")


def text(logits: np.ndarray) -> str:
    """Logits from -12 to 12 in halves as characters."""
    return "".join(chr(round(2 * logit) + ZERO) for logit in logits.ravel().tolist())


def meeting(seed: int, count: int) -> np.ndarray:
    """Logits ``(frames, count, h, w)`` of objects that meet or turn back, some seen twice or hidden."""
    rng, found = np.random.default_rng(seed), []
    place, speed = rng.uniform(2, 7, (count, 2)), rng.uniform(-0.7, 0.7, (count, 2))
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    for _ in range(FRAMES):
        is_back = rng.random((count, 1)) < 0.1
        speed = np.where(is_back | (place < 0) | (place > (HEIGHT, WIDTH)), -speed, speed)
        place = place + speed
        distance = np.hypot(rows - place[:, :1, None], columns - place[:, 1:, None])
        logits = rng.uniform(2, 7, (count, 1, 1)) * (2 - distance)
        other = np.where(rng.random(count) < 0.4, rng.integers(count, size=count), np.arange(count))
        logits = np.where(rng.random((count, 1, 1)) < 0.7, np.maximum(logits, logits[other]), logits[other])
        found.append(np.where(rng.random((count, 1, 1)) < 0.15, -12, logits))
    return (np.stack(found).clip(-12, 12) * 2).round() / 2


def case(seed: int, count: int, exempt: tuple[int, int] | None) -> dict[str, object]:
    """Objects that meet, and pairs that share pixels."""
    sharing = ~torch.eye(count, dtype=torch.bool)
    if exempt is not None:
        sharing[exempt] = sharing[exempt[::-1]] = False
    ones, valid = torch.ones(count, 1), torch.ones(count, 1, dtype=torch.bool)
    state, frames = torch.zeros(count, Together.state_size, dtype=torch.float64), []
    for logits in meeting(seed, count):
        masks = torch.from_numpy(logits).float()[:, None]
        decided = Together().choose(MaskCandidates(masks, ones, ones, False, False, 64, (0, 0), valid, sharing), state)
        assert decided.masks is not None and decided.state is not None
        state, is_changed = decided.state, not masks.equal(decided.masks)
        frames.append({"logits": text(logits), "masks": text(decided.masks.numpy()) if is_changed else None})
    pairs = "".join(str(int(value)) for value in sharing.flatten().tolist())
    motion = " ".join(map(repr, state.flatten().tolist()))
    return {"count": count, "height": HEIGHT, "width": WIDTH, "sharing": pairs, "frames": frames, "motion": motion}


def cases() -> list[dict[str, object]]:
    return [case(0, 2, None), case(1, 3, (0, 2)), case(2, 4, None)]


if __name__ == "__main__":
    OUT.write_text(json.dumps(cases(), indent=2) + "\n")
