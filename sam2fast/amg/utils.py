"""Computes grids, crops, boxes and run lengths of automatic masks. Names and results equal ``sam2.utils.amg``.

Empty inputs are valid. OpenCV, torchvision and pycocotools are not needed.
"""

import copy
import itertools
import math
from collections.abc import ItemsView, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.io.rle import RLE, UncompressedRLE, compress_run_lengths, list_run_lengths, read_run_lengths
from sam2fast.kernels.connected_components import connected_components
from sam2fast.kernels.mask_ops import masks_to_boxes
from sam2fast.kernels.run_lengths import decode_masks, encode_masks
from sam2fast.utils.async_copies import copy_to_device

# Maximum distance in pixels from a crop's edge to a box that counts as cut off.
EDGE_DISTANCE = 20.0

Boxes = TypeVar("Boxes", list[int], list[float], np.ndarray, Tensor)


class MaskData:
    """Stores named columns of equal length: lists, arrays or tensors with one entry per mask.

    Source: ``sam2.utils.amg.MaskData``.

    Raises:
        TypeError: If a column is not a list, array or tensor.
    """

    def __init__(self, **kwargs: Any) -> None:
        self._stats: dict[str, Any] = {}
        for name, column in kwargs.items():
            self[name] = column

    def __setitem__(self, key: str, item: Any) -> None:
        if not isinstance(item, list | np.ndarray | Tensor):
            raise TypeError(f"{key} is a {type(item).__name__}; expected a list, array or tensor")
        self._stats[key] = item

    def __delitem__(self, key: str) -> None:
        del self._stats[key]

    def __getitem__(self, key: str) -> Any:
        return self._stats[key]

    def items(self) -> ItemsView[str, Any]:
        """Returns pairs of names and columns."""
        return self._stats.items()

    def filter(self, keep: Tensor) -> None:
        """Filters every column in place, by indices ``keep (K)`` or by a bool mask ``keep (N)``."""
        keep = torch.as_tensor(keep)
        if keep.dtype != torch.bool:
            keep = keep.long()  # an empty list has become a float tensor
        for name, column in self._stats.items():
            if isinstance(column, Tensor):
                self._stats[name] = column[keep.to(column.device)]
            elif isinstance(column, np.ndarray):
                self._stats[name] = column[keep.detach().cpu().numpy()]
            else:
                indices = keep.nonzero()[:, 0] if keep.dtype == torch.bool else keep
                self._stats[name] = [column[i] for i in indices.tolist()]

    def cat(self, new_stats: "MaskData") -> None:
        """Appends copies of the columns of ``new_stats`` in place. Columns with new names are added."""
        for name, column in new_stats.items():
            if name not in self._stats:
                self._stats[name] = copy.deepcopy(column)
            elif isinstance(column, Tensor):
                self._stats[name] = torch.cat([self._stats[name], column])
            elif isinstance(column, np.ndarray):
                self._stats[name] = np.concatenate([self._stats[name], column])
            else:
                self._stats[name] = self._stats[name] + copy.deepcopy(column)

    def to_numpy(self) -> None:
        """Converts tensors to fp32 arrays in place."""
        for name, column in self._stats.items():
            if isinstance(column, Tensor):
                self._stats[name] = column.detach().float().cpu().numpy()


def build_point_grid(n_per_side: int) -> np.ndarray:
    """Returns the centres of ``n * n`` grid cells, row by row: points ``(n * n, 2)``, (x, y) in [0, 1].

    Raises:
        ValueError: If ``n_per_side`` is not positive.
    """
    if n_per_side < 1:
        raise ValueError(f"n_per_side must be at least 1, got {n_per_side}")
    offset = 1 / (2 * n_per_side)
    side = np.linspace(offset, 1 - offset, n_per_side)
    return np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)


def build_all_layer_point_grids(n_per_side: int, n_layers: int, scale_per_layer: float) -> list[np.ndarray]:
    """Returns point grids of the whole image and each layer of crops.

    Each layer has ``scale_per_layer`` times fewer points per side than the previous layer.

    Raises:
        ValueError: If a layer would have no points.
    """
    return [build_point_grid(int(n_per_side / scale_per_layer**layer)) for layer in range(n_layers + 1)]


