"""A user's trunk: a small convolutional network that knows nothing of sam2 or sam2fast."""

from collections.abc import Sequence

from torch import Tensor, nn


class ConvTrunk(nn.Module):
    """Maps of an image at strides 4, 8, 16 and so on, with so many channels."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.channel_list = [*reversed(widths)]
        self.stages, inputs = nn.ModuleList(), 3
        for i, width in enumerate(widths):
            stride = 2 if i else 4
            conv = nn.Conv2d(inputs, width, 2 * stride - 1, stride=stride, padding=stride - 1, bias=False)
            self.stages.append(nn.Sequential(conv, nn.BatchNorm2d(width), nn.GELU()))
            inputs = width

    def forward(self, images: Tensor) -> list[Tensor]:
        """Finest first."""
        maps, x = [], images
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps
