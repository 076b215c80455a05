"""RepViT, the image trunk of EdgeTAM: convolutions with batch norms.

In training, batch norms use their running statistics, too, because batches of video frames are small.

Source: https://arxiv.org/abs/2307.09283, the model ``repvit_m1`` of ``timm.models.repvit``.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.modeling.tables import specialize

WIDTHS = (48, 96, 192, 384)
DEPTHS = (2, 2, 14, 2)
LEVELS = ("layer0", "layer1", "layer2", "layer3")


class ConvNorm(nn.Module):
    """Convolution and batch norm, from ``(B, in_channels, H, W)`` to ``(B, out_channels, H / stride, W / stride)``."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels).eval()

    def train(self, mode: bool = True) -> "ConvNorm":
        """Sets the training mode of the module. The batch norm stays in evaluation mode."""
        super().train(mode)
        self.bn.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.c(x))


class TokenMixer(nn.Module):
    """Sum of a depthwise 3x3 convolution, a depthwise 1x1 convolution (each with batch norm) and ``x (B, C, H, W)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ConvNorm(channels, channels, 3, groups=channels)
        self.conv1 = ConvNorm(channels, channels, 1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.conv1(x) + x


class SqueezeExcite(nn.Module):
    """Squeeze-and-excite: scales the channels of ``(B, C, H, W)`` by factors computed from the channel means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = (channels // 4 + 4) // 8 * 8
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3), keepdim=True)
        return x * self.fc2(F.relu(self.fc1(means))).sigmoid()


class ChannelMixer(nn.Module):
    """Two 1x1 convolutions with GELU between them. Keeps the shape ``(B, C, H, W)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, 2 * channels)
        self.conv2 = ConvNorm(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.gelu(self.conv1(x)))


class RepViTBlock(nn.Module):
    """Token mixer, optional squeeze-and-excite, and residual channel mixer. Keeps the shape ``(B, C, H, W)``."""

    def __init__(self, channels: int, scales: bool) -> None:
        super().__init__()
        self.token_mixer = TokenMixer(channels)
        self.se: nn.Module = SqueezeExcite(channels) if scales else nn.Identity()
        self.channel_mixer = ChannelMixer(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.se(self.token_mixer(x))
        return x + self.channel_mixer(x)


class RepViTDownsample(nn.Module):
    """Block and downsampling, from ``(B, in_channels, H, W)`` to ``(B, out_channels, H / 2, W / 2)``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.pre_block = RepViTBlock(in_channels, scales=False)
        self.spatial_downsample = ConvNorm(in_channels, in_channels, 3, 2, groups=in_channels)
        self.channel_downsample = ConvNorm(in_channels, out_channels)
        self.ffn = ChannelMixer(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.channel_downsample(self.spatial_downsample(self.pre_block(x)))
        return x + self.ffn(x)


class RepViTStage(nn.Module):
    """Optional downsampling and blocks. Every second block has squeeze-and-excite. Stage 0 has no downsampling."""

    def __init__(self, in_channels: int | None, channels: int, depth: int) -> None:
        super().__init__()
        self.downsample = nn.Identity() if in_channels is None else RepViTDownsample(in_channels, channels)
        self.blocks = nn.ModuleList(RepViTBlock(channels, scales=i % 2 == 0) for i in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        for block in self.blocks:
            x = block(x)
        return x


class RepViTStem(nn.Module):
    """Two convolutions of stride 2, from ``(B, 3, H, W)`` to ``(B, channels, H / 4, W / 4)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, channels // 2, 3, 2)
        self.conv2 = ConvNorm(channels // 2, channels, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.gelu(self.conv1(x)))


class RepViTBody(nn.Module):
    """Stem and four stages, with the module names of timm's feature extractor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = RepViTStem(WIDTHS[0])
        for i, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
            self.add_module(f"stages_{i}", RepViTStage(WIDTHS[i - 1] if i else None, width, depth))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Returns the outputs of all stages for images ``(B, 3, H, W)``, finest first."""
        x, outputs = self.stem(x), []
        for i in range(len(WIDTHS)):
            x = self.get_submodule(f"stages_{i}")(x)
            outputs.append(x)
        return outputs


class RepViT(nn.Module):
    """Trunk of EdgeTAM.

    Source: ``sam2.modeling.backbones.timm.TimmBackbone`` of EdgeTAM, with the same arguments.

    Raises:
        ValueError: If the model is not timm's ``repvit_m1``, or a level is missing.
    """

    def __init__(self, name: str = "repvit_m1.dist_in1k", features: Sequence[str] = LEVELS) -> None:
        super().__init__()
        if name.partition(".")[0] != "repvit_m1" or tuple(features) != LEVELS:
            raise ValueError(
                f"the trunk {name} with the levels {', '.join(features)} is not supported; "
                f"expected repvit_m1 with {', '.join(LEVELS)}"
            )
        self.body = RepViTBody()
        self.channel_list = list(WIDTHS[::-1])

    @property
    def blocks(self) -> list[nn.Module]:
        """Returns the blocks of all stages."""
        return [block for block in self.body.modules() if isinstance(block, RepViTBlock)]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Returns the maps ``(B, C_i, H_i, W_i)`` of all stages for images ``(B, 3, H, W)``, finest first."""
        specialize(x)
        return self.body(x)
