"""Loads a checkpoint whole or not at all."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sam2fast.checkpoints.choosing import guess_config
from sam2fast.checkpoints.errors import CheckpointError, listed
from sam2fast.checkpoints.reading import read_checkpoint, recognised_prefix

_log = logging.getLogger(__name__)

# What a checkpoint may lack and still serve images: nothing there is computed from these.
VIDEO_ONLY = (
    "memory_attention",
    "memory_encoder",
    "mask_downsample",
    "obj_ptr_proj",
    "obj_ptr_tpos_proj",
    "maskmem_tpos_enc",
    "no_mem_pos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
    "sam_mask_decoder.pred_obj_score_head",
)


def load_checkpoint(
    model: nn.Module,
    path: str | Path,
    device: torch.device,
    allow_image_only: bool,
    assign: bool = True,
    prefix: str = "",
    keep_missing: bool = False,
) -> None:
    """Gives ``model``, which may be on the meta device, the tensors of a checkpoint, on ``device``.

    Every name and shape is compared before the first tensor is assigned, so a failed call leaves the model as it was.
    Tensors are converted to the dtype of the parameter they fill.

    Args:
        path, prefix: see :func:`sam2fast.checkpoints.read_checkpoint`.
        allow_image_only: accept a file that lacks only what images do not need (``VIDEO_ONLY``). A note is logged,
            and what is missing becomes NaN, so that nothing computed from it can pass for a result.
        assign: replaces the model's parameters, which may be on the meta device, instead of overwriting their values,
            which an optimiser may hold.
        keep_missing: what the file lacks keeps the values that the model has, and a note is logged, also if it lacks
            nothing. The model must not be on the meta device then.

    Raises:
        CheckpointError: the file cannot be read or does not fit the model; the message names keys and reason.
        FileNotFoundError: there is no such file.
    """
    tensors = read_checkpoint(path, prefix)
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in tensors]
    if keep_missing and len(missing) < len(wanted):
        _check(path, wanted, tensors, [])
        if missing:
            _log.warning("%s has no weights for %s: they keep the values that they had", path, listed(missing))
        else:
            _log.warning("%s has weights for everything: nothing keeps the values that it had", path)
        tensors = {**{name: wanted[name] for name in missing}, **tensors}
        missing = []
    image_only = bool(missing) and all(is_video_only(name) for name in missing)
    _check(path, wanted, tensors, [] if image_only and allow_image_only else missing)
    if image_only:
        _log.warning("%s has no weights for %s: the model works for images, not for video", path, _modules(missing))
    ready = {name: _on(device, tensors.get(name), like) for name, like in wanted.items()}
    model.load_state_dict(ready, strict=True, assign=assign)


def _on(device: torch.device, tensor: Tensor | None, like: Tensor) -> Tensor:
    # A copy, since the file is memory-mapped and may change or go while the model lives.
    out = torch.empty(like.shape, dtype=like.dtype, device=device)
    return out.fill_(float("nan")) if tensor is None else out.copy_(tensor)


def _check(path: str | Path, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], missing: list[str]) -> None:
    unexpected = [name for name in found if name not in wanted]
    other_shape = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(like.shape)}"
        for name, like in wanted.items()
        if name in found and found[name].shape != like.shape
    ]
    if not (missing or unexpected or other_shape):
        return
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing: {listed(missing)}")
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected: {listed(unexpected)}")
    if other_shape:
        parts.append(f"{len(other_shape)} of another shape: {listed(other_shape)}")
    hint = ""
    if missing and not unexpected and not other_shape and all(is_video_only(name) for name in missing):
        hint = f". It has no weights for {_modules(missing)}, which video needs; it can be used for images"
    elif prefix := recognised_prefix(found, wanted):
        hint = f". Every name begins with {prefix!r}; to load it without, pass ckpt_prefix={prefix!r}"
    elif (config := guess_config(found)) is not None:
        hint = f". Its weights are those of {config}"
    raise CheckpointError(f"{path} does not fit the model: {'; '.join(parts)}{hint}")


def is_video_only(name: str) -> bool:
    """Whether a weight of this official name serves video alone."""
    return any(name == module or name.startswith(module + ".") for module in VIDEO_ONLY)


def _modules(names: Iterable[str]) -> str:
    return ", ".join(m for m in VIDEO_ONLY if any(n == m or n.startswith(m + ".") for n in names))
