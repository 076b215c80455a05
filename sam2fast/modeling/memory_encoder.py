"""The memory encoder. Compresses the features and the mask of a frame into a memory."""

from typing import Any

import torch
from torch import Tensor, nn

from sam2fast.modeling.layers import DropPath, LayerNorm2d, get_clones


class MaskDownSampler(nn.Module):
    """Strided convolutions, from masks ``(B, 1, H, W)`` to ``(B, embed_dim, H / total_stride, W / total_stride)``.

    Source: ``sam2.modeling.memory_encoder.MaskDownSampler``.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        kernel_size: int = 4,
        stride: int = 4,
        padding: int = 0,
        total_stride: int = 16,
        activation: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        self.total_stride = total_stride
        self.encoder = nn.Sequential()
        channels, reached = 1, 1
        while reached < total_stride:
            self.encoder.append(nn.Conv2d(channels, channels * stride**2, kernel_size, stride, padding))
            channels, reached = channels * stride**2, reached * stride
            self.encoder.append(LayerNorm2d(channels))
            self.encoder.append(activation())
        if reached != total_stride:
            raise ValueError(f"total_stride {total_stride} is not a power of the stride {stride}")
        self.encoder.append(nn.Conv2d(channels, embed_dim, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)


class CXBlock(nn.Module):
    """ConvNeXt block on maps ``(B, dim, H, W)``.

    Source: ``sam2.modeling.memory_encoder.CXBlock``.
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int = 7,
        padding: int = 3,
        drop_path: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        use_dwconv: bool = True,
    ) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size, padding=padding, groups=dim if use_dwconv else 1)
        self.norm = LayerNorm2d(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), layer_scale_init_value)) if layer_scale_init_value > 0 else None
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        y = self.pwconv2(self.act(self.pwconv1(y))).permute(0, 3, 1, 2)
        if self.gamma is not None:
            y = self.gamma[:, None, None] * y
        return x + self.drop_path(y)


class Fuser(nn.Module):
    """Optional 1x1 convolution, followed by copies of one layer, on maps ``(B, dim, H, W)``.

    Source: ``sam2.modeling.memory_encoder.Fuser``.
    """

    def __init__(
        self, layer: nn.Module, num_layers: int, dim: int | None = None, input_projection: bool = False
    ) -> None:
        super().__init__()
        if input_projection and dim is None:
            raise ValueError("input_projection needs dim")
        self.proj = nn.Conv2d(dim, dim, kernel_size=1) if input_projection and dim is not None else nn.Identity()
        self.layers = get_clones(layer, num_layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        for layer in self.layers:
            x = layer(x)
        return x


class MemoryEncoder(nn.Module):
    """Adds image features and a downsampled mask, fuses the sum, and projects the result to ``out_dim`` channels.

    Source: ``sam2.modeling.memory_encoder.MemoryEncoder``.
    """

    def __init__(
        self,
        out_dim: int,
        mask_downsampler: nn.Module,
        fuser: nn.Module,
        position_encoding: nn.Module,
        in_dim: int = 256,
    ) -> None:
        super().__init__()
        self.mask_downsampler = mask_downsampler
        self.pix_feat_proj = nn.Conv2d(in_dim, in_dim, kernel_size=1)
        self.fuser = fuser
        self.position_encoding = position_encoding
        self.out_proj = nn.Conv2d(in_dim, out_dim, kernel_size=1) if out_dim != in_dim else nn.Identity()

    def forward(self, pix_feat: Tensor, masks: Tensor, skip_mask_sigmoid: bool = False) -> dict[str, Any]:
        """Returns the official dict of the memory ``(B, out_dim, H, W)`` and the memory's position encoding.

        Args:
            pix_feat: Image features ``(B, in_dim, H, W)``, on any device.
            masks: Logits ``(B, 1, 16H, 16W)``, or scaled probabilities if ``skip_mask_sigmoid`` is True.
        """
        masks = masks if skip_mask_sigmoid else torch.sigmoid(masks)
        x = self.pix_feat_proj(pix_feat.to(masks.device)) + self.mask_downsampler(masks)
        x = self.out_proj(self.fuser(x))
        return {"vision_features": x, "vision_pos_enc": [self.position_encoding(x).to(x.dtype)]}
