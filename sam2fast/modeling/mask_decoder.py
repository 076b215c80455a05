"""Masks, their predicted quality, and object tokens from image and prompt embeddings."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sam2fast.modeling.layers import MLP, Conv2d, ConvTranspose2d, LayerNorm2d, Linear


class MaskDecoder(nn.Module):
    """Predicts four masks (one for clear prompts, three for ambiguous ones) and selects among them.

    Source: ``sam2.modeling.sam.mask_decoder.MaskDecoder``.
    """

    # Parts that stay fp32 when the model's weights are cast, as they do under autocast.
    keep_fp32 = ("output_hypernetworks_mlps", "iou_prediction_head", "pred_obj_score_head")

    def __init__(
        self,
        *,
        transformer_dim: int,
        transformer: nn.Module,
        num_multimask_outputs: int = 3,
        activation: type[nn.Module] = nn.GELU,
        iou_head_depth: int = 3,
        iou_head_hidden_dim: int = 256,
        use_high_res_features: bool = False,
        iou_prediction_use_sigmoid: bool = False,
        dynamic_multimask_via_stability: bool = False,
        dynamic_multimask_stability_delta: float = 0.05,
        dynamic_multimask_stability_thresh: float = 0.98,
        pred_obj_scores: bool = False,
        pred_obj_scores_mlp: bool = False,
        use_multimask_token_for_obj_ptr: bool = False,
    ) -> None:
        super().__init__()
        C = transformer_dim
        self.transformer_dim = C
        self.transformer = transformer
        self.num_multimask_outputs = num_multimask_outputs
        self.num_mask_tokens = num_multimask_outputs + 1
        self.iou_token = nn.Embedding(1, C)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, C)
        self.pred_obj_scores = pred_obj_scores
        if pred_obj_scores:
            self.obj_score_token = nn.Embedding(1, C)
        self.use_multimask_token_for_obj_ptr = use_multimask_token_for_obj_ptr

        self.output_upscaling = nn.Sequential(
            ConvTranspose2d(C, C // 4, kernel_size=2, stride=2),
            LayerNorm2d(C // 4),
            activation(),
            ConvTranspose2d(C // 4, C // 8, kernel_size=2, stride=2),
            activation(),
        )
        self.use_high_res_features = use_high_res_features
        if use_high_res_features:
            self.conv_s0 = Conv2d(C, C // 8, kernel_size=1)
            self.conv_s1 = Conv2d(C, C // 4, kernel_size=1)
        self.output_hypernetworks_mlps = nn.ModuleList(MLP(C, C, C // 8, 3) for _ in range(self.num_mask_tokens))
        self.iou_prediction_head = MLP(
            C, iou_head_hidden_dim, self.num_mask_tokens, iou_head_depth, sigmoid_output=iou_prediction_use_sigmoid
        )
        if pred_obj_scores:
            self.pred_obj_score_head = MLP(C, C, 1, 3) if pred_obj_scores_mlp else Linear(C, 1)

        self.dynamic_multimask_via_stability = dynamic_multimask_via_stability
        self.dynamic_multimask_stability_delta = dynamic_multimask_stability_delta
        self.dynamic_multimask_stability_thresh = dynamic_multimask_stability_thresh

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
        repeat_image: bool,
        high_res_features: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predicts masks for each prompt.

        Args:
            image_embeddings: ``(B, C, H, W)``, or ``(1, C, H, W)`` for one image and B prompts.
            image_pe: ``(1, C, H, W)``.
            sparse_prompt_embeddings: ``(B, N, C)``.
            dense_prompt_embeddings: ``(B, C, H, W)`` or ``(1, C, H, W)``.
            multimask_output: three masks rather than one.
            repeat_image: accepted as in the original; a batch of one image always serves all prompts.
            high_res_features: ``(B or 1, C/8, 4H, 4W)`` and ``(B or 1, C/4, 2H, 2W)``.

        Returns:
            Mask logits ``(B, M, 4H, 4W)``, predicted IoUs ``(B, M)``, tokens for object pointers ``(B, M or 1, C)``,
            object score logits ``(B, 1)``.
        """
        masks, ious, mask_tokens, object_scores = self.predict_masks(
            image_embeddings,
            image_pe,
            sparse_prompt_embeddings,
            dense_prompt_embeddings,
            repeat_image,
            high_res_features,
        )
        use_multimask_tokens = multimask_output and self.use_multimask_token_for_obj_ptr
        tokens = mask_tokens[:, 1:] if use_multimask_tokens else mask_tokens[:, :1]
        if multimask_output:
            return masks[:, 1:], ious[:, 1:], tokens, object_scores
        if self.dynamic_multimask_via_stability and not self.training:
            masks, ious = self._best_if_unstable(masks, ious)
        return masks[:, :1], ious[:, :1], tokens, object_scores

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        repeat_image: bool,
        high_res_features: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All four masks, their IoUs, the mask tokens ``(B, 4, C)`` and the object scores; see :meth:`forward`.

        Raises:
            ValueError: the number of images is neither 1 nor the number of prompts.
        """
        B = len(sparse_prompt_embeddings)
        if len(image_embeddings) not in (1, B):
            raise ValueError(f"{len(image_embeddings)} images do not fit {B} prompts")
        own = [self.obj_score_token.weight] if self.pred_obj_scores else []
        own += [self.iou_token.weight, self.mask_tokens.weight]
        tokens = torch.cat([torch.cat(own).expand(B, -1, -1), sparse_prompt_embeddings.to(own[0].dtype)], dim=1)

        # The dense embedding without a mask prompt is one vector: one image then serves all prompts.
        dense = dense_prompt_embeddings
        if dense.stride(0) == 0:
            dense = dense[:1]
        source = image_embeddings + dense
        H, W = source.shape[-2:]
        tokens, source = self.transformer(source, image_pe, tokens)
        iou_token, mask_tokens = tokens[:, len(own) - 2], tokens[:, len(own) - 1 :][:, : self.num_mask_tokens]

        upscaled = self._upscale(source.transpose(1, 2).unflatten(2, (H, W)), high_res_features)
        # A few tokens' worth of work, on which hang mask logits, the choice among masks, and an object's presence.
        with torch.autocast(upscaled.device.type, enabled=False):
            weights = [mlp(mask_tokens[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)]
            masks = torch.stack(weights, dim=1).float() @ upscaled.float().flatten(2)
            ious = self.iou_prediction_head(iou_token)
            scores = self.pred_obj_score_head(tokens[:, 0]) if self.pred_obj_scores else ious.new_full((B, 1), 10.0)
        return masks.unflatten(2, upscaled.shape[-2:]), ious, mask_tokens, scores

    def _upscale(self, source: Tensor, high_res_features: Sequence[Tensor] | None) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C/8, 4H, 4W)``, adding the encoder's finer levels on the way."""
        if not self.use_high_res_features:
            return self.output_upscaling(source)
        assert high_res_features is not None
        finest, finer = high_res_features
        first, norm, act1, second, act2 = self.output_upscaling
        return act2(second(act1(norm(first(source) + finer))) + finest)

    def _best_if_unstable(self, masks: Tensor, ious: Tensor) -> tuple[Tensor, Tensor]:
        """The single mask, or where its outline is uncertain the best of the three: ``(B, 1, H, W)``, ``(B, 1)``."""
        best = ious[:, 1:].argmax(dim=1) + 1
        rows = torch.arange(len(ious), device=ious.device)
        stable = self._stability(masks[:, 0]) >= self.dynamic_multimask_stability_thresh
        chosen = torch.where(stable, 0, best)
        return masks[rows, chosen][:, None], ious[rows, chosen][:, None]

    def _stability(self, logits: Tensor) -> Tensor:
        """IoU ``(B)`` of each mask of ``logits (B, H, W)`` cut a little above and a little below zero."""
        delta = self.dynamic_multimask_stability_delta
        inner = (logits > delta).sum(dim=(1, 2)).float()
        outer = (logits > -delta).sum(dim=(1, 2)).float()
        return torch.where(outer > 0, inner / outer, 1.0)
