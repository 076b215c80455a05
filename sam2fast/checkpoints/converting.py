"""Converts a checkpoint from one layout to another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sam2fast.checkpoints.choosing import Choice, choose_config
from sam2fast.checkpoints.int8 import to_int8
from sam2fast.checkpoints.loading import is_video_only
from sam2fast.checkpoints.reading import read_with_notes
from sam2fast.checkpoints.transformers_config import transformers_config
from sam2fast.checkpoints.weight_files import CONFIG_FILE, CheckpointError, listed, read_record
from sam2fast.checkpoints.writing import (
    check_free,
    write_official,
    write_safetensors,
    write_transformers,
    written_files,
)
from sam2fast.config import ConfigError, build_from_config, load_config
from sam2fast.io.atomic import expanded
from sam2fast.io.file_records import file_sha256
from sam2fast.io.made_from import described, differences, is_whole
from sam2fast.modeling.layers import init_empty_weights

LAYOUTS = ("official", "safetensors", "transformers")
OBJECT_SCORES = "sam_mask_decoder.pred_obj_score_head."


class Conversion(NamedTuple):
    """Stores the result of a conversion."""

    layout: str
    choice: Choice | None  # None if no configuration fits
    tensors: int
    parameters: int
    dtypes: tuple[str, ...]
    files: dict[Path, str]  # SHA-256 of each written file
    is_kept: bool = False  # True if an existing target from the same source was kept
    of_detector: int = 0  # number of omitted weights of SAM 3's detector


def convert_checkpoint(
    source: str | Path,
    target: str | Path,
    layout: str,
    *,
    dtype: torch.dtype | None = None,
    int8: bool = False,
    config: str | Path | None = None,
    prefix: str = "",
    overwrite: bool = False,
    made_from: Mapping[str, Any] | None = None,
) -> Conversion:
    """Converts a checkpoint of any layout to another layout. Compares the written files with the weights.

    Args:
        source, prefix: See :func:`sam2fast.checkpoints.read_checkpoint`.
        target: Target file, or folder for ``transformers``. The target is written atomically.
        layout: ``official`` (``.pt``), ``safetensors`` (with official names) or ``transformers``.
        dtype: Dtype of the written weights. If None, weights keep their dtypes. Since ``transformers`` needs a single
            dtype, several dtypes become float32.
        int8: If True, stores large weights as int8. Only for ``safetensors``. See
            :func:`sam2fast.checkpoints.int8.to_int8`.
        config: Configuration of the weights. If None, the weights determine the configuration. Names and shapes must
            fit the whole model, or the model's part for images. If no configuration fits, ``official`` and
            ``safetensors`` accept any weights.
        overwrite: If True, replaces an existing file, or a folder that contains only a checkpoint of transformers.
        made_from: Record of the sources, written with the weights. See :mod:`sam2fast.io.made_from`. Unless
            ``overwrite`` is True, a target with an equal record is kept.

    Raises:
        FileNotFoundError: If the checkpoint or the configuration does not exist.
        FileExistsError: If the target exists with a different record.
        CheckpointError: If the checkpoint cannot be read, does not fit the configuration, or overflows in ``dtype``.
        ConfigError: If the configuration is invalid, or transformers has no such model.
        ValueError: If the layout is unknown, the target's name does not fit the layout, ``int8`` is combined with a
            dtype or another layout, or ``dtype`` is not floating-point.
        OSError: If a file cannot be written.
    """
    target = expanded(target)
    check_target(target, layout)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype is {dtype}; expected a floating-point torch.dtype, such as torch.bfloat16")
    if int8 and (layout != "safetensors" or dtype is not None):
        raise ValueError("int8 is only for the layout safetensors, without a dtype")
    is_kept = False
    if made_from is not None and not overwrite and target.exists():
        if other := differences(read_record(target), made_from):
            raise FileExistsError(f"{target} already exists and {described(other)}; choose another OUT, or --overwrite")
        is_kept = not target.is_dir() or is_whole(target / CONFIG_FILE)
        overwrite = not is_kept
    if not is_kept:
        check_free(target, overwrite)
    read = read_with_notes(source, prefix)
    weights = read.tensors
    if config is not None:
        choice: Choice | None = Choice(str(config))
    else:
        choice = choose_config(source, prefix) if layout == "transformers" else fitting_config(source, prefix)
    try:
        video = choice is not None and _has_video(source, weights, choice)
    except CheckpointError:
        if config is not None or layout == "transformers":
            raise
        choice, video = None, False
    if dtype is None and layout == "transformers" and len({x.dtype for x in weights.values()}) > 1:
        dtype = torch.float32
    weights = {name: _converted(name, tensor, dtype) for name, tensor in weights.items()}
    stored = to_int8(weights) if int8 else weights
    if layout == "official" and not is_kept:
        write_official(weights, target, overwrite, made_from)
    elif layout == "safetensors" and not is_kept:
        write_safetensors(stored, target, overwrite, made_from)
    elif not is_kept:
        assert choice is not None
        if not any(name.startswith(OBJECT_SCORES) for name in weights):
            raise CheckpointError(f"{source} has no weights {OBJECT_SCORES}*, which transformers also needs for images")
        facts = transformers_config(choice.config, choice.overrides, video)
        facts["dtype"] = _dtype_name(next(iter(weights.values())).dtype)
        write_transformers(weights, facts, target, overwrite, made_from)
    return Conversion(
        layout,
        choice,
        len(weights),
        sum(tensor.numel() for tensor in weights.values()),
        tuple(sorted({_dtype_name(tensor.dtype) for tensor in stored.values()})),
        {file: file_sha256(file) for file in written_files(target)},
        is_kept,
        read.of_detector,
    )


def check_target(target: Path, layout: str) -> None:
    """Raises ``ValueError`` if the layout is unknown, or the target's name does not fit the layout."""
    if layout not in LAYOUTS:
        raise ValueError(f"no layout {layout!r}; expected one of {', '.join(LAYOUTS)}")
    if layout == "safetensors" and target.suffix != ".safetensors":
        raise ValueError(f"a file of the layout safetensors must be named *.safetensors, got {target}")
    if layout == "official" and target.suffix not in (".pt", ".pth"):
        raise ValueError(f"a file of the official layout must be named *.pt, got {target}")
    if layout == "transformers" and target.suffix in (".pt", ".pth", ".safetensors"):
        raise ValueError(f"the layout transformers needs a folder, got the file name {target}")


