"""Position encodings: sines of grid positions, random Fourier features of points, axial rotations."""

import math
from operator import index
from typing import Any

import torch
from torch import Tensor, nn

from sam2fast.modeling.tables import Tables


class PositionEmbeddingSine(nn.Module):
    """Encodes each position of a map by sines and cosines of its row and its column.

    Source: ``sam2.modeling.position_encoding.PositionEmbeddingSine``. ``warmup_cache``, ``image_size`` and ``strides``
    are ignored, because tables are computed at first use.

    Attributes:
        cache: Encodings ``(num_pos_feats, H, W)`` by size ``(H, W)`` that replace computed encodings. Initially empty.
            A new entry takes effect, but not in graphs that were compiled before.
    """

    def __init__(
        self,
        num_pos_feats: int,
        temperature: int = 10000,
        normalize: bool = True,
        scale: float | None = None,
        warmup_cache: bool = True,
        image_size: int = 1024,
        strides: tuple[int, ...] = (4, 8, 16, 32),
    ) -> None:
        super().__init__()
        if num_pos_feats % 4:
            raise ValueError(f"num_pos_feats must be a multiple of 4, got {num_pos_feats}")
        if scale is not None and not normalize:
            raise ValueError("scale needs normalize=True")
        self.num_pos_feats = num_pos_feats // 2
        self.temperature = temperature
        self.normalize = normalize
        self.scale = 2 * math.pi if scale is None else scale
        self.cache: dict[tuple[int, int], Tensor] = {}
        self._tables = Tables(self._encode)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._tables = Tables(self._encode)  # replaces the tables of version 0.3, which were a dict

    def forward(self, x: Tensor) -> Tensor:
        """Returns the fp32 encoding ``(B, num_pos_feats, H, W)`` of maps ``x (B, C, H, W)``, expanded over B."""
        B, _, H, W = x.shape
        if self._has_replaced() and (index(H), index(W)) in self.cache:
            table = self.cache[index(H), index(W)].to(x.device)
        else:
            table = self._tables(H, W, device=x.device)
        return table.expand(B, -1, -1, -1)

    def _has_replaced(self) -> bool:
        return bool(self.cache)

    _has_replaced._dynamo_marked_constant = True  # type: ignore[attr-defined]

    @torch.no_grad()
    def encode_points(self, x: Tensor, y: Tensor, labels: Tensor) -> Tensor:
        """Encodes points ``x, y (B, N)`` in [0, 1] as ``(B, N, num_pos_feats + 1)``: channels of row, column, label.

        Raises:
            ValueError: If the shapes differ.
        """
        if x.ndim != 2 or not x.shape == y.shape == labels.shape:
            raise ValueError(
                f"x, y and labels must have one shape (B, N), got {(*x.shape,)}, {(*y.shape,)} and {(*labels.shape,)}"
            )
        column, row = self._encode_xy(x.flatten(), y.flatten())
        return torch.cat([row.unflatten(0, x.shape), column.unflatten(0, x.shape), labels[:, :, None]], dim=2)

    @torch.no_grad()
    def encode_boxes(self, x: Tensor, y: Tensor, w: Tensor, h: Tensor) -> Tensor:
        """Encodes boxes with centres ``x, y (N)`` and sizes ``w, h (N)`` in [0, 1] as ``(N, num_pos_feats + 2)``.

        The order of the channels is row, column, height, width.
        """
        column, row = self._encode_xy(x, y)
        return torch.cat([row, column, h[:, None], w[:, None]], dim=1)

    encode = encode_boxes

    def _encode_xy(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if x.ndim != 1 or x.shape != y.shape:
            raise ValueError(f"x and y must have one shape (N,), got {(*x.shape,)} and {(*y.shape,)}")
        return self._waves(x * self.scale), self._waves(y * self.scale)

    def _pe(self, B: int, device: torch.device, *cache_key: int) -> Tensor:
        H, W = cache_key
        return self(torch.empty(B, 0, H, W, device=device))

    def _encode(self, H: int, W: int, device: torch.device) -> Tensor:
        y, x = self._encode_axis(H, device), self._encode_axis(W, device)  # (H, C/2), (W, C/2)
        grid = torch.cat([y[:, None].expand(H, W, -1), x[None].expand(H, W, -1)], dim=-1)
        return grid.permute(2, 0, 1)

    def _encode_axis(self, length: int, device: torch.device) -> Tensor:
        position = torch.arange(1, length + 1, dtype=torch.float32, device=device)
        if self.normalize:
            position = position / (position[-1:] + 1e-6) * self.scale
        return self._waves(position)

    def _waves(self, position: Tensor) -> Tensor:
        """Returns sines and cosines ``(N, num_pos_feats / 2)`` of ``position (N)``."""
        channel = torch.arange(self.num_pos_feats, dtype=torch.float32, device=position.device)
        period = self.temperature ** (2 * (channel // 2) / self.num_pos_feats)
        angle = position[:, None] / period
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1)


class PositionEmbeddingRandom(nn.Module):
    """Encodes points in the unit square by sines and cosines of random projections.

    Source: ``sam2.modeling.position_encoding.PositionEmbeddingRandom``.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_pos_feats: int = 64, scale: float | None = None) -> None:
        super().__init__()
        matrix = torch.empty(2, num_pos_feats).normal_(std=scale if scale is not None and scale > 0 else 1.0)
        self.register_buffer("positional_encoding_gaussian_matrix", matrix)

    def encode(self, points: Tensor) -> Tensor:
        """Returns fp32 encodings ``(..., C)`` of points ``(..., 2)``, (x, y) in [0, 1]."""
        x_weights, y_weights = self.positional_encoding_gaussian_matrix.float()
        x, y = (2 * points.float() - 1).split(1, dim=-1)
        # In a matrix multiplication, autocast would round the coordinates.
        angle = 2 * math.pi * (x * x_weights + y * y_weights)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    def _pe_encoding(self, coords: Tensor) -> Tensor:
        return self.encode(coords)

    def forward_with_coords(self, coords_input: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Returns fp32 encodings ``(B, N, C)`` of points ``(B, N, 2)``, (x, y) in pixels. ``image_size`` is (H, W)."""
        height, width = image_size
        x, y = coords_input.unbind(-1)  # x and y are divided by Python numbers, without a copy to the device
        return self.encode(torch.stack([x / width, y / height], dim=-1))

    def forward(self, size: tuple[int, int]) -> Tensor:
        """Returns fp32 encodings ``(C, H, W)`` of the pixel centres of a map of ``size`` = (H, W)."""
        H, W = size
        device = self.positional_encoding_gaussian_matrix.device
        y = (torch.arange(H, dtype=torch.float32, device=device) + 0.5) / H
        x = (torch.arange(W, dtype=torch.float32, device=device) + 0.5) / W
        grid = torch.stack([x.expand(H, W), y[:, None].expand(H, W)], dim=-1)
        return self.encode(grid).permute(2, 0, 1)


def init_t_xy(end_x: int, end_y: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Returns fp32 column indices and row indices ``(end_x * end_y)`` of a map's positions, in row-major order."""
    position = torch.arange(end_x * end_y, device=device)
    return (position % end_x).float(), (position // end_x).float()


def axial_rope(
    dim: int, width: int, height: int, theta: float, device: torch.device, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Returns fp32 cosines and sines ``(height * width, dim / 2)`` of the axial rotary encoding.

    The first half of the channel pairs rotates with the column index, the second half with the row index. Both indices
    are multiplied by ``scale``.

    Source: ``sam2.modeling.position_encoding.compute_axial_cis``.
    """
    frequency = 1.0 / theta ** (torch.arange(0, dim, 4, dtype=torch.float32, device=device)[: dim // 4] / dim)
    column, row = (x * scale for x in init_t_xy(width, height, device))
    angle = torch.cat([torch.outer(column, frequency), torch.outer(row, frequency)], dim=-1)
    return angle.cos(), angle.sin()


class WindowRotations:
    """Computes axial rotations for windows and maps. Positions of a whole map are scaled to the side of a window.

    Args:
        dim: Channels of a head.
        side: Side of a window.
        theta: Base of the frequencies.
    """

    def __init__(self, dim: int, side: int, theta: float) -> None:
        self.dim, self.side, self.theta = dim, side, theta
        self._tables = Tables(self._rotations)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["dim"], state["side"], state["theta"])  # type: ignore[misc]

    def __call__(self, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns cosines and sines ``(side * side, dim / 2)`` of a square map."""
        return self._tables(side, device=device)

    def _rotations(self, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
        return axial_rope(self.dim, side, side, self.theta, device, self.side / side)


def compute_axial_cis(dim: int, end_x: int, end_y: int, theta: float = 10000.0) -> Tensor:
    """Returns the rotations of :func:`axial_rope` as complex numbers ``(end_x * end_y, dim / 2)``."""
    return torch.complex(*axial_rope(dim, end_x, end_y, theta, torch.device("cpu")))


def sine_periods(dim: int, device: torch.device, temperature: float = 10000) -> Tensor:
    """Returns periods and phases ``(2, dim)`` for :func:`sine_1d`. The phase pi / 2 turns sines into cosines."""
    half = dim // 2
    channel = torch.arange(half, dtype=torch.float32, device=device)
    periods = temperature ** (2 * (channel // 2) / half)
    return torch.stack([periods.repeat(2), torch.pi / 2 * (torch.arange(dim, device=device) >= half)])


def sine_1d(position: Tensor, periods: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Encodes ``position (...)`` as ``(..., dim)``: sines, then cosines. :func:`sine_periods` computes ``periods``.

    ``dtype`` is the dtype of the result. None uses the dtype of the computation.

    Source: ``sam2.modeling.sam2_utils.get_1d_sine_pe``.
    """
    position = position if position.is_floating_point() else position.float()
    angle = torch.addcdiv(periods[1], position[..., None], periods[0])
    return angle.sin() if dtype is None else torch.sin(angle, out=torch.empty_like(angle, dtype=dtype))
