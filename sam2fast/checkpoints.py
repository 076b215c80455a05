"""Reads checkpoints safely and loads them whole or not at all."""

import logging
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sam2fast import nano
from sam2fast._official_names import RELEASES

log = logging.getLogger(__name__)

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
ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # how the new and the old format of torch.save begin
SHOWN = 8  # names listed in an error before "and N more"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, or does not belong to the model."""


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a ``.pt`` file, with or without the official ``model`` level, or of a ``.safetensors`` file.

    No code from the file is run.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is no checkpoint, is damaged, or holds objects other than tensors.
        ImportError: a ``.safetensors`` file and the package safetensors is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file {str(path)!r}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path} is no checkpoint: expected named tensors, or a dict with them under 'model'")
    return dict(content)


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=_starts_with(path, ZIP))
    except pickle.UnpicklingError as error:
        # torch's own message goes on to advise loading the file without this protection.
        named = re.search(r"GLOBAL (\S+)|class (\S+)|function (\S+)", str(error))
        if named is None and not _starts_with(path, PICKLE):
            raise CheckpointError(f"{path} is damaged or no checkpoint at all") from error
        what = next(filter(None, named.groups())) if named else "a pickle of something other than tensors"
        raise CheckpointError(f"{path} holds {what}, which could run code, and was not loaded") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} is truncated, damaged or no checkpoint ({_first_line(error)})") from error


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError("reading .safetensors needs the package safetensors: pip install safetensors") from error
    try:
        return load_file(path, device="cpu")
    except SafetensorError as error:
        raise CheckpointError(f"{path} is truncated, damaged or no safetensors file ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def load_checkpoint(
    model: nn.Module, path: str | Path, device: torch.device, allow_image_only: bool, assign: bool = True
) -> None:
    """Gives ``model``, which may be on the meta device, the tensors of a checkpoint, on ``device``.

    Every name and shape is compared before the first tensor is assigned, so a failed call leaves the model as it was.
    Tensors are converted to the dtype of the parameter they fill.

    Args:
        allow_image_only: accept a file that lacks only what images do not need (``VIDEO_ONLY``). A note is logged,
            and what is missing becomes NaN, so that nothing computed from it can pass for a result.
        assign: replaces the model's parameters, which may be on the meta device, instead of overwriting their values,
            which an optimiser may hold.

    Raises:
        CheckpointError: the file does not fit the model; the message names keys and reason.
    """
    tensors = read_checkpoint(path)
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in tensors]
    image_only = bool(missing) and all(_is_video_only(name) for name in missing)
    _check(path, wanted, tensors, [] if image_only and allow_image_only else missing)
    if image_only:
        log.warning("%s has no weights for %s: the model works for images, not for video", path, _modules(missing))
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
        parts.append(f"{len(missing)} missing: {_listed(missing)}")
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected: {_listed(unexpected)}")
    if other_shape:
        parts.append(f"{len(other_shape)} of another shape: {_listed(other_shape)}")
    hint = ""
    if missing and not unexpected and not other_shape and all(_is_video_only(name) for name in missing):
        hint = f". It has no weights for {_modules(missing)}, which video needs; it can be used for images"
    elif (config := guess_config(found)) is not None:
        hint = f". Its weights are those of {config}"
    raise CheckpointError(f"{path} does not fit the model: {'; '.join(parts)}{hint}")


def _is_video_only(name: str) -> bool:
    return any(name == module or name.startswith(module + ".") for module in VIDEO_ONLY)


def _modules(names: Iterable[str]) -> str:
    return ", ".join(m for m in VIDEO_ONLY if any(n == m or n.startswith(m + ".") for n in names))


def _listed(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def guess_config(tensors: Mapping[str, Tensor]) -> str | None:
    """The configuration, official or nano's, whose image encoder has the widths and depth of these tensors, if any.

    Files without the parts that tell 2.0 from 2.1 are taken for 2.0: for images there is no difference.
    """
    embedding = tensors.get("image_encoder.trunk.patch_embed.proj.weight")
    if embedding is None or embedding.ndim != 4:
        return None
    depth = len({name.split(".")[3] for name in tensors if name.startswith("image_encoder.trunk.blocks.")})
    size = (embedding.shape[0], depth)
    if size == (32, 10):
        return nano.CONFIG
    letter = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}.get(size)
    generation = "sam2.1" if "no_obj_embed_spatial" in tensors else "sam2"
    configs = {release.config for release in RELEASES.values()}
    name = f"configs/{generation}/{generation}_hiera_{letter}.yaml"
    return name if name in configs else None
