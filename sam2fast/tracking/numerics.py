"""What decides how a recorded function computes, besides its arguments."""

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sam2fast.kernels._dispatch import backend_key
from sam2fast.kernels._launch import tf32_is_allowed
from sam2fast.modeling.compiled import CompiledMethod
from sam2fast.tracking.features import autocast_dtype

if TYPE_CHECKING:
    from sam2fast.modeling.sam2_base import SAM2Base


def numerics(device: torch.device) -> Hashable:
    """The switches in force: a function is recorded for each setting that it meets."""
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    matmul = cuda.matmul
    reduced = (matmul.allow_bf16_reduced_precision_reduction, matmul.allow_fp16_reduced_precision_reduction)
    attention = (
        cuda.flash_sdp_enabled(),
        cuda.mem_efficient_sdp_enabled(),
        cuda.cudnn_sdp_enabled(),
        cuda.math_sdp_enabled(),
    )
    return (
        backend_key(),
        autocast_dtype(device),
        tf32_is_allowed(),
        _convolutions_in_tf32(),
        cudnn.benchmark,
        cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
        reduced,
        getattr(matmul, "allow_fp16_accumulation", None),  # not in the oldest torch
        attention,
    )


def _convolutions_in_tf32() -> bool:
    """Whether cuDNN convolves fp32 maps by TF32 products."""
    cudnn = torch.backends.cudnn
    # As for products of matrices, newer torch has another switch, which the old one sets too, and refuses to read the
    # old one where the new ones of convolutions and of recurrent networks differ.
    precision = getattr(getattr(cudnn, "conv", None), "fp32_precision", None)
    return cudnn.allow_tf32 if precision is None else precision == "tf32"


def fingerprint(model: "SAM2Base") -> Hashable:
    """Where the weights lie, and the settings of the parts that tracking goes through: what recordings hold on to.

    The user's own functions count as they are, not by what they hold.
    """
    tensors = [*model.parameters(), *model.buffers()]
    weights = tuple((x.data_ptr(), x.dtype) for x in tensors)
    parts = (
        model,
        model.image_encoder,
        model.memory_attention,
        model.sam_prompt_encoder,
        model.sam_mask_decoder,
        model.memory_encoder,
    )
    own = model.mask_selection, getattr(model, "memory_selection", None), getattr(model, "approximations", None)
    return weights, tuple(_settings(part) for part in parts), own


def has_hooks(model: nn.Module) -> bool:
    """Whether a part has hooks, which nobody calls when a recording runs."""
    return any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def _settings(part: nn.Module) -> Any:
    kinds, others = bool | int | float | str, ("training", "fast", "fill_hole_area")  # which are looked at every time
    public = [(name, value) for name, value in vars(part).items() if not name.startswith("_") and name not in others]
    compiled = tuple(id(value) for _, value in public if isinstance(value, CompiledMethod))
    return compiled, tuple((name, value) for name, value in public if isinstance(value, kinds))
