"""RepViT, the image trunk of EdgeTAM: convolutions with batch norms, which are folded into them without gradients.

Batch norms always use their stored statistics, also in training: the batches of a video are small.

Source: https://arxiv.org/abs/2307.09283, as ``timm.models.repvit`` builds ``repvit_m1``.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.kernels._cpu import emulates_bfloat16, in_float32, linear
from sam2fast.kernels.linear_gelu import gelu_mlp
from sam2fast.modeling.constants import TensorCache
from sam2fast.modeling.layers import chunked, computed_dtype, convolve
from sam2fast.modeling.standard import is_standard, standard

WIDTHS = (48, 96, 192, 384)
DEPTHS = (2, 2, 14, 2)
LEVELS = ("layer0", "layer1", "layer2", "layer3")
Folded = tuple[Tensor, Tensor]  # weight and bias


@standard
class ConvNorm(nn.Module):
    """A convolution and a batch norm, ``(B, in_channels, H, W)`` to ``(B, out_channels, H / stride, W / stride)``."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels).eval()
        self._folded: TensorCache[Folded] = TensorCache()

    def train(self, mode: bool = True) -> "ConvNorm":
        """See ``nn.Module.train``; the norm stays in evaluation mode."""
        super().train(mode)
        self.bn.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """The convolution, then the norm with the stored statistics."""
        return cast(Tensor, self.bn(convolve(self.c, x)))

    def sources(self) -> tuple[Tensor, ...]:
        """What :meth:`fold` reads."""
        bn = self.bn
        return self.c.weight, bn.weight, bn.bias, cast(Tensor, bn.running_mean), cast(Tensor, bn.running_var)

    def fold(self) -> Folded:
        """Weight and bias, fp32, of the convolution that does the same."""
        weight, scale, shift, mean, variance = (x.float() for x in self.sources())
        scale = scale * torch.rsqrt(variance + self.bn.eps)
        return weight * scale[:, None, None, None], shift - mean * scale

    def folded(self, dtype: torch.dtype) -> Folded:
        """:meth:`fold` in ``dtype``, computed once."""
        return self._folded(dtype, self.sources(), lambda: _cast(self.fold(), dtype))

    def fused(self, x: Tensor) -> Tensor:
        """:meth:`forward` by the folded weights."""
        weight, bias = self.folded(computed_dtype(self.c.weight))
        if weight.shape[2:] == (1, 1):
            return _by_tokens(lambda tokens: linear(tokens.to(weight.dtype), weight.flatten(1), bias), x)
        return _convolved(x, weight, bias, self.c)


