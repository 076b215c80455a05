"""The image encoder: a trunk, and the neck on top of it."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.kernels._cpu import linear
from sam2fast.modeling.constants import TensorCache
from sam2fast.modeling.hiera import Hiera
from sam2fast.modeling.layers import LayerNorm2d, Layers, chunked, convolve
from sam2fast.modeling.repvit import RepViT
from sam2fast.modeling.standard import is_plain, is_standard, standard
from sam2fast.modeling.vit import ViT


@standard
class FpnNeck(nn.Module):
    """Projects every level of the trunk to ``d_model`` channels and adds coarser levels to finer ones.

    ``convs[0]`` belongs to the coarsest level, as in the original.

    Source: ``sam2.modeling.backbones.image_encoder.FpnNeck``.
    """

    def __init__(
        self,
        position_encoding: nn.Module,
        d_model: int,
        backbone_channel_list: Sequence[int],
        kernel_size: int = 1,
        stride: int = 1,
        padding: int = 0,
        fpn_interp_model: str = "bilinear",
        fuse_type: str = "sum",
        fpn_top_down_levels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if fuse_type not in ("sum", "avg"):
            raise ValueError(f"fuse_type must be 'sum' or 'avg', got {fuse_type!r}")
        self.position_encoding = position_encoding
        self.d_model = d_model
        self.backbone_channel_list = list(backbone_channel_list)
        self.convs = nn.ModuleList()
        for channels in backbone_channel_list:
            conv = nn.Conv2d(channels, d_model, kernel_size=kernel_size, stride=stride, padding=padding)
            self.convs.append(Layers())
            self.convs[-1].add_module("conv", conv)
        self.fpn_interp_model = fpn_interp_model
        self.fuse_type = fuse_type
        levels = range(len(self.convs)) if fpn_top_down_levels is None else fpn_top_down_levels
        self.fpn_top_down_levels = list(levels)
        self._composed: list[TensorCache[tuple[Tensor, Tensor]]] = [TensorCache() for _ in self.convs]

    def forward(self, xs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """All levels ``(B, d_model, H_i, W_i)`` and their position encodings, finest first."""
        features = self.features(xs) if is_standard(self) else self._features_by_calls(xs)
        return features, [self.position_encoding(x).to(x.dtype) for x in features]

    def _features_by_calls(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """:meth:`features` by a call of each module, as in the original."""
        out: list[Tensor] = []
        for i in reversed(range(len(xs))):
            x = self.convs[len(xs) - 1 - i](xs[i])
            if i in self.fpn_top_down_levels and out:
                x = self._summed(x, out[0])
            out.insert(0, x)
        return out

    def _summed(self, x: Tensor, coarser: Tensor) -> Tensor:
        x = x + F.interpolate(
            coarser.float(),
            scale_factor=2.0,
            mode=self.fpn_interp_model,
            align_corners=None if self.fpn_interp_model == "nearest" else False,
        )
        return x / 2 if self.fuse_type == "avg" else x

    def features(self, xs: Sequence[Tensor], heads: Mapping[int, nn.Conv2d] | None = None) -> list[Tensor]:
        """The levels without position encodings, fused; see :func:`~sam2fast.modeling.standard.is_standard`.

        Args:
            xs: trunk features ``(B, C_i, H_i, W_i)``, finest first.
            heads: 1x1 convolutions to apply to some levels. A level that takes part in no sum is projected directly to
                the head's channels by the product of both convolutions.
        """
        heads = heads or {}
        out: list[Tensor] = [xs[0]] * len(xs)
        previous = None
        for i in reversed(range(len(xs))):
            lateral: nn.Conv2d = self.convs[len(xs) - 1 - i].conv  # type: ignore[assignment]
            top_down = i in self.fpn_top_down_levels and previous is not None
            feeds_finer = i > 0 and i - 1 in self.fpn_top_down_levels
            if i in heads and not top_down and not feeds_finer and lateral.kernel_size == (1, 1):
                out[i] = _project(xs[i], *_composed(self._composed[i], lateral, heads[i]))
                previous = None
                continue
            x = _pointwise(lateral, xs[i])
            if top_down:
                assert previous is not None
                x = self._summed(x, previous)
            previous = x
            out[i] = convolve(heads[i], x) if i in heads else x
        return out


def _pointwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """``conv(x)``; a 1x1 convolution of a channels-last map is a matrix multiplication over its tokens."""
    if conv.kernel_size != (1, 1) or conv.stride != (1, 1) or conv.padding != (0, 0):
        return convolve(conv, x)
    return _project(x, conv.weight.flatten(1), conv.bias)


def _project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``weight (N, C)`` applied to every position of ``x (B, C, H, W)``: ``(B, N, H, W)``."""
    tokens = x.permute(0, 2, 3, 1)
    return chunked(lambda chunk: linear(chunk.to(weight.dtype), weight, bias), tokens, rows=1).permute(0, 3, 1, 2)


