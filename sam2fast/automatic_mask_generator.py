"""Generates masks for an entire image from a grid of point prompts."""

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sam2fast.amg.candidates import CandidateBuffer, Candidates, Crop
from sam2fast.amg.parameters import check_integers, check_limits, decoder_batch_size, grids_of_layers
from sam2fast.amg.utils import (
    MaskData,
    area_from_rle,
    batch_iterator,
    box_xyxy_to_xywh,
    coco_encode_rle,
    generate_crop_boxes,
    is_box_near_crop_edge,
    rle_to_mask,
    uncrop_boxes_xyxy,
    uncrop_points,
    zeros_if_empty,
)
from sam2fast.compat.amg_hooks import AMGHooks
from sam2fast.kernels.mask_ops import mask_statistics
from sam2fast.kernels.nms import box_nms
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.prompt_inputs import LOGIT_LIMIT
from sam2fast.sam2_image_predictor import NAN_SCORES, SAM2ImagePredictor
from sam2fast.transforms import ImageLike, to_pixels
from sam2fast.utils.async_copies import copy_to_device

# Maps an output mode to the function that converts uncompressed run lengths.
OUTPUT_MODES: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "binary_mask": rle_to_mask,
    "uncompressed_rle": lambda rle: rle,
    "coco_rle": coco_encode_rle,
}
Progress = bool | Callable[[int, int], Any]


