"""The mask decoder: masks, predicted IoUs and object tokens from image and prompt embeddings."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from sam2fast.kernels._cpu import is_cpu_inference
from sam2fast.modeling.constants import TensorCache
from sam2fast.modeling.decoder_heads import can_stack, stacked
from sam2fast.modeling.layers import MLP, LayerNorm2d, add_for, call, computed_dtype, project
from sam2fast.modeling.standard import is_standard, standard
from sam2fast.modeling.two_way_transformer import FirstAttention, ImageTokens, TwoWayAttentionBlock, TwoWayTransformer
from sam2fast.modeling.upscaling import Upscaling

# Prompts that are decoded at once. On the CPU, where a prompt's image tokens are 4 MiB, they fit the last-level cache.
GROUP, GROUP_ON_CPU = 32, 4


@standard
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

        self._products: TensorCache[tuple[Tensor, ...]] = TensorCache()  # of the upscaling
        self._first: TensorCache[FirstAttention] = TensorCache()
        self._stacked: TensorCache[tuple[Tensor, ...]] = TensorCache()  # of the heads
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
        padding: Tensor | None = None,
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
            padding: the parameter ``(1, C)`` that all of ``sparse_prompt_embeddings`` repeat, if that is so; then what
                depends on parameters alone is kept.

        Returns:
            Mask logits ``(B, M, 4H, 4W)``, predicted IoUs ``(B, M)``, tokens for object pointers ``(B, M or 1, C)``,
            object score logits ``(B, 1)``.
        """
        dynamic = self.dynamic_multimask_via_stability and not multimask_output and not self.training
        selected = slice(1, None) if multimask_output else slice(None) if dynamic else slice(1)
        if is_standard(self):
            masks, ious, mask_tokens, object_scores = self._predict(
                image_embeddings,
                image_pe,
                sparse_prompt_embeddings,
                dense_prompt_embeddings,
                high_res_features,
                selected,
                self._dynamic_multimask_via_stability if dynamic else None,
                padding,
            )
        else:
            masks, ious, mask_tokens, object_scores = self.predict_masks(
                image_embeddings=image_embeddings,
                image_pe=image_pe,
                sparse_prompt_embeddings=sparse_prompt_embeddings,
                dense_prompt_embeddings=dense_prompt_embeddings,
                repeat_image=repeat_image,
                high_res_features=high_res_features,
            )
            masks, ious = masks[:, selected], ious[:, selected]
            if dynamic:
                masks, ious = self._dynamic_multimask_via_stability(masks, ious)
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
        """All four masks, their IoUs, the mask tokens ``(B, 4, C)`` and the object scores; see :meth:`forward`.

        Raises:
            ValueError: the number of images is neither 1 nor the number of prompts.
        """
        predict = self._predict if is_standard(self) else self._predict_by_calls
        return predict(
            image_embeddings,
            image_pe,
            sparse_prompt_embeddings,
            dense_prompt_embeddings,
            high_res_features,
            slice(None),
        )

    def _predict_by_calls(
        self,
        images: Tensor,
        image_pe: Tensor,
        sparse: Tensor,
        dense: Tensor,
        high_res_features: Sequence[Tensor] | None,
        selected: slice,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """:meth:`predict_masks` by a call of each module, as in the original."""
        B = len(sparse)
        _check_count(images, B)
        tokens = self._tokens(sparse)
        tokens, source = self.transformer(images.expand(B, -1, -1, -1) + dense, image_pe.expand(B, -1, -1, -1), tokens)
        x = source.mT.unflatten(2, images.shape[2:])
        if self.use_high_res_features and high_res_features is not None:
            first, norm, act1, second, act2 = self.output_upscaling
            x = act1(norm(call(first, x) + high_res_features[1]))
            x = act2(call(second, x) + high_res_features[0])
        else:
            x = self.output_upscaling(x)
        mask_tokens, weights, ious, scores = self._heads(tokens, selected)
        with torch.autocast(x.device.type, enabled=False):
            masks = (weights @ x.float().flatten(2)).unflatten(2, x.shape[2:])
        return masks, ious, mask_tokens, scores

    def _heads(self, tokens: Tensor, selected: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mask tokens, weights of the selected masks, their IoUs and object scores from the transformer's tokens."""
        first = int(self.pred_obj_scores)
        iou_token, mask_tokens = tokens[:, first], tokens[:, first + 1 :][:, : self.num_mask_tokens]
        heads: list[nn.Module] = [*([self.pred_obj_score_head] if first else []), self.iou_prediction_head]
        heads += self.output_hypernetworks_mlps
        # Little work, in fp32: mask logits, the selection of masks and object scores depend on it.
        with torch.autocast(tokens.device.type, enabled=False):
            if not is_cpu_inference(tokens) and can_stack(heads):
                out = stacked(self._stacked, heads, tokens[:, : len(heads)])
                weights = out[first + 1 :, :, : self.transformer_dim // 8].transpose(0, 1)[:, selected].float()
                scores, ious = out[0, :, :1], out[first, :, : self.num_mask_tokens]
                ious = ious.sigmoid() if self.iou_prediction_head.sigmoid_output else ious
            else:
                weights = self._mask_weights(mask_tokens, selected)
                ious = self.iou_prediction_head(iou_token)
                scores = project(self.pred_obj_score_head, tokens[:, 0]) if first else ious[:, :1]
            if not first:
                scores = torch.full_like(scores, 10.0)
        return mask_tokens, weights, ious[:, selected], scores

    def _predict(
        self,
        images: Tensor,
        image_pe: Tensor,
        sparse: Tensor,
        dense: Tensor,
        high_res_features: Sequence[Tensor] | None,
        selected: slice,
        choose: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
        padding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """:meth:`predict_masks` for the ``selected`` masks, which ``choose`` may reduce further, with their IoUs.

        Prompts are decoded in groups, so that intermediate memory does not grow with their number.
        """
        B, size = len(sparse), (images.shape[2], images.shape[3])
        _check_count(images, B)
        first = None if padding is None else self._first_of(padding, sparse[:GROUP])
        tokens = self._tokens(sparse) if first is None else first.tokens[:1].expand(B, -1, -1)
        images, dense = _unrepeat(images), _unrepeat(dense)
        finer = [_unrepeat(x) for x in reversed(high_res_features or ())] if self.use_high_res_features else []
        upscaling = Upscaling(self.output_upscaling, size, finer, B, self._products)
        pe, shared = _as_rows(image_pe), None
        if len(images) == len(dense) == 1:
            shared = self.transformer.prepare(self._embedded(images, dense), pe, tokens[..., 0].numel())

        results: tuple[Tensor, ...] = ()
        step = _group_size(tokens)
        for start in range(0, max(B, 1), step):
            group = slice(start, start + step)
            prepared = shared
            if prepared is None:
                image, mask = (x if len(x) == 1 else x[group] for x in (images, dense))
                prepared = self.transformer.prepare(self._embedded(image, mask), pe, tokens.shape[1])
            some = tokens[group]
            started = None if first is None else first.of(len(some))
            decoded = self._decode(prepared, some, upscaling, start, selected, started)
            if choose is not None:
                decoded = (*choose(*decoded[:2]), *decoded[2:])
            if step >= B:
                return decoded
            results = results or tuple(x.new_empty(B, *x.shape[1:]) for x in decoded)
            for result, x in zip(results, decoded, strict=True):
                result[group] = x
        masks, ious, mask_tokens, scores = results
        return masks, ious, mask_tokens, scores

    def _embedded(self, images: Tensor, dense: Tensor) -> Tensor:
        """Tokens ``(b, HW, C)`` of images with dense prompts ``(b, C, H, W)``, as the transformer reads them."""
        layer = cast(TwoWayAttentionBlock, self.transformer.layers[0])
        return add_for(layer.cross_attn_token_to_image.q_proj, _as_rows(images), dense.flatten(2).transpose(1, 2))

    def _first_of(self, padding: Tensor, sparse: Tensor) -> FirstAttention:
        """The tokens of prompts ``sparse (b, N, C)`` that repeat ``padding``, after the first attention."""
        tables = [self.obj_score_token] if self.pred_obj_scores else []
        tables += [self.iou_token, self.mask_tokens]
        block = cast(TwoWayAttentionBlock, self.transformer.layers[0])
        parameters = (padding, *(x.weight for x in tables), *block.first_parameters())
        key = (len(sparse), sparse.shape[1], computed_dtype(block.self_attn.q_proj.weight))
        return FirstAttention(*self._first(key, parameters, lambda: block.first(self._tokens(sparse))))

    def _tokens(self, sparse: Tensor) -> Tensor:
        """The tokens of results before those of the prompts ``sparse (B, N, C)``."""
        tables = [self.obj_score_token] if self.pred_obj_scores else []
        own = [x.weight.expand(len(sparse), -1, -1) for x in (*tables, self.iou_token, self.mask_tokens)]
        return torch.cat([*own, sparse.to(self.iou_token.weight.dtype)], dim=1)

    def _decode(
        self,
        image: ImageTokens,
        tokens: Tensor,
        upscaling: Upscaling,
        start: int,
        selected: slice,
        first: FirstAttention | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The results for a group of prompts; ``start`` is the index of the first."""
        given = (tokens,) if first is None else (first.tokens, first)
        tokens, source = self.transformer.attend(image, *given)
        mask_tokens, weights, ious, scores = self._heads(tokens, selected)
        masks = []
        for x, mask_weights in zip(source, weights.chunk(len(source)), strict=True):
            masks.append(upscaling.masks(x, mask_weights, slice(start, start + len(mask_weights))))
            start += len(mask_weights)
        return masks[0] if len(masks) == 1 else torch.cat(masks), ious, mask_tokens, scores

    def _mask_weights(self, mask_tokens: Tensor, selected: slice) -> Tensor:
        """Weights of the upscaled channels for each of the ``selected`` masks, ``(B, M, C/8)`` fp32."""
        networks = list(self.output_hypernetworks_mlps)
        # For autograd all networks run, so that those of other masks have zero gradients, as in the original.
        computed = slice(None) if torch.is_grad_enabled() else selected
        weights = [networks[i](mask_tokens[:, i]) for i in range(len(networks))[computed]]
        return torch.stack(weights, dim=1).float()[:, selected if computed != selected else slice(None)]

    def _dynamic_multimask_via_stability(
        self, all_mask_logits: Tensor, all_iou_scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The single mask, or the best of the three if its outline is uncertain: ``(B, 1, H, W)``, ``(B, 1)``."""
        masks, ious = all_mask_logits, all_iou_scores
        best = ious[:, 1:].argmax(dim=1) + 1
        rows = torch.arange(len(ious), device=ious.device)
        stable = self._get_stability_scores(masks[:, 0]) >= self.dynamic_multimask_stability_thresh
        chosen = torch.where(stable, 0, best)
        return masks[rows, chosen][:, None], ious[rows, chosen][:, None]

    def _get_stability_scores(self, mask_logits: Tensor) -> Tensor:
        """IoU ``(...)`` of each mask of ``mask_logits (..., H, W)`` thresholded slightly above and below zero."""
        delta = self.dynamic_multimask_stability_delta
        inner = (mask_logits > delta).sum(dim=(-2, -1)).float()
        outer = (mask_logits > -delta).sum(dim=(-2, -1)).float()
        return torch.where(outer > 0, inner / outer, 1.0)


def _check_count(images: Tensor, prompts: int) -> None:
    if len(images) not in (1, prompts):
        raise ValueError(f"{len(images)} images do not fit {prompts} prompts")


def _unrepeat(x: Tensor) -> Tensor:
    """The first item of a batch that was expanded: an image's features, or the embedding of no mask."""
    return x[:1] if x.stride(0) == 0 else x


def _as_rows(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2).contiguous()


def _group_size(tokens: Tensor) -> int:
    """Number of prompts that are decoded at once: all of them for autograd and compilers."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return max(len(tokens), 1)
    return GROUP_ON_CPU if tokens.is_cpu else GROUP