def fitting_config(source: str | Path, prefix: str = "") -> Choice | None:
    """Returns the configuration of a checkpoint's model, or None if no configuration fits."""
    try:
        return choose_config(source, prefix)
    except CheckpointError:
        return None


def _has_video(source: str | Path, weights: Mapping[str, Tensor], choice: Choice) -> bool:
    """Returns True for weights of the whole model, and False for the part for images. Else raises an error."""
    config = load_config(choice.config, choice.overrides)
    if "model" not in config:
        raise ConfigError(f"{choice.config} has no 'model'")
    with init_empty_weights():
        model = build_from_config(config.model)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    other = sorted({name for name, _ in found.items() ^ expected.items()})
    if not other:
        return True
    if all(is_video_only(name) and name not in found for name in other):
        return False
    raise CheckpointError(
        f"{source} does not have the weights of {choice.config}; missing, unexpected or of another shape: "
        f"{listed(other)}"
    )


def _converted(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or not tensor.is_floating_point():
        return tensor
    wide = tensor.float() if tensor.itemsize == 1 else tensor  # torch cannot compute with 8-bit floats
    if (wide.isfinite() & (wide.abs() > torch.finfo(dtype).max)).any():
        raise CheckpointError(f"{name} has numbers too large for {_dtype_name(dtype)}")
    return tensor.to(dtype)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