def generate_crop_boxes(
    im_size: tuple[int, ...], n_layers: int, overlap_ratio: float
) -> tuple[list[list[int]], list[int]]:
    """Returns boxes of the whole image, and of ``2**i`` by ``2**i`` overlapping crops for each layer i.

    Args:
        im_size: Size (H, W) of the image.
        overlap_ratio: Overlap of adjacent crops in the first layer, as a fraction of the image's shorter side.

    Returns:
        Boxes XYXY in pixels, ordered column by column, and the layer of each box. Boxes exclude the last row and
        column. If the image has fewer pixels than crops, some boxes are empty.
    """
    height, width = im_size
    boxes, layers = [[0, 0, width, height]], [0]
    for layer in range(1, n_layers + 1):
        per_side = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / per_side))
        crop_w, crop_h = (math.ceil((overlap * (per_side - 1) + side) / per_side) for side in (width, height))
        for i, j in itertools.product(range(per_side), repeat=2):
            x, y = i * (crop_w - overlap), j * (crop_h - overlap)
            boxes.append([x, y, min(x + crop_w, width), min(y + crop_h, height)])
            layers.append(layer)
    return boxes, layers


def batch_iterator(batch_size: int, *args: Any) -> Iterator[list[Any]]:
    """Yields lists with a slice of each argument. Slices have ``batch_size`` entries; the last slices may be shorter.

    Raises:
        ValueError: If there are no ``args``, or the lengths of ``args`` differ.
    """
    lengths = {len(arg) for arg in args}
    if len(lengths) != 1:
        raise ValueError(f"expected sequences of equal length, got lengths {sorted(lengths)}")
    for start in range(0, lengths.pop(), batch_size):
        yield [arg[start : start + batch_size] for arg in args]


def is_box_near_crop_edge(
    boxes: Tensor, crop_box: Sequence[int], orig_box: Sequence[int], atol: float = EDGE_DISTANCE
) -> Tensor:
    """Returns True for each box near an edge of the crop, unless the edge is an edge of the image.

    Args:
        boxes: Boxes ``(N, 4)`` XYXY in pixels of the crop.
        crop_box, orig_box: Boxes XYXY in pixels of the image.
        atol: Maximum distance to an edge, in pixels.

    Returns:
        Bool tensor ``(N)``.
    """
    corner = [*crop_box[:2], *crop_box[:2]]
    on_device = copy_to_device(torch.tensor([corner, [*crop_box], [*orig_box]], device="cpu"), boxes.device)
    origin, crop_edges, image_edges = on_device.unbind()
    in_image = (boxes + origin).float()

    def near(edges: Tensor) -> Tensor:
        return torch.isclose(in_image, edges.float(), atol=atol, rtol=0)

    return (near(crop_edges) & ~near(image_edges)).any(dim=1)


def box_xyxy_to_xywh(box_xyxy: Boxes) -> Boxes:
    """Returns copies of boxes XYXY as x, y, width, height: one box (list), or an array or tensor ``(..., 4)``."""
    box = copy.deepcopy(box_xyxy)
    if isinstance(box, list):
        box[2:] = [box[2] - box[0], box[3] - box[1]]
    else:
        box[..., 2:] -= box[..., :2]
    return box


def uncrop_boxes_xyxy(boxes: Tensor, crop_box: Sequence[int]) -> Tensor:
    """Converts boxes ``(..., 4)`` from pixels of the crop to pixels of the image."""
    x, y = crop_box[:2]
    return boxes + copy_to_device(torch.tensor([x, y, x, y], device="cpu"), boxes.device)


def uncrop_points(points: Tensor, crop_box: Sequence[int]) -> Tensor:
    """Converts points ``(..., 2)`` from pixels of the crop to pixels of the image."""
    return points + copy_to_device(torch.tensor(crop_box[:2], device="cpu"), points.device)


