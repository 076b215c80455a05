"""Losses on all predictions for a clip: every frame, every prompt and every mask of the multimask output.

Target masks that are not binary raise ``ValueError``. In loss classes, mismatched shapes raise ``ValueError``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.training.mask_sums import balanced_entropy_from_sums, dice_from_sums, focal_from_sums, mask_sums
from sam2fast.training.model import PredictedFrame

CORE_LOSS_KEY = "core_loss"
MIN_IOU = 1e-6  # minimum to which predicted IoUs are clamped before the logarithm


def _binary(targets: Tensor) -> Tensor:
    """Converts target masks to bool. Raises ``ValueError`` if targets are not binary."""
    if targets.dtype == torch.bool:
        return targets
    on = targets != 0
    if not torch.equal(on.to(targets.dtype), targets):
        raise ValueError("targets must be bool or have only the values 0 and 1")
    return on


def _pixels(inputs: Tensor, targets: Tensor, loss_on_multimask: bool) -> tuple[Tensor, Tensor]:
    if loss_on_multimask and not inputs.ndim == targets.ndim == 4:
        raise ValueError(
            f"with loss_on_multimask, inputs and targets are (O, M, H, W); "
            f"got {tuple(inputs.shape)} and {tuple(targets.shape)}"
        )
    start = 2 if loss_on_multimask else 1
    return inputs.flatten(start), _binary(targets).expand_as(inputs).flatten(start)


def dice_loss(inputs: Tensor, targets: Tensor, num_objects: float | Tensor, loss_on_multimask: bool = False) -> Tensor:
    """Computes one minus the soft Dice coefficient, smoothed by one pixel.

    Args:
        inputs: logits ``(O, ...)``, or ``(O, M, H, W)`` with ``loss_on_multimask``.
        targets: binary masks of a shape that expands to the shape of ``inputs``.
        num_objects: number of objects, by which the loss is divided.
        loss_on_multimask: if True, returns the losses ``(O, M)`` instead of a scalar.

    Source: ``training.loss_fns.dice_loss``.
    """
    x, y = _pixels(inputs, targets, loss_on_multimask)
    loss = dice_from_sums(mask_sums(x, y), y.sum(-1)) / num_objects
    return loss if loss_on_multimask else loss.sum()


def sigmoid_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    num_objects: float | Tensor,
    alpha: float = 0.25,
    gamma: float = 2,
    loss_on_multimask: bool = False,
) -> Tensor:
    """Computes the focal loss: cross entropy times the probability of the wrong class to the power ``gamma``.

    Args:
        inputs: logits ``(O, K, ...)``, averaged over K and summed over the rest, or ``(O, M, H, W)``, averaged over
            pixels.
        targets: binary masks of a shape that expands to the shape of ``inputs``.
        num_objects: number of objects, by which the loss is divided.
        alpha: weight of foreground pixels. Background pixels have weight ``1 - alpha``. If ``alpha`` is negative, all
            pixels have weight 1.
        gamma: exponent of the wrong class's probability; 0 gives cross entropy.
        loss_on_multimask: if True, returns the losses ``(O, M)`` instead of a scalar.

    Source: ``training.loss_fns.sigmoid_focal_loss``.
    """
    x, y = _pixels(inputs, targets, loss_on_multimask)
    loss = focal_from_sums(mask_sums(x, y, gamma), alpha) / num_objects
    return loss / x.shape[-1] if loss_on_multimask else loss.sum() / inputs.shape[1]


def _mask_ious(inputs: Tensor, targets: Tensor) -> Tensor:
    """Returns IoUs ``(O, M)`` of predicted masks (positive logits) and targets. IoUs of two empty masks are 0."""
    x, y = _pixels(inputs, targets, True)
    predicted = x > 0
    overlap = (predicted & y).sum(-1)
    union = predicted.sum(-1) + y.sum(-1) - overlap
    return overlap / union.clamp(min=1)


def iou_loss(
    inputs: Tensor,
    targets: Tensor,
    pred_ious: Tensor,
    num_objects: float | Tensor,
    loss_on_multimask: bool = False,
    use_l1_loss: bool = False,
) -> Tensor:
    """Computes the squared or absolute error of predicted IoUs against the actual IoUs of the predicted masks.

    Args:
        inputs: mask logits ``(O, M, H, W)``. Pixels with positive logits belong to the mask.
        targets: binary masks of a shape that expands to the shape of ``inputs``.
        pred_ious: predicted IoUs ``(O, M)``.
        num_objects: number of objects, by which the loss is divided.
        loss_on_multimask: if True, returns the losses ``(O, M)`` instead of a scalar.
        use_l1_loss: if True, uses the absolute instead of the squared error.

    Source: ``training.loss_fns.iou_loss``.
    """
    error = pred_ious - _mask_ious(inputs, targets)
    loss = (error.abs() if use_l1_loss else error.square()) / num_objects
    return loss if loss_on_multimask else loss.sum()


class MultiStepMultiMasksAndIous(nn.Module):
    """Sums the best mask's focal and Dice losses, the errors of predicted IoUs, and the focal loss of object scores.

    Loss terms are summed over frames, prediction steps and objects. Each sum is divided by the mean number of objects
    per rank. Loss terms are computed in fp32, even under autocast.

    Args:
        weight_dict: weights of the terms ``loss_mask`` (focal), ``loss_dice``, ``loss_iou`` and ``loss_class`` (default
            0).
        focal_alpha, focal_gamma: parameters of the focal loss of masks.
        supervise_all_iou: if True, uses the mean IoU error of all masks instead of the best mask's error.
        iou_use_l1_loss: if True, uses absolute instead of squared IoU errors.
        pred_obj_scores: if True, supervises object scores. All other loss terms are then 0 for invisible objects.
        focal_gamma_obj_score, focal_alpha_obj_score: parameters of the focal loss of object scores. The default
            parameters give cross entropy.

    Source: ``training.loss_fns.MultiStepMultiMasksAndIous``.
    """

    mask_terms: tuple[str, ...] = ("loss_mask", "loss_dice")

    def __init__(
        self,
        weight_dict: Mapping[str, float],
        focal_alpha: float = 0.25,
        focal_gamma: float = 2,
        supervise_all_iou: bool = False,
        iou_use_l1_loss: bool = False,
        pred_obj_scores: bool = False,
        focal_gamma_obj_score: float = 0.0,
        focal_alpha_obj_score: float = -1,
    ) -> None:
        super().__init__()
        terms = ("loss_mask", "loss_dice", "loss_iou", "loss_class")
        if missing := set(terms[:3]) - set(weight_dict):
            raise ValueError(f"weight_dict has no weight for {', '.join(sorted(missing))}")
        if unknown := set(weight_dict) - set(terms):
            raise ValueError(f"weight_dict has unknown entries {', '.join(sorted(unknown))}; known are {terms}")
        self.weight_dict = {"loss_class": 0.0, **weight_dict}
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.supervise_all_iou = supervise_all_iou
        self.iou_use_l1_loss = iou_use_l1_loss
        self.pred_obj_scores = pred_obj_scores
        self.focal_gamma_obj_score = focal_gamma_obj_score
        self.focal_alpha_obj_score = focal_alpha_obj_score

    def forward(self, outputs: Sequence[PredictedFrame | Mapping[str, Any]], targets: Tensor) -> dict[str, Tensor]:
        """Returns a dictionary of scalars: the unweighted loss terms, and the weighted sum ``core_loss`` of all terms.

        Args:
            outputs: predictions for T frames, as :class:`~sam2fast.training.model.PredictedFrame` or official
                dictionaries.
            targets: binary ground-truth masks ``(T, O, S, S)``.
        """
        if len(outputs) != len(targets):
            raise ValueError(f"{len(outputs)} predicted frames, but targets of {len(targets)}")
        weights = self.current_weights()
        num_objects: float | Tensor = max(1.0, float(targets.shape[1]))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            count = torch.tensor(float(targets.shape[1]), device=targets.device)
            torch.distributed.all_reduce(count)
            num_objects = (count / torch.distributed.get_world_size()).clamp(min=1)
        losses = {name: torch.zeros((), device=targets.device) for name in (*self.mask_terms, "loss_iou", "loss_class")}
        for frame, target in zip(outputs, _binary(targets), strict=True):
            for step in _steps(frame):
                for name, value in self._step(*step, target, weights).items():
                    losses[name] = losses[name] + value / num_objects
        total = torch.zeros((), device=targets.device)
        for name, weight in weights.items():
            # Skips loss terms with weight 0, because a term may be infinite.
            if weight != 0:
                total = total + weight * losses[name]
        return {**losses, CORE_LOSS_KEY: total}

    def current_weights(self) -> dict[str, float]:
        """Returns the current weight of every loss term."""
        return self.weight_dict

    def _step(
        self, masks: Tensor, ious: Tensor, scores: Tensor, target: Tensor, weights: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Computes the loss terms of a prediction step: masks ``(O, M, S, S)``, IoUs ``(O, M)``, scores ``(O, 1)``."""
        num_objects, M = ious.shape
        if masks.shape != (num_objects, M, *target.shape[1:]) or len(target) != num_objects:
            raise ValueError(
                f"masks {tuple(masks.shape)} and IoUs {tuple(ious.shape)} do not fit targets {tuple(target.shape)}"
            )
        pixels, truth = masks.flatten(2), target.flatten(1)
        area = truth.sum(1)
        iou_errors = self._iou_errors(masks, target[:, None], ious)
        rows = torch.arange(num_objects, device=masks.device)
        best = torch.zeros_like(rows)
        if M > 1:
            # Selects the best mask of each object without gradients. Only the loss of the best mask is computed with
            # gradients.
            with torch.no_grad():
                every = self._mask_losses(pixels, truth[:, None], area[:, None])
                best = sum(weights[name] * every[name] for name in self.mask_terms).argmin(1)  # type: ignore[union-attr]
        losses = self._mask_losses(pixels[rows, best] if M > 1 else pixels[:, 0], truth, area)
        average = self.supervise_all_iou and M > 1
        losses["loss_iou"] = iou_errors.mean(1) if average else iou_errors[rows, best]
        visible = area > 0
        if not self.pred_obj_scores:
            return {name: value.sum() for name, value in losses.items()}
        losses = {name: (value * visible).sum() for name, value in losses.items()}
        losses["loss_class"] = sigmoid_focal_loss(
            scores, visible[:, None], 1.0, self.focal_alpha_obj_score, self.focal_gamma_obj_score
        )
        return losses

    def _iou_errors(self, masks: Tensor, targets: Tensor, ious: Tensor) -> Tensor:
        """Returns the errors ``(O, M)`` of the predicted IoUs."""
        return iou_loss(masks, targets, ious, 1.0, True, self.iou_use_l1_loss)

    def _mask_losses(self, logits: Tensor, targets: Tensor, area: Tensor) -> dict[str, Tensor]:
        """Returns the loss terms ``mask_terms``, each ``(...)``, for logits ``(..., P)``.

        ``area`` is the target's area.
        """
        num_pixels, with_entropy = logits.shape[-1], "loss_bce" in self.mask_terms
        sums = mask_sums(logits, targets, self.focal_gamma, with_entropy)
        focal = focal_from_sums(sums, self.focal_alpha) / num_pixels
        losses = {"loss_mask": focal, "loss_dice": dice_from_sums(sums, area)}
        if with_entropy:
            losses["loss_bce"] = sums[..., 2, :].sum(-1) / num_pixels
            losses["loss_balanced_bce"] = balanced_entropy_from_sums(sums, area, num_pixels)
        return losses


