"""The official video predictor and ours with identical tame weights, random clips, and scenarios to compare."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import oracle
import sam2.build_sam
import sam2.sam2_video_predictor
import tame_weights
import torch
from float32_memory import Float32Memory
from moving_shapes import jpeg_folder as jpeg_folder
from numpy.typing import NDArray
from parity import NARROW, NothingDrawn, config_name

import sam2fast.build_sam
from sam2fast.utils.testing import mask_iou, relative_error

# Required agreement of the official predictor with itself under another order of sums.
SELF_TOLERANCE = 1e-4 / 3
TOLERANCE = 1e-4
# Side of the model's input for tests whose subject does not depend on it.
SMALL = 128


def float32_memory() -> AbstractContextManager[Any]:
    """Returns a context manager in which the official video predictor stores memories in fp32."""
    return patch.object(sam2.sam2_video_predictor, "torch", Float32Memory())


def build_video_pair(
    size: str = "sam2.1_t", overrides: Sequence[str] = (), seed: int = 0, image_size: int = 256, **kwargs: Any
) -> tuple[Any, Any]:
    """The official video predictor and ours with identical weights, fp32, on the CPU."""
    name, overrides = config_name(size), [f"++model.image_size={image_size}", *overrides]
    with NothingDrawn():
        official = sam2.build_sam.build_sam2_video_predictor(
            name, None, device="cpu", hydra_overrides_extra=list(overrides), **kwargs
        )
        ours = sam2fast.build_sam.build_sam2_video_predictor(
            name, None, device="cpu", hydra_overrides_extra=overrides, **kwargs
        )
    tame_weights.fill(official, seed)
    ours.load_state_dict(official.state_dict(), strict=True)
    return official, ours


def narrow_predictor(image_size: int = SMALL, **kwargs: Any) -> Any:
    """Ours of the narrow architecture alone, with tame weights: for tests that compare it with itself."""
    overrides = [f"++model.image_size={image_size}", *NARROW]
    given = {"device": "cpu", "hydra_overrides_extra": overrides, **kwargs}
    return tame_weights.built(sam2fast.build_sam.build_sam2_video_predictor, config_name("sam2.1_t"), None, **given)


def clip(frames: int, height: int = 90, width: int = 120, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Discs that move over a textured background, leave it and come back; uint8 RGB frames."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    background = np.stack([np.sin(x / 9 + y / 7), np.cos(x / 5 - y / 11), np.sin(y / 6)], axis=-1) * 50 + 120
    discs = [
        (rng.random(2), rng.normal(0, 0.06, 2), 0.08 + 0.1 * rng.random(), rng.integers(0, 255, 3)) for _ in range(4)
    ]
    images = []
    for t in range(frames):
        image = background.copy()
        for start, speed, radius, colour in discs:
            cy, cx = (start + speed * t) % 1.3
            image[(y - cy * height) ** 2 + (x - cx * width) ** 2 < (radius * height) ** 2] = colour
        images.append((image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8))
    return images


class Record(NamedTuple):
    """One answer of a predictor."""

    step: str
    frame: int
    ids: list[Any]
    masks: torch.Tensor


class Session:
    """Records every answer of a predictor for one video, with arrays as tensors. Scenarios call its methods."""

    def __init__(self, predictor: Any, video: Path, **init: Any) -> None:
        self.predictor = predictor
        self.state = predictor.init_state(str(video), **init)
        self.records: list[Record] = []

    def points(self, frame: int, obj: Any, *clicks: tuple[float, float, int], box: Any = None, **kwargs: Any) -> None:
        """Clicks (x, y, label) in pixels, or as ``normalize_coords`` says."""
        coords = [c[:2] for c in clicks] or None
        labels = [c[2] for c in clicks] or None
        self._record(
            f"points on {frame} for {obj}",
            self.predictor.add_new_points_or_box(self.state, frame, obj, coords, labels, box=box, **kwargs),
        )

    def mask(self, frame: int, obj: Any, mask: Any) -> None:
        self._record(f"mask on {frame} for {obj}", self.predictor.add_new_mask(self.state, frame, obj, mask))

    def propagate(self, **kwargs: Any) -> None:
        for answer in self.predictor.propagate_in_video(self.state, **kwargs):
            self._record(f"propagate {kwargs}", answer)

    def clear(self, frame: int, obj: Any) -> None:
        answer = self.predictor.clear_all_prompts_in_frame(self.state, frame, obj)
        self._record(f"clear {obj} on {frame}", answer)

    def remove(self, obj: Any) -> None:
        ids, updated = self.predictor.remove_object(self.state, obj)
        for frame, masks in sorted(updated, key=lambda pair: pair[0]):
            self._record(f"remove {obj}", (frame, ids, masks))

    def reset(self) -> None:
        self.predictor.reset_state(self.state)

    def _record(self, step: str, answer: Any) -> None:
        frame, ids, masks = answer
        masks = torch.from_numpy(masks) if isinstance(masks, np.ndarray) else masks
        self.records.append(Record(step, frame, list(ids), masks.clone()))


Scenario = Callable[[Session], None]


def run(predictor: Any, video: Path, scenario: Scenario, **init: Any) -> list[Record]:
    session = Session(predictor, video, **init)
    scenario(session)
    return session.records


def run_official(predictor: Any, video: Path, scenario: Scenario, *, check_itself: bool = True) -> list[Record]:
    """The official answers, after an AssertionError if they depend on the order of sums.

    Without ``check_itself`` another test shows that: a comparison that passes is none the worse.
    """
    with float32_memory():
        records = run(predictor, video, scenario)
        if not check_itself:
            return records
        with oracle.written_out_attention():
            again = run(predictor, video, scenario)
    error = worst(records, again)
    assert error < SELF_TOLERANCE, f"the official predictor differs from itself by {error:.1e}"
    return records


def errors(expected: Record, actual: Record) -> list[float]:
    """Relative error of each object's logits; together, one absent object's -1024 would hide the others'."""
    return [relative_error(a, b) for a, b in zip(expected.masks, actual.masks, strict=True)]


def worst(expected: Sequence[Record], actual: Sequence[Record]) -> float:
    """The largest error of any object in any answer."""
    return max((error for a, b in zip(expected, actual, strict=True) for error in errors(a, b)), default=0.0)


def compare(expected: Sequence[Record], actual: Sequence[Record]) -> float:
    """Asserts equal answers, in the same order, and gives their largest error."""
    assert [(r.step, r.frame, r.ids) for r in actual] == [(r.step, r.frame, r.ids) for r in expected]
    for a, b in zip(expected, actual, strict=True):
        assert b.masks.shape == a.masks.shape and b.masks.dtype == torch.float32
        for obj, error, x, y in zip(a.ids, errors(a, b), a.masks, b.masks, strict=True):
            where = f"{a.step}, frame {a.frame}, object {obj}"
            assert error <= TOLERANCE, f"{where}: logits differ by {error:.1e}"
            iou = mask_iou(x, y)
            assert iou >= 0.999, f"{where}: IoU {iou:.4f}"
    return worst(expected, actual)
