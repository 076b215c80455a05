"""The mask decoder. Converts image and prompt embeddings to masks, predicted IoUs and object tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sam2fast.modeling.layers import MLP, LayerNorm2d
from sam2fast.modeling.two_way_transformer import TwoWayTransformer


class MaskDecoder(nn.Module):
    """Predicts four masks per prompt: one for clear prompts, and three for ambiguous prompts.

    Source: ``sam2.modeling.sam.mask_decoder.MaskDecoder``.
    """

    # Modules that stay in fp32 when weights are cast.
    keep_fp32 = ("output_hypernetworks_mlps", "iou_prediction_head", "pred_obj_score_head")

    def __init__(
        self,
        *,
        transformer_dim: int,
        transformer: TwoWayTransformer,
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
            nn.ConvTranspose2d(C, C // 4, kernel_size=2, stride=2),
            LayerNorm2d(C // 4),
            activation(),
            nn.ConvTranspose2d(C // 4, C // 8, kernel_size=2, stride=2),
            activation(),
        )
        self.use_high_res_features = use_high_res_features
        if use_high_res_features:
            self.conv_s0 = nn.Conv2d(C, C // 8, kernel_size=1)
            self.conv_s1 = nn.Conv2d(C, C // 4, kernel_size=1)
        self.output_hypernetworks_mlps = nn.ModuleList(MLP(C, C, C // 8, 3) for _ in range(self.num_mask_tokens))
        self.iou_prediction_head = MLP(
            C, iou_head_hidden_dim, self.num_mask_tokens, iou_head_depth, sigmoid_output=iou_prediction_use_sigmoid
        )
        if pred_obj_scores:
            self.pred_obj_score_head = MLP(C, C, 1, 3) if pred_obj_scores_mlp else nn.Linear(C, 1)

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
        """Predicts masks and scores for B prompts.

        Args:
            image_embeddings: Image maps ``(B, C, H, W)``, or ``(1, C, H, W)`` for one image and B prompts.
            image_pe: Position encoding ``(1, C, H, W)`` of an image map.
            sparse_prompt_embeddings: Prompt tokens ``(B, N, C)``.
            dense_prompt_embeddings: Maps ``(B, C, H, W)`` or ``(1, C, H, W)`` to add to the image maps.
            multimask_output: If True, returns M = 3 masks instead of 1.
            repeat_image: Ignored. A single image is always used for all prompts.
            high_res_features: Feature maps ``(B or 1, C/8, 4H, 4W)`` and ``(B or 1, C/4, 2H, 2W)``.

        Returns:
            Mask logits ``(B, M, 4H, 4W)``, predicted IoUs ``(B, M)``, tokens for object pointers ``(B, M or 1, C)``,
            object score logits ``(B, 1)``.
        """
        masks, ious, mask_tokens, object_scores = self.predict_masks(
            image_embeddings=image_embeddings,
            image_pe=image_pe,
            sparse_prompt_embeddings=sparse_prompt_embeddings,
            dense_prompt_embeddings=dense_prompt_embeddings,
            repeat_image=repeat_image,
            high_res_features=high_res_features,
        )
        if multimask_output:
            masks, ious = masks[:, 1:], ious[:, 1:]
        elif self.dynamic_multimask_via_stability and not self.training:
            masks, ious = self._dynamic_multimask_via_stability(masks, ious)
        else:
            masks, ious = masks[:, :1], ious[:, :1]
        use_multimask_tokens = multimask_output and self.use_multimask_token_for_obj_ptr
        return masks, ious, mask_tokens[:, 1:] if use_multimask_tokens else mask_tokens[:, :1], object_scores

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        repeat_image: bool,
        high_res_features: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns four masks and IoUs per prompt, the mask tokens ``(B, 4, C)`` and object scores. See :meth:`forward`.

        Raises:
            ValueError: If the number of images is neither 1 nor the number of prompts.
        """
        B, num_images = sparse_prompt_embeddings.shape[0], image_embeddings.shape[0]  # len() is a constant in exports
        if num_images not in (B, 1):
            raise ValueError(f"{num_images} images do not fit {B} prompts")
        images = image_embeddings.expand(B, -1, -1, -1) + dense_prompt_embeddings
        tokens, x = self.transformer(images, image_pe.expand(B, -1, -1, -1), self._tokens(sparse_prompt_embeddings))
        x = self._upscaled(x.transpose(1, 2).unflatten(2, images.shape[2:]), high_res_features)
        first = int(self.pred_obj_scores)  # index of the IoU token, after the token of the object score
        # The heads do not run under autocast, for exact mask logits, mask selection and object scores.
        with torch.autocast(x.device.type, enabled=False):
            heads = tokens.to(self.iou_token.weight.dtype)
            iou_token, mask_tokens = heads[:, first], heads[:, first + 1 :][:, : self.num_mask_tokens]
            networks = zip(self.output_hypernetworks_mlps, mask_tokens.unbind(1), strict=True)
            weights = torch.stack([network(token) for network, token in networks], dim=1).float()  # (B, 4, C/8)
            masks = (weights @ x.float().flatten(2)).unflatten(2, x.shape[2:])
            ious = self.iou_prediction_head(iou_token)
            scores = self.pred_obj_score_head(heads[:, 0]) if first else torch.full_like(ious[:, :1], 10.0)
        mask_tokens = tokens[:, first + 1 :][:, : self.num_mask_tokens].float()
        return masks, ious, mask_tokens, scores

    def _upscaled(self, x: Tensor, high_res_features: Sequence[Tensor] | None) -> Tensor:
        """Upscales maps ``(B, C, H, W)`` to ``(B, C/8, 4H, 4W)``, and adds the high-resolution features."""
        if not self.use_high_res_features or high_res_features is None:
            return self.output_upscaling(x)
        feat_s0, feat_s1 = high_res_features
        upscale1, norm, act1, upscale2, act2 = self.output_upscaling
        x = act1(norm(upscale1(x) + feat_s1))
        return act2(upscale2(x) + feat_s0)

    def _tokens(self, sparse: Tensor) -> Tensor:
        """Returns the output tokens, followed by the prompt tokens ``sparse (B, N, C)``."""
        score = [self.obj_score_token] if self.pred_obj_scores else []
        outputs = [x.weight.expand(sparse.shape[0], -1, -1) for x in (*score, self.iou_token, self.mask_tokens)]
        return torch.cat([*outputs, sparse], dim=1)

    def _dynamic_multimask_via_stability(
        self, all_mask_logits: Tensor, all_iou_scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns mask 0 ``(B, 1, H, W)`` and its IoU ``(B, 1)`` if mask 0 is stable, else the best of the others."""
        masks, ious = all_mask_logits, all_iou_scores
        rows = torch.arange(len(ious), device=ious.device)
        stable = self._get_stability_scores(masks[:, 0]) >= self.dynamic_multimask_stability_thresh
        indices = torch.where(stable, 0, ious[:, 1:].argmax(dim=1) + 1)
        return masks[rows, indices][:, None], ious[rows, indices][:, None]

    def _get_stability_scores(self, mask_logits: Tensor) -> Tensor:
        """Returns the IoU ``(...)`` of two masks: ``mask_logits (..., H, W)`` thresholded at +delta and at -delta."""
        delta = self.dynamic_multimask_stability_delta
        inner = (mask_logits > delta).sum(dim=(-2, -1)).float()
        outer = (mask_logits > -delta).sum(dim=(-2, -1)).float()
        return torch.where(outer > 0, inner / outer, 1.0)
