"""Predicts masks for prompts on images."""

from typing import Any

import numpy as np

from sam2fast.deploy.onnx.runtime.arrays import resize, without_holes_and_sprinkles
from sam2fast.deploy.onnx.runtime.frames import read_pixels
from sam2fast.deploy.onnx.runtime.graphs import OnnxModel, with_padding_point
from sam2fast.deploy.onnx.runtime.prompts import LOGIT_LIMIT, check_boxes, check_numbers, check_points, joined_prompt


class OnnxImagePredictor:
    """``SAM2ImagePredictor`` for an exported model, with its methods' names, arguments and results.

    Args:
        model: model from :func:`load_model`. Several predictors may share one model.
        mask_threshold: logit above which a pixel is foreground.
        max_hole_area: maximum area of holes to fill, in low-resolution pixels.
        max_sprinkle_area: maximum area of sprinkles to remove, in low-resolution pixels.
    """

    def __init__(
        self,
        model: OnnxModel,
        mask_threshold: float = 0.0,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
    ) -> None:
        self.model = model
        self.mask_threshold = mask_threshold
        self._areas = max_hole_area, max_sprinkle_area
        self._levels: list[np.ndarray] = []
        self._size = 0, 0

    def set_image(self, image: Any) -> None:
        """Encodes an image: a path, a PIL image, or a uint8 array ``(H, W, 3)`` RGB.

        Raises:
            FileNotFoundError, ValueError: If the image cannot be read. The previous image stays.
        """
        pixels = read_pixels(image)
        side = self.model.manifest.image_size
        resized = resize(pixels.transpose(2, 0, 1), (side, side), antialias=True).transpose(1, 2, 0)
        levels = self.model.encode(resized)
        self._levels, self._size = levels, (pixels.shape[0], pixels.shape[1])

    def reset_predictor(self) -> None:
        """Removes the image."""
        self._levels = []

    def get_image_embedding(self) -> np.ndarray:
        """Returns the embedding ``(1, C, H, W)`` of the image.

        Raises:
            RuntimeError: If no image is set.
        """
        if not self._levels:
            raise RuntimeError("no image is set: call set_image first")
        return self._levels[-1] + self.model.no_mem_embed

    def predict(
        self,
        point_coords: Any = None,
        point_labels: Any = None,
        box: Any = None,
        mask_input: Any = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predicts masks for one prompt or a batch of B prompts.

        Args:
            point_coords: points ``(N, 2)`` or ``(B, N, 2)`` in pixels of the image.
            point_labels: labels ``(N)`` or ``(B, N)``: 1 foreground, 0 background.
            box: boxes ``(4)`` or ``(B, 4)`` XYXY in pixels of the image.
            mask_input: logits ``(1, 4h, 4h)`` or ``(B, 1, 4h, 4h)`` of an earlier call.
            multimask_output: if True, returns three masks rather than one.
            return_logits: if True, returns logits rather than 0.0 and 1.0.
            normalize_coords: if False, coordinates are in [0, 1].

        Returns:
            Masks ``(C, H, W)``, predicted IoUs ``(C)`` and logits ``(C, 4h, 4h)``, fp32. If B > 1, each array has a
            leading dimension B.

        Raises:
            RuntimeError: If no image is set.
            ValueError: If a prompt has the wrong shape or values.
        """
        features = self.get_image_embedding()
        has_points = point_coords is not None or point_labels is not None
        points = check_points(point_coords, point_labels, "point_coords", "point_labels") if has_points else None
        coords, labels = joined_prompt(points, None if box is None else check_boxes(box))
        height, width = self._size if normalize_coords else (1, 1)
        coords = coords / np.array([width, height], np.float32) * np.float32(self.model.manifest.image_size)
        mask, side = None if mask_input is None else check_numbers(mask_input, "mask_input"), self.model.mask_side
        if mask is not None:
            if mask.ndim not in (3, 4) or mask.shape[-3:] != (1, side, side):
                expected = f"(1, {side}, {side}) or (B, 1, {side}, {side})"
                raise ValueError(f"mask_input has shape {mask.shape}; expected {expected}")
            mask = mask.reshape(-1, 1, side, side)
        if mask is not None and coords.shape[1] == 0:
            coords, labels = (np.broadcast_to(x, (len(mask), *x.shape[1:])) for x in (coords, labels))
        if points is not None or box is not None:
            coords, labels = with_padding_point(coords, labels)
        if mask is not None and len(mask) not in (1, len(coords)):
            raise ValueError(f"{len(mask)} masks in mask_input for {len(coords)} prompts; give one, or one for each")
        if not len(coords):
            C = 3 if multimask_output else 1
            full, ious, masks = (np.zeros((0, C, *size), np.float32) for size in (self._size, (), (side, side)))
            return full, ious, masks
        masks, ious, _, _ = self.model.decode(self._levels, features, coords, labels, mask)
        if multimask_output:
            masks, ious = masks[:, 1:], ious[:, 1:]
        else:
            rows, choice = np.arange(len(masks)), self.model.single_mask(masks, ious)
            masks, ious = masks[rows, choice][:, None], ious[rows, choice][:, None]
        full = resize(without_holes_and_sprinkles(masks, self.mask_threshold, *self._areas), self._size)
        if not return_logits:
            full = (full > self.mask_threshold).astype(np.float32)
        results = full, ious, masks.clip(-LOGIT_LIMIT, LOGIT_LIMIT)
        return results if len(masks) > 1 else (full[0], ious[0], results[2][0])
