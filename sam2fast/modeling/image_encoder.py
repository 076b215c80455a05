"""The image encoder: a trunk followed by a neck."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.modeling.hiera import Hiera
from sam2fast.modeling.layers import LayerNorm2d
from sam2fast.modeling.repvit import RepViT
from sam2fast.modeling.vit import RoPEViT, ViT


class FpnNeck(nn.Module):
    """Projects each level of the trunk to ``d_model`` channels and adds coarser levels to finer levels.

    ``convs[0]`` projects the coarsest level, as in the official package.

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
            self.convs.append(nn.Sequential())
            self.convs[-1].add_module("conv", conv)
        self.fpn_interp_model = fpn_interp_model
        self.fuse_type = fuse_type
        self.fpn_top_down_levels = list(range(len(self.convs)) if fpn_top_down_levels is None else fpn_top_down_levels)

    def forward(self, xs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Projects the trunk's maps ``xs (B, C_i, H_i, W_i)``, finest first.

        Returns:
            Levels ``(B, d_model, H_i, W_i)`` and the position encoding of each level, finest first.
        """
        out: list[Tensor] = []
        for i in reversed(range(len(xs))):
            x = self.convs[len(xs) - 1 - i](xs[i])
            if out and any(i == level for level in self.fpn_top_down_levels):  # see BlockTrunk.forward
                corners = None if self.fpn_interp_model == "nearest" else False
                x = x + F.interpolate(
                    out[0].float(), scale_factor=2.0, mode=self.fpn_interp_model, align_corners=corners
                )
                x = x / 2 if self.fuse_type == "avg" else x
            out.insert(0, x)
        return out, [self.position_encoding(x).to(x.dtype) for x in out]


class ViTDetNeck(nn.Module):
    """Projects the single level of a plain trunk to ``d_model`` channels.

    Source: ``efficient_track_anything.modeling.backbones.image_encoder.ViTDetNeck``.

    Args:
        position_encoding: Position encoding of the result.
        d_model: Channels of the result.
        backbone_channel_list: Channels of the trunk's level.
        neck_norm: ``LN`` for layer norms after both convolutions. None for convolutions with biases.
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
            layers = nn.Sequential()
            layers.add_module("conv_1x1", nn.Conv2d(channels, d_model, 1, bias=neck_norm is None))
            if neck_norm is not None:
                layers.add_module("norm_0", LayerNorm2d(d_model))
            layers.add_module("conv_3x3", nn.Conv2d(d_model, d_model, 3, padding=1, bias=neck_norm is None))
            if neck_norm is not None:
                layers.add_module("norm_1", LayerNorm2d(d_model))
            self.convs.append(layers)

    def forward(self, xs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Projects the trunk's level to ``(B, d_model, H, W)``. Returns lists of this level and a position encoding."""
        x = self.convs[0](xs[0])
        return [x], [self.position_encoding(x).to(x.dtype)]


class ScaledNeck(nn.Module):
    """Projects the single level of a plain trunk to several scales. Levels are not added to each other.

    Source: ``Sam3VisionNeck`` of transformers.

    Args:
        position_encoding: Position encoding of the levels.
        d_model: Channels of the levels.
        backbone_channel_list: Channels of the trunk's level.
        scale_factors: Sizes of the levels relative to the trunk's level, finest first: 4, 2, 1 and 0.5. Checkpoints
            have weights for the level 0.5. This level is not computed, because SAM 2 does not use it.

    Raises:
        ValueError: If a scale is not 4, 2, 1 or 0.5.
    """

    def __init__(
        self,
        position_encoding: nn.Module,
        d_model: int,
        backbone_channel_list: Sequence[int],
        scale_factors: Sequence[float] = (4.0, 2.0, 1.0, 0.5),
    ) -> None:
        super().__init__()
        if other := [factor for factor in scale_factors if factor not in (4, 2, 1, 0.5)]:
            raise ValueError(f"scale_factors must be among 4, 2, 1 and 0.5, got {other[0]}")
        self.position_encoding = position_encoding
        self.d_model = d_model
        self.backbone_channel_list = list(backbone_channel_list)
        self.scale_factors = list(scale_factors)
        self.convs = nn.ModuleList()
        for factor in scale_factors:
            layers, (channels,) = nn.Sequential(), backbone_channel_list
            for name in {4: ("dconv_2x2_0", "dconv_2x2_1"), 2: ("dconv_2x2",)}.get(int(factor), ()):
                if name.endswith("1"):
                    layers.add_module("gelu", nn.GELU())
                layers.add_module(name, nn.ConvTranspose2d(channels, channels // 2, 2, stride=2))
                channels //= 2
            layers.add_module("conv_1x1", nn.Conv2d(channels, d_model, 1))
            layers.add_module("conv_3x3", nn.Conv2d(d_model, d_model, 3, padding=1))
            self.convs.append(layers)

    @property
    def _computed(self) -> list[Any]:
        """Returns the layers of the computed levels, finest first."""
        return [layers for layers, factor in zip(self.convs, self.scale_factors, strict=True) if factor >= 1]

    def forward(self, xs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Returns levels ``(B, d_model, factor * H, factor * W)`` and the levels' position encodings, finest first."""
        out = [layers(xs[0]) for layers in self._computed]
        return out, [self.position_encoding(x).to(x.dtype) for x in out]


Neck = FpnNeck | ViTDetNeck | ScaledNeck


class ImageEncoder(nn.Module):
    """Image encoder: a trunk followed by a neck.

    Source: ``sam2.modeling.backbones.image_encoder.ImageEncoder``.
    """

    def __init__(self, trunk: Hiera | RepViT | ViT | RoPEViT, neck: Neck, scalp: int = 0) -> None:
        super().__init__()
        if list(trunk.channel_list) != neck.backbone_channel_list:
            raise ValueError(
                f"the trunk's channels {list(trunk.channel_list)} differ from the neck's backbone_channel_list "
                f"{neck.backbone_channel_list}"
            )
        self.trunk = trunk
        self.neck = neck
        self.scalp = scalp

    def forward(self, sample: Tensor) -> dict[str, Any]:
        """Encodes images ``(B, 3, H, W)``. Returns the official dict of levels, without ``scalp`` coarsest levels."""
        features, positions = self.neck(self.trunk(sample))
        levels = len(features) - self.scalp
        return {
            "vision_features": features[levels - 1],
            "vision_pos_enc": positions[:levels],
            "backbone_fpn": features[:levels],
        }