def _composed(kept: TensorCache[tuple[Tensor, Tensor]], first: nn.Conv2d, second: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weight ``(N, C)`` and bias of two 1x1 convolutions, one after the other; the weights are multiplied in fp32."""
    assert first.bias is not None and second.bias is not None
    inner, b1, outer, b2 = first.weight, first.bias, second.weight, second.bias

    def compute() -> tuple[Tensor, Tensor]:
        with torch.autocast(inner.device.type, enabled=False):
            weight = outer.flatten(1).float()
            bias = weight @ b1.float() + b2.float()
            return (weight @ inner.flatten(1).float()).to(inner.dtype), bias.to(inner.dtype)

    return kept(None, (inner, b1, outer, b2), compute)


@standard
class ViTDetNeck(nn.Module):
    """Projects the one level of a plain trunk to ``d_model`` channels.

    Source: ``efficient_track_anything.modeling.backbones.image_encoder.ViTDetNeck``.

    Args:
        position_encoding: of the result.
        d_model: channels of the result.
        backbone_channel_list: channels of the trunk's level.
        neck_norm: ``LN`` for layer norms after both convolutions; None for convolutions with biases.
    """

    def __init__(
        self,
        position_encoding: nn.Module,
        d_model: int,
        backbone_channel_list: Sequence[int],
        neck_norm: str | None = None,
    ) -> None:
        super().__init__()
        self.position_encoding = position_encoding
        self.d_model = d_model
        self.backbone_channel_list = list(backbone_channel_list)
        self.convs = nn.ModuleList()
        for channels in backbone_channel_list:
            layers = Layers()
            layers.add_module("conv_1x1", nn.Conv2d(channels, d_model, 1, bias=neck_norm is None))
            if neck_norm is not None:
                layers.add_module("norm_0", LayerNorm2d(d_model))
            layers.add_module("conv_3x3", nn.Conv2d(d_model, d_model, 3, padding=1, bias=neck_norm is None))
            if neck_norm is not None:
                layers.add_module("norm_1", LayerNorm2d(d_model))
            self.convs.append(layers)

    def forward(self, xs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The level ``(B, C, H, W)`` as ``(B, d_model, H, W)``, and its position encoding."""
        features = self.features(xs)
        return features, [self.position_encoding(x).to(x.dtype) for x in features]

    def features(self, xs: Sequence[Tensor], heads: Mapping[int, nn.Conv2d] | None = None) -> list[Tensor]:
        """:meth:`forward` without the position encoding; there are no finer levels that a head could take."""
        return [self.convs[0](xs[0])]


@standard
class ImageEncoder(nn.Module):
    """Trunk and neck.

    Source: ``sam2.modeling.backbones.image_encoder.ImageEncoder``.
    """

    def __init__(self, trunk: Hiera | RepViT | ViT, neck: FpnNeck | ViTDetNeck, scalp: int = 0) -> None:
        super().__init__()
        if list(trunk.channel_list) != neck.backbone_channel_list:
            raise ValueError(
                f"the trunk's channels {list(trunk.channel_list)} are not the neck's backbone_channel_list "
                f"{neck.backbone_channel_list}"
            )
        self.trunk = trunk
        self.neck = neck
        self.scalp = scalp

    def forward(self, sample: Tensor) -> dict[str, Any]:
        """The official result for images ``(B, 3, H, W)``: levels without the ``scalp`` coarsest, finest first."""
        features, positions = self.neck(self.trunk(sample))
        levels = len(features) - self.scalp
        return {
            "vision_features": features[levels - 1],
            "vision_pos_enc": positions[:levels],
            "backbone_fpn": features[:levels],
        }

    def features(self, sample: Tensor, heads: Mapping[int, nn.Conv2d] | None = None) -> list[Tensor]:
        """The levels without encodings, some of them through a head, fused; see :meth:`FpnNeck.features`."""
        features = self.neck.features(self.trunk(sample), heads)
        return features[: len(features) - self.scalp]


def can_fuse_heads(encoder: nn.Module, heads: Mapping[int, nn.Module]) -> bool:
    """Whether :meth:`ImageEncoder.features` does what ``encoder`` and the heads do; it calls the trunk."""
    if not isinstance(encoder, ImageEncoder):
        return False
    # Not by their types: torch.export has proxies of modules.
    are_plain = all(isinstance(head, nn.Conv2d) and is_standard(head) for head in heads.values())
    return are_plain and is_plain(encoder) and is_standard(encoder.neck)


def encode_levels(encoder: nn.Module, images: Tensor, heads: Mapping[int, nn.Conv2d]) -> list[Tensor]:
    """The levels of ``images (B, 3, H, W)``, finest first, some of them through a head; see :meth:`FpnNeck.features`.

    Neck and heads are fused if both are standard. ``encoder`` may be anything that returns the official dict.
    """
    if can_fuse_heads(encoder, heads):
        return cast(ImageEncoder, encoder).features(images, heads)
    levels = list(encoder(images)["backbone_fpn"])
    for i, head in heads.items():
        levels[i] = convolve(head, levels[i])
    return levels
