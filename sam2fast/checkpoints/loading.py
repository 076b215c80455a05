"""Loads all weights of a checkpoint into a model, or only the weights that fit."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sam2fast.checkpoints.choosing import guess_config
from sam2fast.checkpoints.other_files import OTHER_MODEL, family_of
from sam2fast.checkpoints.reading import read_checkpoint
from sam2fast.checkpoints.weight_files import CheckpointError, listed

_log = logging.getLogger(__name__)

# Modules that are only used for video. A checkpoint without these modules works for images.
VIDEO_ONLY = (
    "memory_attention",
    "memory_encoder",
    "spatial_perceiver",
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
    """Loads a checkpoint into ``model``, with tensors on ``device``. A model on the meta device is supported.

    Compares all names and shapes before assigning the first tensor, so a failed call does not change the model.
    Converts tensors to the dtypes of the model's parameters.

    Args:
        path, prefix: See :func:`sam2fast.checkpoints.read_checkpoint`.
        device: Device of the loaded tensors.
        allow_image_only: If True, accepts a file that lacks only modules for video (``VIDEO_ONLY``). Logs a warning,
            and sets missing weights to NaN, so that results computed from them are recognizable.
        assign: If True, replaces the model's parameters. Otherwise overwrites parameters in place, so that references
            of an optimizer stay valid.
        keep_missing: If True, weights that the file lacks keep the model's values, and a warning is always logged.
            Excludes models on the meta device.

    Raises:
        CheckpointError: If the file cannot be read or does not fit the model. The message lists the weights that do not
            fit.
        FileNotFoundError: If the file does not exist.
    """
    tensors = read_checkpoint(path, prefix)
    expected = model.state_dict()
    # The model does not use batch counts of norms, and some checkpoints omit batch counts.
    counts = {name: x for name, x in expected.items() if name.endswith(".num_batches_tracked") and name not in tensors}
    tensors = {**tensors, **{name: torch.zeros(x.shape, dtype=x.dtype) for name, x in counts.items()}}
    missing = [name for name in expected if name not in tensors]
    if keep_missing and len(missing) < len(expected):
        _check(path, expected, tensors, [])
        if missing:
            _log.warning("%s has no weights for %s: they keep their values", path, listed(missing))
        else:
            _log.warning("%s has all weights of the model: none keeps its value", path)
        tensors = {**{name: expected[name] for name in missing}, **tensors}
        missing = []
    image_only = bool(missing) and all(is_video_only(name) for name in missing)
    _check(path, expected, tensors, [] if image_only and allow_image_only else missing)
    if image_only:
        _log.warning("%s works for images, not for video: it has no weights for %s", path, _modules(missing))
    ready = {name: _on(device, tensors.get(name), like) for name, like in expected.items()}
    model.load_state_dict(ready, strict=True, assign=assign)


def _on(device: torch.device, tensor: Tensor | None, like: Tensor) -> Tensor:
    # Copies the tensor, since the tensor is memory-mapped and the file may change later.
    out = torch.empty(like.shape, dtype=like.dtype, device=device)
    return out.fill_(float("nan")) if tensor is None else out.copy_(tensor)


def _check(path: str | Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor], missing: list[str]) -> None:
    report = _compared(path, expected, found)
    if not (missing or report.unexpected or report.other_shape):
        return
    if missing and not report.unexpected and not report.other_shape and all(is_video_only(name) for name in missing):
        raise CheckpointError(
            f"{path} has weights for images only: use another file for video. It lacks weights of {_modules(missing)}"
        )
    if family := family_of(found):
        raise CheckpointError(f"{path} does not fit the model: it has weights of {family}; {OTHER_MODEL}")
    parts = _differences(missing, report.unexpected, report.other_shape)
    hint = ""
    if (config := guess_config(found)) is not None:
        differs = any(name.startswith("image_encoder.") for name in (*missing, *report.other_shape))
        if differs and config != guess_config(expected):
            counts = ", ".join(part.partition(":")[0] for part in parts)
            raise CheckpointError(
                f"{path} does not fit the model: its weights are those of {config}, "
                f"with another image encoder ({counts})"
            )
        hint = f". It has the weights of {config}; to load only weights that fit, pass partial=True in Python"
    raise CheckpointError(f"{path} does not fit the model: {'; '.join(parts)}{hint}")


def is_video_only(name: str) -> bool:
    """Returns True if the weight with the official name ``name`` is only used for video."""
    return any(name == module or name.startswith(module + ".") for module in VIDEO_ONLY)


def _modules(names: Iterable[str]) -> str:
    """Returns text that lists the modules of :data:`VIDEO_ONLY` with weights in ``names``."""
    return ", ".join(m for m in VIDEO_ONLY if any(n == m or n.startswith(m + ".") for n in names))


@dataclass(frozen=True)
class LoadReport:
    """Lists which weights of a checkpoint were loaded, by official name."""

    path: Path
    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # weights of the model that keep their values
    unexpected: tuple[str, ...]  # weights of the checkpoint that the model lacks
    other_shape: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]  # not loaded; shapes in checkpoint and in model

    @property
    def complete(self) -> bool:
        """Returns True if all weights of the model were loaded, and all weights of the checkpoint were used."""
        return not (self.missing or self.unexpected or self.other_shape)

    def __str__(self) -> str:
        unchanged = len(self.missing) + len(self.other_shape)
        loaded = f"{self.path}: {len(self.loaded)} weights loaded, {unchanged} unchanged"
        return "; ".join([loaded, *_differences(self.missing, self.unexpected, self.other_shape)])


def _compared(path: str | Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> LoadReport:
    """Compares names and shapes of the weights ``found`` with the model's weights ``expected``."""
    shapes = {name: (tuple(found[name].shape), tuple(like.shape)) for name, like in expected.items() if name in found}
    return LoadReport(
        path=Path(path),
        loaded=tuple(name for name, (stored, ours) in shapes.items() if stored == ours),
        missing=tuple(name for name in expected if name not in found),
        unexpected=tuple(name for name in found if name not in expected),
        other_shape={name: (stored, ours) for name, (stored, ours) in shapes.items() if stored != ours},
    )