class FromScratchLoss(MultiStepMultiMasksAndIous):
    """Adds cross entropy terms to :class:`MultiStepMultiMasksAndIous`, for training from scratch.

    In training from scratch with the official focal loss, the model predicts empty masks, because the few foreground
    pixels have little weight. Balanced cross entropy weights foreground and background equally. The weight of balanced
    cross entropy should decay, because balanced cross entropy makes masks too large.

    Args:
        bce_weight: weight of ``loss_bce``, the cross entropy averaged over all pixels.
        balanced_bce_weight: weight of the balanced cross entropy (``loss_balanced_bce``), which is the mean of the
            average over foreground pixels and the average over background pixels. The average over an empty foreground
            or background is 0.
        balanced_bce_until: completed fraction of the training at which the linear decay of ``balanced_bce_weight``
            reaches 0. The fraction must be positive. If it is infinite, the weight does not decay.
        iou_entropy: if True, the error of a predicted IoU is the KL divergence between actual and predicted IoU.
            Gradients of absolute and squared errors vanish if predicted IoUs saturate at 0 early in the training.
        weight_dict, **kwargs: arguments of :class:`MultiStepMultiMasksAndIous`.

    Attributes:
        where: completed fraction of the training in [0, 1], set by the trainer.
    """

    mask_terms = ("loss_mask", "loss_dice", "loss_bce", "loss_balanced_bce")

    def __init__(
        self,
        weight_dict: Mapping[str, float],
        bce_weight: float = 0.0,
        balanced_bce_weight: float = 0.0,
        balanced_bce_until: float = float("inf"),
        iou_entropy: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(weight_dict, **kwargs)
        if not balanced_bce_until > 0:
            raise ValueError(f"balanced_bce_until must be positive, got {balanced_bce_until}")
        self.bce_weight = bce_weight
        self.balanced_bce_weight = balanced_bce_weight
        self.balanced_bce_until = balanced_bce_until
        self.iou_entropy = iou_entropy
        self.where = 0.0

    def current_weights(self) -> dict[str, float]:
        left = max(0.0, 1 - self.where / self.balanced_bce_until)
        return {
            **self.weight_dict,
            "loss_bce": self.bce_weight,
            "loss_balanced_bce": self.balanced_bce_weight * left,
        }

    def _iou_errors(self, masks: Tensor, targets: Tensor, ious: Tensor) -> Tensor:
        if not self.iou_entropy:
            return super()._iou_errors(masks, targets, ious)
        truth = _mask_ious(masks, targets)
        predicted = ious.to(torch.promote_types(ious.dtype, torch.float32)).clamp(MIN_IOU, 1 - MIN_IOU)
        cross = -(truth * predicted.log() + (1 - truth) * (1 - predicted).log())
        return cross + torch.xlogy(truth, truth) + torch.xlogy(1 - truth, 1 - truth)


def balanced_bce_and_dice(inputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the sum ``(...)`` of balanced cross entropy and Dice loss. Foreground and background have equal weight.

    Args:
        inputs: logits ``(..., H, W)``.
        targets: binary masks of the shape of ``inputs``.
    """
    x, y = inputs.flatten(-2), _binary(targets).flatten(-2)
    sums, area = mask_sums(x, y, with_entropy=True), y.sum(-1)
    return balanced_entropy_from_sums(sums, area, x.shape[-1]) + dice_from_sums(sums, area)


def _steps(frame: PredictedFrame | Mapping[str, Any]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Returns masks, IoUs and object scores of each prediction step."""
    if isinstance(frame, Mapping):
        masks = frame["multistep_pred_multimasks_high_res"]
        ious, scores = frame["multistep_pred_ious"], frame["multistep_object_score_logits"]
    else:
        masks, ious, scores = frame.multimasks_high_res, frame.ious, frame.object_scores
    if not len(masks) == len(ious) == len(scores):
        raise ValueError(f"{len(masks)} steps of masks, {len(ious)} of IoUs, {len(scores)} of object scores")
    return list(zip(masks, ious, scores, strict=True))


class AtResolution(nn.Module):
    """Computes the loss of another module on masks of ``size`` x ``size`` pixels.

    The side of the decoder's masks is a quarter of the image's side. For small models, computing the loss at the
    image's resolution takes as long as the model. If ``size`` is half the image's side, accuracy hardly changes.

    Args:
        loss: loss module that is applied to the resized masks.
        size: side in pixels of the masks on which the loss is computed. The images' side must be a multiple of
            ``size``.
    """

    def __init__(self, loss: nn.Module, size: int) -> None:
        super().__init__()
        self.loss, self.size = loss, size

    def forward(self, frames: Sequence[PredictedFrame], masks: Tensor) -> dict[str, Tensor]:
        """Computes the loss of predicted frames against ground-truth ``masks (T, O, S, S)``."""
        if masks.shape[-1] < self.size or masks.shape[-1] % self.size:
            raise ValueError(f"masks of {masks.shape[-1]} pixels cannot be sampled at {self.size}")
        options: dict[str, Any] = {"size": (self.size, self.size), "mode": "bilinear", "align_corners": False}
        resized = [[F.interpolate(m, **options) for m in frame.multimasks] for frame in frames]
        smaller = [replace(frame, multimasks_high_res=m) for frame, m in zip(frames, resized, strict=True)]
        return self.loss(smaller, sample_masks(masks, self.size))


def sample_masks(masks: Tensor, size: int) -> Tensor:
    """Samples ``masks (..., S, S)`` at the centres of ``size`` x ``size`` cells.

    If a cell's side is even, the cell's centre lies between four pixels. Cells alternately take the upper left and the
    lower right of the four pixels, in a chessboard pattern, so that outlines are not shifted.
    """
    stride = masks.shape[-1] // size
    before, after = (stride - 1) // 2, stride // 2
    cell = torch.arange(size, device=masks.device)
    chequered = (cell[:, None] + cell) % 2 == 0
    first, second = (masks[..., start::stride, start::stride] for start in (before, after))
    return torch.where(chequered, first, second)
