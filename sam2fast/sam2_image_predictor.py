"""Predicts masks for images from point, box and mask prompts."""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from sam2fast.engine import replay
from sam2fast.image_features import Features, encode_images, facts_of
from sam2fast.kernels.preprocess import MEAN, STD
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.prompt_inputs import (
    LOGIT_LIMIT,
    PromptWarning,
    check_batches,
    check_boxes,
    check_counts,
    check_mask_input,
    check_output_mode,
    check_points,
    grouped_by_points,
    in_order,
    joined_points,
)
from sam2fast.transforms import ImageLike, SAM2Transforms, unpacked_on_host
from sam2fast.utils.async_copies import copy_to_device, copy_to_host, to_numpy
from sam2fast.utils.thread_guard import CallGuard, exclusive, limit_threads_after_fork, shared

Prompt: TypeAlias = ArrayLike | Tensor
COPIES_BITS = ("cuda",)  # device types with masks copied as packed bits; on the CPU, packing takes longer than copying
NAN_SCORES = "the model's scores are NaN: its weights are damaged (training diverged?), or float16 overflows"


class SAM2ImagePredictor:
    """Computes the embedding of an image once. Predicts masks for any number of prompts on the image.

    Names, defaults, results and dtypes match ``sam2.sam2_image_predictor.SAM2ImagePredictor``.

    Several threads may predict at the same time. Threads with different images use :meth:`encode`. Setting an image
    during another thread's call, or predicting while another thread sets an image, raises
    :class:`~sam2fast.utils.thread_guard.ConcurrentUseError`. If the other thread replaced the image, later predictions
    of the thread with the error raise the error again, until any thread sets an image. Predictors may share a model.

    Args:
        sam_model: SAM 2 model for mask prediction. The predictor uses the model's device and dtype.
        mask_threshold: Threshold that converts mask logits to binary masks.
        max_hole_area: Maximum area of holes to fill, in low-resolution pixels. 0 fills no holes.
        max_sprinkle_area: Maximum area of sprinkles to remove, in low-resolution pixels. 0 removes no sprinkles.
        **kwargs: Ignored, as in the official package.

    Attributes:
        fast: Use of CUDA graphs, see :class:`~sam2fast.tracking.settings.TrackingModel`.
    """

    fast: bool | None = None

    def __init__(
        self,
        sam_model: SAM2Base,
        mask_threshold: float = 0.0,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.model = sam_model
        self.mask_threshold = mask_threshold
        # A custom model may lack these attributes, because the official predictor does not read them.
        mean, std = getattr(sam_model, "pixel_mean", MEAN), getattr(sam_model, "pixel_std", STD)
        areas = max_hole_area, max_sprinkle_area
        self._transforms = SAM2Transforms(sam_model.image_size, mask_threshold, *areas, mean, std)
        side = sam_model.image_size // getattr(sam_model, "backbone_stride", 16)
        self._bb_feat_sizes = [(scale * side,) * 2 for scale in (4, 2, 1)]
        self._is_image_set = self._is_batch = False
        self._features: dict[str, Any] | None = None
        self._orig_hw: Any = None  # sizes (H, W) of the original images
        self._prompt_warning, self.guard = PromptWarning(), CallGuard()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "guard"}  # a copy gets a new guard

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, guard=CallGuard())

    @classmethod
    def from_pretrained(cls, model_id: str | Path, **kwargs: Any) -> "SAM2ImagePredictor":
        """Loads a model and returns a predictor with this model.

        Args:
            model_id: Model to load: ``sam2fast/mini``, a Hugging Face id or a checkpoint. See
                ``build_sam.build_sam2_hf``.
            **kwargs: Arguments of ``build_sam2_hf`` and the constructor.
        """
        return cls(resolve_name("sam2fast.build_sam.build_sam2_hf")(model_id, **kwargs), **kwargs)

    @property
    def device(self) -> torch.device:
        """Returns the model's device."""
        return self.model.device

    @exclusive
    @torch.no_grad()
    def set_image(self, image: ImageLike) -> None:
        """Computes the embedding of an image, so that :meth:`predict` can predict masks.

        A failed call keeps the previous image.

        Args:
            image: RGB image of any type that :func:`sam2fast.transforms.to_pixels` accepts.

        Raises:
            ImageError, FileNotFoundError, TypeError: If the image cannot be used.
        """
        self._keep(*encode_images([image], self.model, self._transforms, self.fast), is_batch=False)

    @torch.no_grad()
    def encode(self, image: ImageLike) -> Features:
        """Returns the embedding of an image for :meth:`predict`. The current image of the predictor stays set.

        Any number of threads may encode images, and predict for different images, at the same time.

        :meth:`set_image` lists the arguments and exceptions.
        """
        limit_threads_after_fork()
        tensors, (size,) = encode_images([image], self.model, self._transforms, self.fast)
        return Features(tensors, size, facts_of(self.model), self.model)

    @exclusive
    @torch.no_grad()
    def set_image_batch(self, image_list: Sequence[ImageLike]) -> None:
        """Computes the embeddings of a batch of images, so that :meth:`predict_batch` can predict masks.

        Args:
            image_list: RGB images, which may differ in size.

        Raises:
            TypeError: If ``image_list`` is not a list or tuple.
            ValueError: If ``image_list`` is empty.
            ImageError, FileNotFoundError: If an image cannot be used.
        """
        if not isinstance(image_list, list | tuple):
            raise TypeError(f"expected a list of images, got {type(image_list).__name__}")
        if not image_list:
            raise ValueError("the list of images is empty")
        self._keep(*encode_images(image_list, self.model, self._transforms, self.fast), is_batch=True)

    def _keep(self, features: dict[str, Any], sizes: list[tuple[int, int]], is_batch: bool) -> None:
        # Assigned in a single statement, so that Ctrl-C cannot leave only some attributes changed.
        self._features, self._orig_hw, self._is_batch, self._is_image_set = features, sizes, is_batch, True
        self.guard.record_change()

    def get_image_embedding(self) -> Tensor:
        """Returns the embeddings ``(B, C, S / 16, S / 16)`` of the current images.

        Raises:
            RuntimeError: If no image is set.
        """
        return self._require_image()["image_embed"]

    @exclusive
    def reset_predictor(self) -> None:
        """Removes the current images and embeddings."""
        self._features, self._orig_hw, self._is_batch, self._is_image_set = None, None, False, False

    def release_recordings(self) -> None:
        """Frees the CUDA graphs of this model and the graphs' memory. Later calls capture new graphs if needed."""
        replay.release(self.model)

    def _require_image(self) -> dict[str, Any]:
        if self._features is None:
            raise RuntimeError("no image is set: call set_image or set_image_batch first")
        self.guard.check_change("image")
        return self._features

    def predict(
        self,
        point_coords: Prompt | None = None,
        point_labels: Prompt | None = None,
        box: Prompt | None = None,
        mask_input: Prompt | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
        *,
        output_mode: str = "float",
        features: Features | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predicts masks for the given input prompts, using the current image.

        A call takes one prompt or a batch of B prompts, as arrays, tensors or lists. B may be 0. As in the official
        package, a point outside the image or a call without prompts returns masks. The predictor warns once about such
        calls.

        Args:
            point_coords: Points (x, y) in pixels of the image, ``(N, 2)`` or ``(B, N, 2)``. If a list has one list
                per object, N may differ. Such a list gives the results of one call per object.
            point_labels: Labels ``(N)`` or ``(B, N)``: 1 foreground, 0 background, -1 padding, 2 and 3 box corners (top
                left, bottom right). As in the official package, padding changes the masks slightly.
            box: Box ``(4)`` or boxes ``(B, 4)``, XYXY in pixels of the image.
            mask_input: Low-resolution logits ``(1, 4h, 4h)`` or ``(B, 1, 4h, 4h)``, typically the third result of a
                previous call. h is the side of the embedding. Other square logits up to 256x256 are resized, because
                the logits may come from a model with another input size.
            multimask_output: If True, the model returns three masks. For ambiguous prompts such as a single click,
                three masks are better than one.
            return_logits: If True, returns unthresholded mask logits. Requires ``output_mode="float"``.
            normalize_coords: If False, the coordinates are in [0, 1] instead of in pixels.
            output_mode: Format of the masks. ``float`` returns fp32, as in the official package. ``bool`` returns bool.
                ``coco_rle`` returns an array ``(C)`` of COCO's compressed run lengths, and creates no full-size masks
                in memory. ``low_res`` returns bool ``(C, 4h, 4h)``, without resizing.
            features: Result of :meth:`encode` to use instead of the current image. Any number of threads may call
                ``predict`` with ``features`` at the same time.

        Returns:
            Three arrays: masks ``(C, H, W)`` of 0.0 and 1.0 at the image's size, predicted IoUs ``(C)`` in fp32, and
            low-resolution logits ``(C, 4h, 4h)`` in fp32 and [-32, 32]. The logits can be passed as ``mask_input`` to
            the next call. C is the number of masks. For a batch of B prompts, all arrays have a leading dimension B. If
            B is 1, the arrays have no such dimension.

        Raises:
            RuntimeError: If no image is set.
            ValueError: If a prompt has the wrong shape or values, or ``features`` belong to another model or device.
        """
        predictor = self
        if features is not None:
            features.check(self.model)
            predictor = copy.copy(self)  # with a new guard
            predictor._keep(features.tensors, [features.size], is_batch=False)
        prompts = point_coords, point_labels, box, mask_input
        with predictor.guard.begin_call(predictor, changes=False):
            return predictor._results(prompts, multimask_output, return_logits, normalize_coords, output_mode)

    @shared
    def predict_batch(
        self,
        point_coords_batch: Sequence[Prompt | None] | None = None,
        point_labels_batch: Sequence[Prompt | None] | None = None,
        box_batch: Sequence[Prompt | None] | None = None,
        mask_input_batch: Sequence[Prompt | None] | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
        *,
        output_mode: str = "float",
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """Predicts masks for each image of :meth:`set_image_batch`.

        Prompts are lists with one entry per image, in the format of :meth:`predict`. An entry may be None. For an image
        without objects, pass boxes ``(0, 4)`` or ``[]``. :meth:`predict` lists the other arguments.

        Returns:
            Three lists with one entry per image: masks ``(C, H_i, W_i)``, predicted IoUs ``(C)`` and low-resolution
            logits ``(C, 4h, 4h)``, as from :meth:`predict`. For a batch of B prompts, the arrays of an image have a
            leading dimension B. If B is 1, the arrays have no such dimension.

        Raises:
            RuntimeError: If no batch of images is set.
            TypeError: If prompts are not a list.
            ValueError: If a list does not have one entry per image, or a prompt has the wrong shape or values.
        """
        count = len(self._require_image()["image_embed"])
        if not self._is_batch:
            raise RuntimeError("predict_batch needs images set by set_image_batch; after set_image use predict")
        batches = point_coords_batch, point_labels_batch, box_batch, mask_input_batch
        check_batches(batches, count)
        how = multimask_output, return_logits, normalize_coords, output_mode
        results = [self._results(tuple(None if x is None else x[i] for x in batches), *how, i) for i in range(count)]
        masks, ious, low_res = (list(x) for x in zip(*results, strict=True))
        return masks, ious, low_res

    @torch.no_grad()
    def _results(
        self,
        prompts: tuple[Any, ...],
        multimask_output: bool,
        return_logits: bool,
        normalize_coords: bool,
        output_mode: str,
        img_idx: int = -1,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the results of :meth:`predict` for the image with index ``img_idx``, within a guarded call."""
        self._require_image()
        check_output_mode(output_mode, return_logits)
        size, threshold = self._orig_hw[img_idx], self.mask_threshold
        rows, parts = list[int](), []
        in_bits = self.device.type in COPIES_BITS and output_mode != "coco_rle" and not return_logits
        # If a user replaced `_predict` on the instance or the class, the replacement computes the masks.
        custom = getattr(self._predict, "__func__", self._predict) is not _UNCHANGED_PREDICT
        predict = self._predict if custom else self._predict_unguarded
        by_predict = output_mode in ("float", "bool") and (custom or not in_bits)
        for group in grouped_by_points(*prompts):
            mask, coords, labels, corners = self._prep_prompts(*group[1:], normalize_coords, img_idx)
            if by_predict:
                part = predict(coords, labels, corners, mask, multimask_output, return_logits, img_idx)
            else:
                low_res, ious = self._decode(coords, labels, corners, mask, multimask_output, img_idx)
                part = self._transforms.cleaned(low_res), ious, low_res.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
            rows += group.rows
            parts.append(part)
        masks, ious, low_res = (x.squeeze(0) for x in in_order(parts, rows))
        dtype = np.float32 if output_mode == "float" else np.bool_
        if in_bits and not by_predict:
            shape = masks.shape[-2:] if output_mode == "low_res" else size
            output_masks, low_res, ious = unpacked_on_host(masks, shape, threshold, dtype, low_res, ious)
        else:
            if output_mode == "coco_rle":
                output_masks = self._transforms.encode_cleaned(masks, size, threshold)
            else:
                output_masks = to_numpy((masks > threshold if output_mode == "low_res" else masks).cpu(), dtype)
            low_res, ious = copy_to_host(low_res, ious)
        scores = to_numpy(ious)
        if np.isnan(scores).any():
            warnings.warn(NAN_SCORES, stacklevel=4)
        return output_masks, scores, to_numpy(low_res)

    def _prep_prompts(
        self,
        point_coords: Any,
        point_labels: Any,
        box: Any,
        mask_logits: Any,
        normalize_coords: bool,
        img_idx: int = -1,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """Returns the validated mask, points, labels and box corners on the device, in input pixels."""
        size = self._orig_hw[img_idx]
        coords = labels = corners = mask = None
        if point_coords is not None or point_labels is not None:
            coords, labels = check_points(point_coords, point_labels, "point_coords", "point_labels")
            self._prompt_warning.check_points(coords, labels, size if normalize_coords else (1, 1))
            coords = self._transforms.transform_coords(coords, normalize_coords, size)
        if box is not None:
            corners = self._transforms.transform_boxes(check_boxes(box), normalize_coords, size)
        if mask_logits is not None:
            mask = check_mask_input(mask_logits, self.model.sam_prompt_encoder.mask_input_size, self.device)
        if coords is not None and corners is not None and coords.shape[:2] == (1, 0):
            coords = labels = None  # zero points are valid with any number of boxes
        check_counts(points=coords, box=corners, mask_input=mask)
        self._prompt_warning.check_any(coords, corners, mask)
        # Prompts are copied after all checks, because checking values on a GPU would synchronise with the GPU.
        prompts = coords, labels, corners
        coords, labels, corners = (x if x is None else copy_to_device(x, self.device) for x in prompts)
        return mask, coords, labels, corners

    def _predict_unguarded(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        img_idx: int = -1,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predicts masks for prompts as tensors, in pixels of the model's input. Does not check the prompts.

        Args:
            point_coords, point_labels: Points ``(B, N, 2)`` and labels ``(B, N)``.
            boxes: Boxes ``(B, 4)`` or corners ``(B, 2, 2)``.
            mask_input: Low-resolution logits ``(B or 1, 1, 4h, 4h)``.
            img_idx: Index of the image in the batch.

        Returns:
            Masks ``(B, C, H, W)`` as bool or logits, IoUs ``(B, C)``, and low-resolution logits ``(B, C, 4h, 4h)``.
        """
        low_res, ious = self._decode(point_coords, point_labels, boxes, mask_input, multimask_output, img_idx)
        size = self._orig_hw[img_idx]
        if return_logits:
            masks = self._transforms.postprocess_masks(low_res, size)
        else:
            masks = self._transforms.postprocess_to_bool(low_res, size, self.mask_threshold)
        return masks, ious, low_res.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)

    def _decode(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        img_idx: int = -1,
    ) -> tuple[Tensor, Tensor]:
        """Returns the decoder's raw logits ``(B, C, 4h, 4h)`` and IoUs ``(B, C)``. See :meth:`_predict`."""
        features = self._require_image()
        embedding = features["image_embed"][img_idx][None]
        points = joined_points(point_coords, point_labels, boxes)
        count = len(points[0]) if points is not None else 1 if mask_input is None else len(mask_input)
        if count == 0:
            C, size = 3 if multimask_output else 1, self.model.sam_prompt_encoder.mask_input_size
            return embedding.new_zeros(0, C, *size), embedding.new_zeros(0, C)
        levels = [level[img_idx][None] for level in features["high_res_feats"]]
        return replay.decode(self.model, self.fast, embedding, levels, points, mask_input, multimask_output)

    # Both are called from outside. Within guarded calls, the unguarded methods are called.
    _predict = shared(torch.no_grad()(_predict_unguarded))
    _predict_low_res = shared(torch.no_grad()(_decode))


_UNCHANGED_PREDICT = SAM2ImagePredictor._predict
