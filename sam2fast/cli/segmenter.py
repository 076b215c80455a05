"""Predicts one mask at a time, and measures the time of every stage, such as reading or encoding."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from sam2fast.build_sam import build_sam2
from sam2fast.cli.mask_files import read_foreground
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.prompts import Box, Prompts
from sam2fast.cli.sources import InputSource
from sam2fast.cli.user_errors import UserError, as_model_error, as_user_error
from sam2fast.datasets.displayed import turn_for_display, turned
from sam2fast.io.images import is_video_file
from sam2fast.io.overlay import area_of
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.transforms import ImageError, read_pixels

# Logit of a mask prompt: positive inside, negative outside. The model's logits are larger, so the model can correct
# the mask.
MASK_LOGIT = 4.0
NOT_FINITE = "the model's scores are not finite: its weights are damaged, or float16 is too narrow for it"


@dataclass
class MaskPrompt:
    """A mask prompt for images of any size."""

    logits: np.ndarray  # logits (1, 4h, 4h) fp32
    bounds: Box  # bounds of the foreground, in [0, 1]


@dataclass
class Prediction:
    """The best mask for some prompts."""

    mask: np.ndarray  # mask (H, W) bool
    score: float  # predicted IoU of the mask
    candidate_scores: list[float] | None  # scores of all predicted masks, or None for a single mask


class Segmenter:
    """An image predictor on its device. Raises ModelError if the model, device or dtype cannot be used."""

    def __init__(self, choice: ModelChoice, device: str, dtype: str) -> None:
        self.seconds: dict[str, float] = {}  # seconds of each stage since take_seconds
        self.choices: dict[str, Any] = {}  # page, bands and scale chosen for the last image, as JSON
        self._sizes: dict[Path, tuple[int, ...]] = {}  # (H, W) of mask images that were read
        self._masks: dict[tuple[Path, tuple[bool, bool] | None], MaskPrompt] = {}  # by file and rotation
        self._device: torch.device | None = None
        with self.stage("load model"), as_model_error():
            self.model = build_sam2(
                choice.config, choice.checkpoint, device, dtype=getattr(torch, dtype), image_size=choice.image_size
            )
            self.predictor = SAM2ImagePredictor(self.model)
            self._device = self.model.device
        self.description: dict[str, Any] = {**choice.as_json(), "device": str(self._device), "dtype": dtype}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of the block, with device synchronization, to ``seconds[name]``.

        Raises:
            UserError: If the device is out of memory.
        """
        start = time.perf_counter()
        with as_user_error(torch.OutOfMemoryError):
            yield
        if self._device is not None and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device is not None and self._device.type == "mps":
            torch.mps.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def take_seconds(self) -> dict[str, float]:
        """Returns the seconds of every stage since the last call."""
        spent, self.seconds = self.seconds, {}
        return spent

    def read(self, image: InputSource) -> np.ndarray:
        """Reads the pixels ``(H, W, 3)`` of an image, upright, as uint8 or fp32 in [0, 1]."""
        with self.stage("read image"), image.file() as file:
            try:
                pixels, self.choices = read_pixels(file)
                return pixels.numpy()
            except ImageError as error:
                if is_video_file(file.name):
                    raise UserError(f"{file} is a video: use `sam2fast track`") from error
                reason = " ".join(str(error).split())
                raise UserError(reason if str(file) in reason else f"{file}: {reason}") from error

    def read_mask(self, path: Path, image: InputSource, size: tuple[int, int]) -> MaskPrompt:
        """Reads and caches a mask image as a prompt for an image of ``size`` (H, W).

        A mask of the ratio that the image has as displayed, or as stored, is resized. A mask of the size of the model's
        mask inputs covers the image in any case.

        Raises:
            UserError: If the mask has another ratio. See also :func:`read_foreground`.
        """
        inputs = self.predictor.model.sam_prompt_encoder.mask_input_size
        with self.stage("read image"):
            mask = None if path in self._sizes else read_foreground(path)
            stated = self._sizes.setdefault(path, () if mask is None else mask.shape)
            turn = None
            if stated not in (size, inputs):
                with image.file() as file:
                    turn = turn_for_display(stated, size, file, may_scale=True, what=f"the mask {path} is")
            if (path, turn) in self._masks:
                return self._masks[path, turn]
            mask = turned(read_foreground(path) if mask is None else mask, turn)
            box = mask_box(mask)
            assert box is not None
            height, width = mask.shape
            bounds = Box(box[0] / width, box[1] / height, (box[2] + 1) / width, (box[3] + 1) / height)
            share = F.interpolate(
                torch.from_numpy(mask.copy())[None, None].float(),
                inputs,
                mode="bilinear",
                align_corners=False,
                antialias=True,
            )
            return self._masks.setdefault((path, turn), MaskPrompt(((2 * share[0] - 1) * MASK_LOGIT).numpy(), bounds))

    def encode(self, pixels: np.ndarray) -> None:
        """Encodes ``pixels (H, W, 3)`` for :meth:`predict`."""
        with self.stage("encode"):
            self.predictor.set_image(pixels)

    def predict(self, prompts: Prompts, mask: MaskPrompt | None = None) -> Prediction:
        """Predicts the best mask for the prompts: for a single click, the best-scored of three masks."""
        clicks = prompts.clicks
        with self.stage("predict"), as_user_error(ValueError):
            masks, scores, _ = self.predictor.predict(
                point_coords=np.array([(c.x, c.y) for c in clicks]) if clicks else None,
                point_labels=np.array([c.label for c in clicks]) if clicks else None,
                box=None if prompts.box is None else np.array(prompts.box),
                mask_input=None if mask is None else mask.logits,
                multimask_output=prompts.is_ambiguous,
            )
        if not np.isfinite(scores).all():
            raise UserError(NOT_FINITE)
        best = int(scores.argmax())
        candidates = [float(score) for score in scores] if len(scores) > 1 else None
        return Prediction(masks[best] > 0, float(scores[best]), candidates)


def mask_box(mask: np.ndarray) -> list[int] | None:
    """Returns [x0, y0, x1, y1]: first and last column and row of ``mask (H, W)``. Returns None for an empty mask."""
    if (area := area_of(mask)) is None:
        return None
    rows, columns = area
    return [columns.start, rows.start, columns.stop - 1, rows.stop - 1]
