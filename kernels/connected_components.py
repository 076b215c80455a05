"""Labels 8-connected components of binary masks, and computes their areas."""

import torch
from torch import Tensor

from sam2fast.kernels._dispatch import why_no_scans
from sam2fast.kernels._op import op

__all__ = ["connected_components", "connected_components_reference"]


def empty_results(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Returns empty tensors for labels and areas of components."""
    return mask.new_empty(mask.shape, dtype=torch.int32), mask.new_empty(mask.shape, dtype=torch.int32)


@op(
    shapes="a bool or uint8 mask (N, 1, H, W)",
    fits=lambda mask: mask.dtype in (torch.bool, torch.uint8),
    unsupported=lambda mask: why_no_scans(),
    fake=empty_results,
    is_chosen_late=True,
)
def connected_components(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Labels the 8-connected foreground components of each mask.

    Args:
        mask: Masks ``(N, 1, H, W)`` bool or uint8. Nonzero pixels are foreground. N, H and W may be 0.

    Returns:
        ``labels, areas``, both int32 ``(N, 1, H, W)``. Labels and areas are 0 on the background. A component's label is
        1 plus the row-major index of the component's first pixel. At each pixel, areas store the number of pixels of
        the pixel's component.

    Raises:
        ValueError: If ``mask`` has another shape or dtype.

    Source: ``sam2.utils.misc.get_connected_components``. SAM 2's function needs CUDA, and even H and W.
    """
    # Joins each horizontal run of foreground pixels with touching runs in the row above.
    N, _, H, W = mask.shape
    foreground = mask[:, 0] != 0  # (N, H, W)
    starts = foreground.clone()
    starts[..., 1:] &= ~foreground[..., :-1]
    run = starts.flatten().cumsum(0, dtype=torch.int32).view(N, H, W) - 1  # index of each pixel's run (row-major order)
    first_pixel = starts.flatten().nonzero()[:, 0]  # (R,) index of each run's first pixel
    if len(first_pixel) == 0:
        labels = torch.zeros(N, 1, H, W, dtype=torch.int32, device=mask.device)
        return labels, labels.clone()
    root = _join(*_touching_runs(foreground, starts, run), len(first_pixel))  # (R,)

    length = torch.bincount(run[foreground], minlength=len(first_pixel))  # (R,)
    area = torch.zeros_like(length).scatter_add_(0, root, length)[root]
    label = first_pixel[root] % (H * W) + 1
    # For background pixels, ``run`` is the index of the previous run, or -1, and the result is replaced by 0.
    labels, areas = (torch.where(foreground, table.to(torch.int32)[run], 0)[:, None] for table in (label, area))
    return labels, areas


connected_components_reference = connected_components.reference


def _touching_runs(foreground: Tensor, starts: Tensor, run: Tensor) -> tuple[Tensor, Tensor]:
    """Returns all pairs of runs ``(upper, lower)`` in adjacent rows that touch at an edge or a corner.

    The same pair may occur several times.
    """
    upper, lower = [], []
    W = foreground.shape[-1]
    for shift in (-1, 0, 1):  # column of the upper pixel minus column of the lower pixel
        above = (slice(None), slice(None, -1), slice(max(shift, 0), W + min(shift, 0)))
        below = (slice(None), slice(1, None), slice(max(-shift, 0), W + min(-shift, 0)))
        # Two touching runs always touch at the first pixel of one of the runs, so only first pixels are checked.
        touching = foreground[above] & foreground[below] & (starts[above] | starts[below])
        upper.append(run[above][touching])
        lower.append(run[below][touching])
    return torch.cat(upper).long(), torch.cat(lower).long()


def _join(a: Tensor, b: Tensor, count: int) -> Tensor:
    """Returns the smallest node in each node's component, for a graph of ``count`` nodes with edges ``(a, b)``."""
    root = torch.arange(count, device=a.device)
    while a.numel():
        # For each edge, link the larger root to the smaller root. Afterwards make the root each node's parent.
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        root.scatter_reduce_(0, high, low, "amin")
        while not torch.equal(root[root], root):
            root = root[root]
        a, b = root[a], root[b]
        open_edges = a != b
        a, b = a[open_edges], b[open_edges]
    return root