def batched_mask_to_box(masks: Tensor) -> Tensor:
    """Returns boxes ``(..., 4)`` int64, inclusive XYXY, of bool masks ``(..., H, W)``. Empty masks get zeros."""
    if masks.numel() == 0:
        return masks.new_zeros(*masks.shape[:-2], 4, dtype=torch.int64)
    return zeros_if_empty(masks_to_boxes(masks))


def zeros_if_empty(boxes: Tensor) -> Tensor:
    """Converts boxes of :func:`~sam2fast.kernels.mask_ops.masks_to_boxes` to int64, with zeros for empty masks."""
    return torch.where(boxes[..., 2:3] < 0, 0, boxes).long()


def calculate_stability_score(masks: Tensor, mask_threshold: float, threshold_offset: float) -> Tensor:
    """Computes the IoU ``(...)`` of two masks of logits ``(..., H, W)``: at the threshold plus and minus an offset.

    As in SAM 2, the result is NaN if no logit is above the lower level.
    """
    inner, outer = (
        (masks > mask_threshold + sign * threshold_offset).sum((-2, -1), dtype=torch.int32) for sign in (1, -1)
    )
    return inner / outer


def uncrop_masks(masks: Tensor, crop_box: Sequence[int], orig_h: int, orig_w: int) -> Tensor:
    """Pads masks ``(..., h, w)`` of a crop with background to the image's size, ``(..., orig_h, orig_w)``."""
    x0, y0, x1, y1 = crop_box
    if (x0, y0, x1, y1) == (0, 0, orig_w, orig_h):
        return masks
    return F.pad(masks, (x0, orig_w - x1, y0, orig_h - y1))


def remove_small_regions(mask: np.ndarray, area_thresh: float, mode: str) -> tuple[np.ndarray, bool]:
    """Returns the bool mask ``(H, W)`` without small holes or islands, and True if the mask has changed.

    Args:
        area_thresh: Area in pixels below which an 8-connected region is small.
        mode: ``holes`` to fill small background regions, or ``islands`` to remove small foreground regions. If all
            islands are small, the largest island stays. Among equal islands, the first stays.

    Raises:
        ValueError: If ``mode`` is another value.
    """
    if mode not in ("holes", "islands"):
        raise ValueError(f"mode must be 'holes' or 'islands', got {mode!r}")
    regions = np.logical_not(mask) if mode == "holes" else np.asarray(mask, dtype=bool)
    labels, areas = (x[0, 0].numpy() for x in connected_components(torch.from_numpy(regions.copy())[None, None]))
    small = regions & (areas < area_thresh)
    if not small.any():
        return mask, False
    if mode == "holes":
        return mask | small, True
    if (small == regions).all():
        return labels == labels.flat[areas.argmax()], True
    return regions & ~small, True


def mask_to_rle_pytorch(tensor: Tensor) -> list[UncompressedRLE]:
    """Encodes bool masks ``(N, H, W)`` as COCO's uncompressed run lengths, ``{"size": [H, W], "counts": [...]}``."""
    return list_run_lengths(encode_masks(tensor.bool()))


def rle_to_mask(rle: Mapping[str, Any]) -> np.ndarray:
    """Decodes uncompressed or compressed run lengths to a bool mask ``(H, W)``.

    Raises:
        ValueError: If the counts are invalid or do not add up to H * W.
    """
    return decode_masks(read_run_lengths([rle]))[0].numpy()


def area_from_rle(rle: Mapping[str, Any]) -> int:
    """Counts the foreground pixels of uncompressed run lengths."""
    return sum(rle["counts"][1::2])


def coco_encode_rle(uncompressed_rle: Mapping[str, Any]) -> RLE:
    """Converts uncompressed run lengths to COCO's compressed form, ``{"size": [H, W], "counts": str}``.

    Raises:
        ValueError: If the counts do not add up to H * W.
    """
    return compress_run_lengths(read_run_lengths([uncompressed_rle]))[0]
