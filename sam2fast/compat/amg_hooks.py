"""Implements overridable methods of the official automatic mask generator."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sam2fast.amg.candidates import Candidates, Crop, encode
from sam2fast.amg.utils import (
    MaskData,
    batch_iterator,
    batched_mask_to_box,
    mask_to_rle_pytorch,
    remove_small_regions,
    rle_to_mask,
)
from sam2fast.kernels.nms import box_nms
from sam2fast.prompt_inputs import LOGIT_LIMIT

if TYPE_CHECKING:
    from sam2fast.sam2_image_predictor import SAM2ImagePredictor


class AMGHooks:
    """Mixin of the automatic mask generator, with the official overridable methods.

    The generator calls a method of this mixin only if the method is overridden, and otherwise runs faster code. As in
    the official package, the generator never calls :meth:`postprocess_small_regions`.
    """

    if TYPE_CHECKING:
        predictor: SAM2ImagePredictor
        mask_threshold: float
        box_nms_thresh: float

        def _batches(self, points: np.ndarray) -> Iterator[np.ndarray]: ...
        def _candidates(self, points: np.ndarray, crop: Crop, normalize: bool = True) -> tuple[Candidates, Tensor]: ...

    def _overridden(self, name: str) -> bool:
        """Returns True if a subclass or an assignment replaced the method ``name``."""
        method = getattr(self, name)
        return getattr(method, "__func__", method) is not getattr(AMGHooks, name)

    def _masks_of_batches(self, points: np.ndarray, crop: Crop) -> MaskData:
        """Returns the masks of ``points (P, 2)`` on a crop after NMS, from an overridden :meth:`_process_batch`."""
        data = Candidates.none(self.predictor.device).mask_data([])
        for i, points_of_batch in enumerate(self._batches(points)):
            batch = self._process_batch(points_of_batch, crop.size, list(crop.box), crop.image_size, normalize=True)
            if i == 0:
                data = batch
            else:
                data.cat(batch)
        data.filter(box_nms(data["boxes"].float(), data["iou_preds"].float(), self.box_nms_thresh))
        return data

    def _process_batch(
        self,
        points: np.ndarray,
        im_size: tuple[int, ...],
        crop_box: list[int],
        orig_size: tuple[int, ...],
        normalize: bool = False,
    ) -> MaskData:
        """Predicts and filters the masks of a batch of points.

        If this method is not overridden, the generator encodes masks as RLEs only after NMS.

        Args:
            points: Points ``(P, 2)`` (x, y), in pixels of the crop if ``normalize``, else in [0, 1].
            im_size, orig_size: Sizes (H, W) of the crop and of the image.
            crop_box: Box of the crop in the image, XYXY.

        Returns:
            Data with ``rles`` in the image, ``boxes`` and ``points`` in the crop, ``iou_preds``, ``stability_score``,
            and the decoder's clamped ``low_res_masks (N, h, w)``.
        """
        crop = Crop((crop_box[0], crop_box[1], crop_box[2], crop_box[3]), (orig_size[0], orig_size[1]))
        candidates, low_res = self._candidates(points, crop, normalize)
        data = candidates.mask_data(encode(list(candidates.logits), crop, self.mask_threshold))
        data["low_res_masks"] = low_res[candidates.rows].clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        return data

    def refine_with_m2m(
        self, points: Tensor, point_labels: Tensor, low_res_masks: Tensor, points_per_batch: int
    ) -> tuple[Tensor, Tensor]:
        """Predicts each mask on the current image again, from the mask's logits and point.

        If this method is not overridden, the generator does not upsample the new masks to the crop's size.

        Args:
            points: Points ``(N, 2)`` in the model's input pixels.
            point_labels: Labels ``(N)``.
            low_res_masks: Logits ``(N, h, w)``.

        Returns:
            Logits ``(N, 1, H, W)`` and predicted IoUs ``(N, 1)``.
        """
        parts = [
            self.predictor._predict(
                coords[:, None], labels[:, None], mask_input=masks[:, None], multimask_output=False, return_logits=True
            )
            for coords, labels, masks in batch_iterator(points_per_batch, points, point_labels, low_res_masks)
        ]
        return torch.cat([masks for masks, _, _ in parts]), torch.cat([ious for _, ious, _ in parts])

    @staticmethod
    def postprocess_small_regions(mask_data: MaskData, min_area: int, nms_thresh: float) -> MaskData:
        """Removes small holes and islands from masks of the image's size, then removes duplicates by NMS.

        ``generate`` does not call this method, as in the official package.

        Args:
            mask_data: Data with ``rles`` (uncompressed) and ``boxes``, modified in place.
            min_area: Area in pixels below which a hole or an island is removed.
            nms_thresh: IoU threshold of NMS. Masks that did not change have priority.
        """
        if not len(mask_data["rles"]):
            return mask_data
        boxes, unchanged, changed_rles = [], [], {}
        for i, rle in enumerate(mask_data["rles"]):
            mask, filled = remove_small_regions(rle_to_mask(rle), min_area, mode="holes")
            mask, dropped = remove_small_regions(mask, min_area, mode="islands")
            pixels = torch.from_numpy(np.ascontiguousarray(mask))[None]
            boxes.append(batched_mask_to_box(pixels)[0])
            unchanged.append(float(not (filled or dropped)))
            if filled or dropped:
                changed_rles[i] = mask_to_rle_pytorch(pixels)[0]
        keep = box_nms(torch.stack(boxes).float(), torch.tensor(unchanged), nms_thresh)
        for i in keep.tolist():
            if i in changed_rles:
                mask_data["rles"][i] = changed_rles[i]
                mask_data["boxes"][i] = boxes[i]
        mask_data.filter(keep)
        return mask_data