def _differences(
    missing: Sequence[str],
    unexpected: Sequence[str],
    other_shape: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
) -> list[str]:
    shapes = [f"{name} {stored} instead of {ours}" for name, (stored, ours) in other_shape.items()]
    groups = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    return [f"{len(names)} {group}: {listed(names)}" for group, names in groups.items() if names]


def load_partial(
    model: nn.Module, path: str | Path, prefix: str = "", rename: Callable[[str], str] | None = None
) -> LoadReport:
    """Loads all weights that have the same name and shape in ``model`` and in the checkpoint.

    All other weights of the model are unchanged. No weight is resized. For example, a position encoding of another size
    is reported, but not loaded. Compares all names and shapes before writing the first weight. Logs the report.

    Args:
        model: Model, not on the meta device, since weights that the checkpoint lacks keep their values.
        path, prefix: See :func:`sam2fast.checkpoints.read_checkpoint`.
        rename: Function that converts a weight's official name, without ``prefix``, to its name in the model.

    Raises:
        CheckpointError: If no weight fits, the checkpoint cannot be read, or two weights get the same name. After this
            error, the model is unchanged.
        FileNotFoundError: If the file does not exist.
        ValueError: If the model is on the meta device.
    """
    expected = model.state_dict()
    if any(tensor.is_meta for tensor in expected.values()):
        raise ValueError(
            "the model is on the meta device, so weights that are not loaded would have no values; build it without a "
            "checkpoint"
        )
    found = read_checkpoint(path, prefix)
    if rename is not None:
        renamed: dict[str, Tensor] = {}
        for name, tensor in found.items():
            if (new := rename(name)) in renamed:
                raise CheckpointError(f"rename gives {new!r} to two weights of {path}, the second of them {name}")
            renamed[new] = tensor
        found = renamed
    report = _compared(path, expected, found)
    if not report.loaded:
        raise CheckpointError(f"no weight of the checkpoint fits the model: {report}")
    model.load_state_dict({name: found[name] for name in report.loaded}, strict=False, assign=False)
    _log.log(logging.INFO if report.complete else logging.WARNING, "%s", report)
    return report