@standard
class TokenMixer(nn.Module):
    """The sum of a depthwise 3x3 convolution, a 1x1 one and the input, ``(B, C, H, W)`` to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ConvNorm(channels, channels, 3, groups=channels)
        self.conv1 = ConvNorm(channels, channels, 1, groups=channels)
        self._folded: TensorCache[Folded] = TensorCache()

    def forward(self, x: Tensor) -> Tensor:
        """Each convolution with its norm."""
        return self.conv(x) + self.conv1(x) + x

    def fused(self, x: Tensor) -> Tensor:
        """:meth:`forward` as one convolution: what meets one pixel is part of the centre of the 3x3 weight."""
        dtype = computed_dtype(self.conv.c.weight)
        sources = (*self.conv.sources(), *self.conv1.sources())

        def fold() -> Folded:
            (weight, bias), (centre, other) = self.conv.fold(), self.conv1.fold()
            return _cast((weight + F.pad(centre + 1, (1, 1, 1, 1)), bias + other), dtype)

        return _convolved(x, *self._folded(dtype, sources, fold), self.conv.c)


@standard
class SqueezeExcite(nn.Module):
    """Scales channels ``(B, C, H, W)`` by a function of their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = (channels // 4 + 4) // 8 * 8
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same shape."""
        means = x.mean((2, 3), keepdim=True)
        return x * convolve(self.fc2, F.relu(convolve(self.fc1, means))).sigmoid()


@standard
class ChannelMixer(nn.Module):
    """Two 1x1 convolutions with GELU between them, ``(B, C, H, W)`` to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, 2 * channels)
        self.conv2 = ConvNorm(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same shape."""
        return self.conv2(F.gelu(self.conv1(x)))

    def fused_sum(self, x: Tensor) -> Tensor:
        """``x + forward(x)`` as an MLP of each position."""
        dtype = computed_dtype(self.conv1.c.weight)
        (weight1, bias1), (weight2, bias2) = self.conv1.folded(dtype), self.conv2.folded(dtype)
        weights = weight1.flatten(1), bias1, weight2.flatten(1), bias2
        return _by_tokens(lambda tokens: tokens + gelu_mlp(tokens.to(dtype), *weights), x)


@standard
class RepViTBlock(nn.Module):
    """Mixes positions, perhaps scales channels, and adds what mixes channels."""

    def __init__(self, channels: int, scales: bool) -> None:
        super().__init__()
        self.token_mixer = TokenMixer(channels)
        self.se: nn.Module = SqueezeExcite(channels) if scales else nn.Identity()
        self.channel_mixer = ChannelMixer(channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same shape."""
        x = self.se(self.token_mixer(x))
        return x + self.channel_mixer(x)

    def fused(self, x: Tensor) -> Tensor:
        """:meth:`forward` by folded weights."""
        return self.channel_mixer.fused_sum(self.se(self.token_mixer.fused(x)))


@standard
class RepViTDownsample(nn.Module):
    """A block, then half the height and width and more channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.pre_block = RepViTBlock(in_channels, scales=False)
        self.spatial_downsample = ConvNorm(in_channels, in_channels, 3, 2, groups=in_channels)
        self.channel_downsample = ConvNorm(in_channels, out_channels)
        self.ffn = ChannelMixer(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, out_channels, H / 2, W / 2)``."""
        x = self.channel_downsample(self.spatial_downsample(self.pre_block(x)))
        return x + self.ffn(x)

    def fused(self, x: Tensor) -> Tensor:
        """:meth:`forward` by folded weights."""
        x = self.spatial_downsample.fused(self.pre_block.fused(x))
        return self.ffn.fused_sum(self.channel_downsample.fused(x))


@standard
class RepViTStage(nn.Module):
    """Blocks at one size; every other one scales channels."""

    def __init__(self, in_channels: int | None, channels: int, depth: int) -> None:
        super().__init__()
        self.downsample = nn.Identity() if in_channels is None else RepViTDownsample(in_channels, channels)
        self.blocks = nn.ModuleList(RepViTBlock(channels, scales=i % 2 == 0) for i in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, channels, H / 2, W / 2)``, or the same shape in the first stage."""
        x = self.downsample(x)
        for block in self.blocks:
            x = block(x)
        return x

    def fused(self, x: Tensor) -> Tensor:
        """:meth:`forward` by folded weights."""
        x = self.downsample.fused(x) if isinstance(self.downsample, RepViTDownsample) else x
        for block in self.blocks:
            x = cast(RepViTBlock, block).fused(x)
        return x


@standard
class RepViTStem(nn.Module):
    """An image ``(B, 3, H, W)`` to ``(B, channels, H / 4, W / 4)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, channels // 2, 3, 2)
        self.conv2 = ConvNorm(channels // 2, channels, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W)`` to ``(B, channels, H / 4, W / 4)``."""
        return self.conv2(F.gelu(self.conv1(x)))

    def fused(self, x: Tensor) -> Tensor:
        """:meth:`forward` by folded weights, channels last from here on."""
        x = x.contiguous(memory_format=torch.channels_last)
        return self.conv2.fused(F.gelu(self.conv1.fused(x)))


@standard
class RepViTBody(nn.Module):
    """The stem and four stages, under the names of timm's list of features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = RepViTStem(WIDTHS[0])
        for i, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
            self.add_module(f"stages_{i}", RepViTStage(WIDTHS[i - 1] if i else None, width, depth))

    def forward(self, x: Tensor) -> list[Tensor]:
        """The result of each stage for an image ``(B, 3, H, W)``, finest first."""
        fuses = not torch.is_grad_enabled() and is_standard(self)
        x, outputs = self.stem.fused(x) if fuses else self.stem(x), []
        for i in range(len(WIDTHS)):
            stage = cast(RepViTStage, self.get_submodule(f"stages_{i}"))
            x = stage.fused(x) if fuses else stage(x)
            outputs.append(x)
        return outputs


@standard
class RepViT(nn.Module):
    """The trunk of EdgeTAM.

    Source: ``sam2.modeling.backbones.timm.TimmBackbone`` of EdgeTAM, whose arguments it takes.

    Raises:
        ValueError: another model of timm than ``repvit_m1``, or other levels than all four.
    """

    def __init__(self, name: str = "repvit_m1.dist_in1k", features: Sequence[str] = LEVELS) -> None:
        super().__init__()
        if name.partition(".")[0] != "repvit_m1" or tuple(features) != LEVELS:
            raise ValueError(
                f"the trunk {name} with the levels {', '.join(features)} is not available; "
                f"expected repvit_m1 with {', '.join(LEVELS)}"
            )
        self.body = RepViTBody()
        self.channel_list = list(WIDTHS[::-1])

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks of all stages."""
        return [block for block in self.body.modules() if isinstance(block, RepViTBlock)]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps ``(B, C_i, H_i, W_i)`` of each stage for an image ``(B, 3, H, W)``, finest first."""
        return cast(list[Tensor], self.body(x))


def _cast(folded: Folded, dtype: torch.dtype) -> Folded:
    return folded[0].to(dtype), folded[1].to(dtype)


def _convolved(x: Tensor, weight: Tensor, bias: Tensor, like: nn.Conv2d) -> Tensor:
    """The convolution ``like`` with other weights, in their dtype."""
    x = x.to(weight.dtype)
    if emulates_bfloat16(x, weight):
        return in_float32(like._conv_forward, x, weight, bias)
    return like._conv_forward(x, weight, bias)


def _by_tokens(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A function of the channels of each position, applied to ``x (B, C, H, W)``."""
    return chunked(function, x.permute(0, 2, 3, 1), rows=1).permute(0, 3, 1, 2)
