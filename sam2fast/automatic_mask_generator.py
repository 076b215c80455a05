"""Masks of everything in an image, from a grid of points."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sam2fast.amg.candidates import Candidates, Crop, Shortlist
from sam2fast.amg.decoder_batch_size import prompts_per_call
from sam2fast.amg.parameters import check_integers, check_limits, grids_of_layers
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
from sam2fast.compat.amg_hooks import OverridableSteps
from sam2fast.kernels.mask_ops import mask_statistics
from sam2fast.kernels.nms import box_nms
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.prompt_inputs import LOGIT_LIMIT
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.transforms import ImageLike, to_pixels

# How a record's segmentation is made of uncompressed run lengths.
OUTPUT_MODES: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "binary_mask": rle_to_mask,
    "uncompressed_rle": lambda rle: rle,
    "coco_rle": coco_encode_rle,
}
Progress = bool | Callable[[int, int], Any]


class SAM2AutomaticMaskGenerator(OverridableSteps):
    """Prompts the model with each point of a grid, and keeps the good masks, each once.

    Names, defaults, results and their order are those of ``sam2.automatic_mask_generator.SAM2AutomaticMaskGenerator``,
    and methods may be overridden as there. Calls from several threads take turns.

    Args:
        model: the model; computes where and in what it was built.
        points_per_side: of the grid; None with ``point_grids``.
        points_per_batch: points that the decoder answers together, at most; see :func:`prompts_per_call`.
        pred_iou_thresh: masks stay if their predicted IoU is greater; 0 for all.
        stability_score_thresh: masks stay if their stability score is at least this; 0 for all. The score is the IoU of
            the mask cut ``stability_score_offset`` above the threshold and as much below.
        stability_score_offset: in logits.
        mask_threshold: logit above which a pixel belongs to a mask.
        box_nms_thresh: of two masks whose boxes overlap by a greater IoU, only the one predicted better stays.
        crop_n_layers: layers of crops that are searched besides the whole image; layer i has ``2**i`` by ``2**i``.
        crop_nms_thresh: as ``box_nms_thresh``, between crops; the smaller crop's mask stays.
        crop_overlap_ratio: of the first layer's crops, as a share of the image's shorter side.
        crop_n_points_downscale_factor: layer i has ``points_per_side / factor**i`` points per side.
        point_grids: instead of ``points_per_side``, points ``(N, 2)`` (x, y) in [0, 1] for each layer.
        min_mask_region_area: holes and islands of at most so many low-resolution pixels go; 0 for none.
        output_mode: ``binary_mask``, ``uncompressed_rle`` or ``coco_rle``.
        use_m2m: each mask is predicted once more, with itself as a prompt, before the filters.
        multimask_output: three masks of each point rather than one.
        progress: True shows a bar; a function is called with the points done and their number after each batch.
        **kwargs: ignored, as in the original.

    Raises:
        ValueError: a parameter cannot be used.
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
        self._report: Callable[[int], None] | None = None  # takes points that are done, while something is generated
        self._turns: dict[int, threading.RLock] = {}  # by process: a fork leaves behind the thread whose turn it is

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_turns": {}}  # a lock has no copy

    @property
    def _turn(self) -> threading.RLock:
        return self._turns.get(os.getpid()) or self._turns.setdefault(os.getpid(), threading.RLock())

    @classmethod
    def from_pretrained(cls, model_id: str | Path, **kwargs: Any) -> "SAM2AutomaticMaskGenerator":
        """A generator for ``sam2fast/nano``, which is in the package, a model of the hub, or a checkpoint at hand.

        ``kwargs`` go to :func:`~sam2fast.build_sam.build_sam2_hf` and to the constructor.
        """
        from sam2fast.build_sam import build_sam2_hf

        return cls(build_sam2_hf(model_id, **kwargs), **kwargs)

    @torch.no_grad()
    def generate(self, image: ImageLike) -> list[dict[str, Any]]:
        """Finds the masks of one image.

        If it fails, the generator is as it was.

        Args:
            image: RGB; see :func:`sam2fast.transforms.to_pixels` for everything accepted.

        Returns:
            A record per mask, those with the best predicted IoU first; with crops, the smallest crops' first. Its keys:

            - ``segmentation``: bool array ``(H, W)``, or the run lengths that ``output_mode`` asks for
            - ``area``: its pixels
            - ``bbox``: [x, y, width, height] in pixels; both ends are inside, so one pixel has width 0
            - ``predicted_iou``, ``stability_score``: what was compared with the thresholds
            - ``point_coords``: [[x, y]], the point that gave the mask
            - ``crop_box``: [x, y, width, height] of the crop that the mask was found in

        Raises:
            ImageError, FileNotFoundError, TypeError: the image cannot be used.
        """
        # An array, since a tensor of three rows could be taken for one with its channels first.
        pixels = to_pixels(image).cpu().numpy()
        with self._turn, self._reporting(images=1):
            data = self._generate_masks(pixels)
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
        """:meth:`generate` for each of a list of images, with one progress for all.

        Raises:
            TypeError: no list, or one of the images is of a type that cannot be used.
            ImageError, FileNotFoundError: one of the images cannot be used.
        """
        if not isinstance(images, list | tuple):
            raise TypeError(f"expected a list of images, got {type(images).__name__}")
        with self._turn, self._reporting(len(images)):
            return [self.generate(image) for image in images]

    @contextmanager
    def _reporting(self, images: int) -> Iterator[None]:
        """Inside, ``_report`` says how many points of so many images are done, if anyone wants to know."""
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
        """The masks of an image ``(H, W, 3)``, as arrays: ``rles`` (uncompressed, a list), ``boxes`` XYXY,
        ``iou_preds``, ``stability_score``, ``points`` and ``crop_boxes`` XYXY, all in pixels of the image.
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
        """The masks of one crop after NMS, best first: what :meth:`_generate_masks` returns, in tensors."""
        x0, y0, x1, y1 = crop_box
        crop = Crop((x0, y0, x1, y1), (orig_size[0], orig_size[1]))
        points = self.point_grids[crop_layer_idx] * np.array([x1 - x0, y1 - y0])
        try:
            self.predictor.set_image(image[y0:y1, x0:x1])
            data = (
                self._masks_of_batches(points, crop)
                if self._overridden("_process_batch")
                else self._masks(points, crop)
            )
        finally:
            try:
                self.predictor.reset_predictor()
            except KeyboardInterrupt:  # in the middle of it
                self.predictor.reset_predictor()
                raise
        data["boxes"] = uncrop_boxes_xyxy(data["boxes"], crop_box)
        data["points"] = uncrop_points(data["points"], crop_box)
        data["crop_boxes"] = torch.tensor([crop_box] * len(data["rles"]), dtype=torch.int64).reshape(-1, 4)
        return data

    def _masks(self, points: np.ndarray, crop: Crop) -> MaskData:
        """The masks that ``points (P, 2)`` give of the crop that the predictor has, after NMS; in the crop's pixels."""
        shortlist = Shortlist(crop, self.mask_threshold, self.predictor.device)
        for some in self._batches(points):
            shortlist.add(self._candidates(some, crop)[0])
        found = shortlist.columns()
        keep = box_nms(found.boxes.float(), found.iou_preds, self.box_nms_thresh)
        return found.select(keep).mask_data(shortlist.take(keep))

    def _batches(self, points: np.ndarray) -> Iterator[np.ndarray]:
        """The points, as many at a time as the decoder answers together; each batch is reported when it is done."""
        for (batch,) in batch_iterator(prompts_per_call(self.points_per_batch, self.predictor.model), points):
            yield batch
            if self._report:
                self._report(len(batch))

    def _candidates(self, points: np.ndarray, crop: Crop, normalize: bool = True) -> tuple[Candidates, Tensor]:
        """The masks of ``points (P, 2)`` that pass the filters, and the decoder's logits ``(P * C, h, w)`` of all."""
        predictor, transforms = self.predictor, self.predictor._transforms
        xy = torch.as_tensor(points, dtype=torch.float32, device=predictor.device)
        coords = transforms.transform_coords(xy, normalize, crop.size)
        low_res, ious = self._predict(coords, None, self.multimask_output)
        each = ious.shape[1]
        low_res, ious, xy = low_res.flatten(0, 1), ious.flatten(), xy.repeat_interleave(each, dim=0)
        logits = low_res
        if self.use_m2m:
            logits, ious = self._refined(coords.repeat_interleave(each, dim=0), low_res)
        rows = torch.arange(len(ious), device=ious.device)
        if self.pred_iou_thresh > 0:
            rows = rows[ious > self.pred_iou_thresh]
        # Everything from here on is done for these only; none of it makes logits of the crop's size.
        logits = transforms.cleaned(logits[rows][None])[0]
        counts = mask_statistics(logits, crop.size, self.mask_threshold, self.stability_score_offset)
        boxes, stability = zeros_if_empty(counts.boxes), counts.above / counts.below
        height, width = crop.image_size
        keep = ~is_box_near_crop_edge(boxes, crop.box, [0, 0, width, height])
        if self.stability_score_thresh > 0:
            keep &= stability >= self.stability_score_thresh
        found = Candidates(logits, ious[rows].float(), xy[rows], stability, boxes, rows)
        return found.select(keep), low_res

    def _predict(self, coords: Tensor, mask_input: Tensor | None, multimask_output: bool) -> tuple[Tensor, Tensor]:
        """Logits ``(P, C, h, w)`` and IoUs ``(P, C)`` of points ``coords (P, 2)``, one each, in input pixels."""
        labels = torch.ones(len(coords), 1, dtype=torch.int32, device=coords.device)
        low_res, ious = self.predictor._predict_low_res(
            coords[:, None], labels, mask_input=mask_input, multimask_output=multimask_output
        )
        return low_res.float(), ious

    def _refined(self, coords: Tensor, low_res: Tensor) -> tuple[Tensor, Tensor]:
        """The logits ``(N, h, w)`` and IoUs ``(N)`` of masks that are prompts themselves, beside their points."""
        low_res = low_res.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        if self._overridden("refine_with_m2m"):
            labels = torch.ones(len(coords), dtype=torch.int32, device=coords.device)
            masks, ious = self.refine_with_m2m(coords, labels, low_res, self.points_per_batch)
            return masks.squeeze(1), ious.squeeze(1)
        count = prompts_per_call(self.points_per_batch, self.predictor.model)
        batches = batch_iterator(count, coords, low_res)
        parts = [self._predict(some, masks[:, None], multimask_output=False) for some, masks in batches]
        logits, ious = (torch.cat(part)[:, 0] for part in zip(*parts, strict=True))
        return logits, ious
