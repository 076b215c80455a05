"""8-connected components of binary masks, with the area of each."""

import torch

from sam2fast.kernels._dispatch import trusts_scans, use_triton
from sam2fast.kernels._operators import call, register_operator
from sam2fast.kernels.connected_components.reference import connected_components_reference

__all__ = ["connected_components", "connected_components_reference"]


def connected_components(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels the 8-connected foreground components of each mask.

    Args:
        mask: ``(N, 1, H, W)`` bool or uint8, nonzero is foreground; any H and W, also 0 masks.

    Returns:
        ``labels, areas``, both int32 ``(N, 1, H, W)`` and 0 on the background. A component's label is 1 plus the
        row-major index of its first pixel in its mask. Each of its pixels holds its area, in pixels.

    Raises:
        ValueError: ``mask`` has another shape or dtype.

    Source: ``sam2.utils.misc.get_connected_components``, which needs CUDA and even H and W.
    """
    if mask.ndim != 4 or mask.shape[1] != 1 or mask.dtype not in (torch.bool, torch.uint8):
        raise ValueError(f"expected a bool or uint8 mask (N, 1, H, W), got {mask.dtype} {tuple(mask.shape)}")
    return call(_connected_components, mask)


# One operator, so that graphs (torch.compile, torch.export) hold one node with known shapes. The backend is chosen when
# it runs.
@register_operator("sam2fast::connected_components")
def _connected_components(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if use_triton("connected_components", mask) and trusts_scans():
        from sam2fast.kernels.connected_components.kernel import connected_components_triton

        return connected_components_triton(mask)
    return connected_components_reference(mask)


@_connected_components.register_fake
def _(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.empty(mask.shape, dtype=torch.int32, device=mask.device) for _ in range(2))  # type: ignore[return-value]