class SAM2AutomaticMaskGenerator(AMGHooks):
    """Generates masks for an entire image.

    Prompts the model with a grid of points over the image, filters low-quality masks, and removes duplicates by
    non-maximum suppression (NMS). Names, defaults, results and their order match
    ``sam2.automatic_mask_generator.SAM2AutomaticMaskGenerator``. A subclass may override the official methods. The
    class is thread-safe: calls from several threads run one after another.

    Args:
        model: SAM 2 model. The generator uses the model's device and dtype.
        points_per_side: Number of points along one side of the grid. None if ``point_grids`` is given.
        points_per_batch: Maximum number of points per decoder call, see
            :func:`~sam2fast.amg.parameters.decoder_batch_size`.
        pred_iou_thresh: Predicted IoU above which masks are kept. 0 keeps all masks.
        stability_score_thresh: Minimum stability score of kept masks. 0 keeps all masks. The score is the IoU between
            the masks at ``mask_threshold`` plus and minus ``stability_score_offset``.
        stability_score_offset: Shift of the threshold for the stability score, in logits.
        mask_threshold: Logit above which a pixel belongs to a mask.
        box_nms_thresh: Box IoU above which NMS removes the mask with the lower predicted IoU.
        crop_n_layers: Number of additional layers of image crops. Layer i has ``2**i`` by ``2**i`` crops.
        crop_nms_thresh: Box IoU above which NMS between crops removes the mask of the larger crop.
        crop_overlap_ratio: Overlap of the first layer's crops, as a fraction of the image's shorter side.
        crop_n_points_downscale_factor: Divisor of the number of points for crop layers. Layer i has
            ``points_per_side / factor**i`` points per side.
        point_grids: Grids to use instead of ``points_per_side``. Each layer has ``(N, 2)`` points (x, y) in [0, 1].
        min_mask_region_area: Maximum area of holes and islands to remove, in low-resolution pixels. 0 removes nothing.
        output_mode: Format of the masks: ``binary_mask``, ``uncompressed_rle`` or ``coco_rle``.
        use_m2m: If True, refines each mask by one more prediction with the mask as a prompt.
        multimask_output: If True, predicts three masks per point instead of one.
        progress: If True, shows a progress bar. A function is called with (points done, total) after each batch.
        **kwargs: Ignored, as in the official package.

    Raises:
        ValueError: If a parameter is invalid.
    """

    def __init__(
        self,
        model: SAM2Base,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.8,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        mask_threshold: float = 0.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: list[np.ndarray] | None = None,
        min_mask_region_area: int = 0,
        output_mode: str = "binary_mask",
        use_m2m: bool = False,
        multimask_output: bool = True,
        *,
        progress: Progress = False,
        **kwargs: Any,
    ) -> None:
        check_integers(points_per_batch=(points_per_batch, 1), crop_n_layers=(crop_n_layers, 0))
        check_limits(
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=stability_score_thresh,
            mask_threshold=mask_threshold,
            box_nms_thresh=box_nms_thresh,
            crop_nms_thresh=crop_nms_thresh,
        )
        check_limits(least=0, stability_score_offset=stability_score_offset, min_mask_region_area=min_mask_region_area)
        check_limits(least=1, crop_n_points_downscale_factor=crop_n_points_downscale_factor)
        check_limits(least=0, most=1, crop_overlap_ratio=crop_overlap_ratio)
        if not isinstance(output_mode, str) or output_mode not in OUTPUT_MODES:
            raise ValueError(f"output_mode must be one of {', '.join(OUTPUT_MODES)}; got {output_mode!r}")
        if not (isinstance(progress, bool) or callable(progress)):
            raise ValueError(f"progress must be True, False or a function, got {progress!r}")
        self.point_grids = grids_of_layers(points_per_side, point_grids, crop_n_layers, crop_n_points_downscale_factor)
        self.predictor = SAM2ImagePredictor(
            model, max_hole_area=min_mask_region_area, max_sprinkle_area=min_mask_region_area
        )
        self._points_per_side = points_per_side
        self.points_per_batch = points_per_batch
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.stability_score_offset = stability_score_offset
        self.mask_threshold = mask_threshold
        self.box_nms_thresh = box_nms_thresh
        self.crop_n_layers = crop_n_layers
        self.crop_nms_thresh = crop_nms_thresh
        self.crop_overlap_ratio = crop_overlap_ratio
        self.crop_n_points_downscale_factor = crop_n_points_downscale_factor
        self.min_mask_region_area = min_mask_region_area
        self.output_mode = output_mode
        self.use_m2m = use_m2m
        self.multimask_output = multimask_output
        self.progress = progress
        self._report: Callable[[int], None] | None = None  # receives the number of finished points
        self._has_nan: bool | Tensor = False  # True if the current image has NaN scores
        self._locks: dict[int, threading.RLock] = {}  # by process id, because forked processes may inherit a held lock

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_locks": {}}  # locks cannot be pickled

    @property
    def _lock(self) -> threading.RLock:
        return self._locks.get(os.getpid()) or self._locks.setdefault(os.getpid(), threading.RLock())

    @classmethod
    def from_pretrained(cls, model_id: str | Path, **kwargs: Any) -> "SAM2AutomaticMaskGenerator":
        """Loads a model and returns a generator with this model.

        Args:
            model_id: Model to load: ``sam2fast/mini`` or ``sam2fast/nano`` from the package, a Hugging Face id, or a
                local checkpoint. See :func:`~sam2fast.build_sam.build_sam2_hf`.
            **kwargs: Arguments of ``build_sam2_hf`` and the constructor.
        """
        return cls(resolve_name("sam2fast.build_sam.build_sam2_hf")(model_id, **kwargs), **kwargs)

    @torch.no_grad()
    def generate(self, image: ImageLike) -> list[dict[str, Any]]:
        """Generates masks for an image.

        A failed call leaves the generator unchanged.

        Args:
            image: RGB image of any type that :func:`sam2fast.transforms.to_pixels` accepts.

        Returns:
            A list of records, one per mask, in descending order of predicted IoU. With crops, masks of the smallest
            crops come first, and the order holds within each crop. Each record has the keys:

            - ``segmentation``: the mask, a bool array ``(H, W)`` or run lengths, according to ``output_mode``
            - ``area``: the area of the mask in pixels
            - ``bbox``: the box around the mask, [x, y, width, height] in pixels (width 0 for one pixel)
            - ``predicted_iou``: the IoU of the mask as predicted by the model
            - ``stability_score``: the stability score of the mask
            - ``point_coords``: [[x, y]], the point prompt of the mask
            - ``crop_box``: [x, y, width, height] of the crop that the mask was generated from

        Raises:
            ImageError, FileNotFoundError, TypeError: If the image cannot be used.
        """
        # Converts to an array, because a tensor with H = 3 could be mistaken for a tensor with channels first.
        pixels = to_pixels(image).cpu().numpy()
        with self._lock, self._reporting(images=1):
            self._has_nan = False
            data = self._generate_masks(pixels)
            if self._has_nan:
                warnings.warn(f"{NAN_SCORES}; such masks do not pass the thresholds", stacklevel=3)
        segmentation = OUTPUT_MODES[self.output_mode]
        return [
            {
                "segmentation": segmentation(data["rles"][i]),
                "area": area_from_rle(data["rles"][i]),
                "bbox": box_xyxy_to_xywh(data["boxes"][i]).tolist(),
                "predicted_iou": data["iou_preds"][i].item(),
                "point_coords": [data["points"][i].tolist()],
                "stability_score": data["stability_score"][i].item(),
                "crop_box": box_xyxy_to_xywh(data["crop_boxes"][i]).tolist(),
            }
            for i in range(len(data["rles"]))
        ]

    def generate_batch(self, images: Sequence[ImageLike]) -> list[list[dict[str, Any]]]:
        """Calls :meth:`generate` for each image of a list. Shows one progress bar for all images.

        Raises:
            TypeError: If ``images`` is not a list or tuple, or an image has an unsupported type.
            ImageError, FileNotFoundError: If an image cannot be used.
        """
        if not isinstance(images, list | tuple):
            raise TypeError(f"expected a list of images, got {type(images).__name__}")
        with self._lock, self._reporting(len(images)):
            return [self.generate(image) for image in images]

    @contextmanager
    def _reporting(self, images: int) -> Iterator[None]:
        """Reports the progress of ``images`` images if ``progress`` is set.

        If ``crop_n_layers`` was increased after construction, adds the missing grids of crop layers.
        """
        if self.crop_n_layers >= len(self.point_grids):
            point_grids = self.point_grids if self._points_per_side is None else None
            settings = self.crop_n_layers, self.crop_n_points_downscale_factor
            grids = grids_of_layers(self._points_per_side, point_grids, *settings)
            self.point_grids = [*self.point_grids, *grids[len(self.point_grids) :]]
        if self.progress is False or self._report is not None:
            yield
            return
        layers = enumerate(self.point_grids[: self.crop_n_layers + 1])
        total, done = images * sum(4**layer * len(grid) for layer, grid in layers), 0
        with tqdm(total=total, unit="point", disable=callable(self.progress)) as bar:

            def report(points: int) -> None:
                nonlocal done
                done += points
                bar.update(points)
                if callable(self.progress):
                    self.progress(done, total)

            self._report = report
            try:
                yield
            finally:
                self._report = None

    def _generate_masks(self, image: np.ndarray) -> MaskData:
        """Generates the masks of an image ``(H, W, 3)``. Coordinates are in pixels of the image.

        Returns:
            A list ``rles`` (uncompressed), and arrays ``boxes`` XYXY, ``iou_preds``, ``stability_score``, ``points``
            and ``crop_boxes`` XYXY.
        """
        size = (image.shape[0], image.shape[1])
        crops = list(zip(*generate_crop_boxes(size, self.crop_n_layers, self.crop_overlap_ratio), strict=True))
        data = MaskData()
        for box, layer in crops:
            if box[0] < box[2] and box[1] < box[3]:
                data.cat(self._process_crop(image, box, layer, size))
            elif self._report:
                self._report(len(self.point_grids[layer]))
        if len(crops) > 1:
            x0, y0, x1, y1 = data["crop_boxes"].unbind(1)
            smaller_first = (1 / ((x1 - x0) * (y1 - y0))).to(data["boxes"].device)
            data.filter(box_nms(data["boxes"].float(), smaller_first, self.crop_nms_thresh))
        data.to_numpy()
        return data

    def _process_crop(
        self, image: np.ndarray, crop_box: list[int], crop_layer_idx: int, orig_size: tuple[int, ...]
    ) -> MaskData:
        """Computes :meth:`_generate_masks` for one crop. Returns tensors of the masks after NMS, best mask first."""
        x0, y0, x1, y1 = crop_box
        crop = Crop((x0, y0, x1, y1), (orig_size[0], orig_size[1]))
        points = self.point_grids[crop_layer_idx] * np.array([x1 - x0, y1 - y0])
        try:
            self.predictor.set_image(image[y0:y1, x0:x1])
            masks_of = self._masks_of_batches if self._overridden("_process_batch") else self._masks
            data = masks_of(points, crop)
        finally:
            try:
                self.predictor.reset_predictor()
            except KeyboardInterrupt:  # the reset may be incomplete
                self.predictor.reset_predictor()
                raise
        data["boxes"] = uncrop_boxes_xyxy(data["boxes"], crop_box)
        data["points"] = uncrop_points(data["points"], crop_box)
        data["crop_boxes"] = torch.tensor([crop_box] * len(data["rles"]), dtype=torch.int64).reshape(-1, 4)
        return data

    def _masks(self, points: np.ndarray, crop: Crop) -> MaskData:
        """Returns the masks of ``points (P, 2)`` after NMS. All coordinates are in pixels of the crop."""
        buffer = CandidateBuffer(crop, self.mask_threshold, self.predictor.device)
        for batch in self._batches(points):
            buffer.add(self._candidates(batch, crop)[0])
        candidates = buffer.columns()
        keep = box_nms(candidates.boxes.float(), candidates.iou_preds, self.box_nms_thresh)
        return candidates.select(keep).mask_data(buffer.take(keep))

    def _batches(self, points: np.ndarray) -> Iterator[np.ndarray]:
        """Yields the points in batches for the decoder, and reports the progress after each batch."""
        for (batch,) in batch_iterator(decoder_batch_size(self.points_per_batch, self.predictor.model), points):
            yield batch
            if self._report:
                self._report(len(batch))

    def _candidates(self, points: np.ndarray, crop: Crop, normalize: bool = True) -> tuple[Candidates, Tensor]:
        """Predicts C masks per point. Returns the masks that pass the filters, and all logits ``(P * C, h, w)``."""
        predictor, transforms = self.predictor, self.predictor._transforms
        in_crop = torch.as_tensor(points, dtype=torch.float32, device="cpu")
        in_input = transforms.transform_coords(in_crop, normalize, crop.size)
        xy, coords = (copy_to_device(x, predictor.device) for x in (in_crop, in_input))
        low_res, ious = self._predict(coords, None, self.multimask_output)
        C = ious.shape[1]
        low_res, ious, xy = low_res.flatten(0, 1), ious.flatten(), xy.repeat_interleave(C, dim=0)
        logits = low_res
        if self.use_m2m:
            logits, ious = self._refined(coords.repeat_interleave(C, dim=0), low_res)
        self._has_nan = self._has_nan | ious.isnan().any()
        rows = torch.arange(len(ious), device=ious.device)
        if self.pred_iou_thresh > 0:
            rows = rows[ious > self.pred_iou_thresh]
        # The following steps process only the selected masks, and create no logits at the crop's size.
        logits = transforms.cleaned(logits[rows][None])[0]
        counts = mask_statistics(logits, crop.size, self.mask_threshold, self.stability_score_offset)
        boxes, stability = zeros_if_empty(counts.boxes), counts.above / counts.below
        height, width = crop.image_size
        keep = ~is_box_near_crop_edge(boxes, crop.box, [0, 0, width, height])
        if self.stability_score_thresh > 0:
            keep &= stability >= self.stability_score_thresh
        candidates = Candidates(logits, ious[rows].float(), xy[rows], stability, boxes, rows)
        return candidates.select(keep), low_res

    def _predict(self, coords: Tensor, mask_input: Tensor | None, multimask_output: bool) -> tuple[Tensor, Tensor]:
        """Returns logits ``(P, C, h, w)`` and IoUs ``(P, C)`` for P prompts of one point.

        Points ``coords (P, 2)`` are in input pixels. ``mask_input`` is None or logits ``(P, 1, h, w)``.
        """
        labels = torch.ones(len(coords), 1, dtype=torch.int32, device=coords.device)
        low_res, ious = self.predictor._predict_low_res(
            coords[:, None], labels, mask_input=mask_input, multimask_output=multimask_output
        )
        return low_res.float(), ious

    def _refined(self, coords: Tensor, low_res: Tensor) -> tuple[Tensor, Tensor]:
        """Refines masks by prompts of a point and ``low_res`` mask. Returns logits ``(N, h, w)`` and IoUs ``(N)``."""
        low_res = low_res.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        if self._overridden("refine_with_m2m"):
            labels = torch.ones(len(coords), dtype=torch.int32, device=coords.device)
            masks, ious = self.refine_with_m2m(coords, labels, low_res, self.points_per_batch)
            return masks.squeeze(1), ious.squeeze(1)
        count = decoder_batch_size(self.points_per_batch, self.predictor.model)
        batches = batch_iterator(count, coords, low_res)
        parts = [self._predict(points, masks[:, None], multimask_output=False) for points, masks in batches]
        logits, ious = (torch.cat(part)[:, 0] for part in zip(*parts, strict=True))
        return logits, ious
