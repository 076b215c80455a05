"""Loads a checkpoint into a model: all of it or nothing, or the part that fits."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sam2fast.checkpoints.choosing import guess_config
from sam2fast.checkpoints.reading import read_checkpoint
from sam2fast.checkpoints.weight_files import CheckpointError, listed

_log = logging.getLogger(__name__)

# Modules that only video needs: a checkpoint without them works for images.
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
    """Loads a checkpoint into ``model``, which may be on the meta device, with tensors on ``device``.

    All names and shapes are compared before the first tensor is assigned, so a failed call does not change the model.
    Tensors are converted to the dtypes of the model's parameters.

    Args:
        path, prefix: see :func:`sam2fast.checkpoints.read_checkpoint`.
        allow_image_only: accepts a file that lacks only modules for video (``VIDEO_ONLY``). A warning is logged, and
            missing weights become NaN, so that results computed from them are recognisable.
        assign: replaces the model's parameters, which may be on the meta device; otherwise their values are
            overwritten in place, so that an optimizer's references stay valid.
        keep_missing: weights that the file lacks keep their values in the model, which must not be on the meta device.
            A warning is always logged.

    Raises:
        CheckpointError: the file cannot be read or does not fit the model; the message gives keys and reason.
        FileNotFoundError: there is no such file.
    """
    tensors = read_checkpoint(path, prefix)
    wanted = model.state_dict()
    # The batches that a norm has counted: nothing reads them, and some checkpoints leave them out.
    counts = {name: x for name, x in wanted.items() if name.endswith(".num_batches_tracked") and name not in tensors}
    tensors = {**tensors, **{name: torch.zeros(x.shape, dtype=x.dtype) for name, x in counts.items()}}
    missing = [name for name in wanted if name not in tensors]
    if keep_missing and len(missing) < len(wanted):
        _check(path, wanted, tensors, [])
        if missing:
            _log.warning("%s has no weights for %s: they keep their values", path, listed(missing))
        else:
            _log.warning("%s has all weights of the model: none keeps its value", path)
        tensors = {**{name: wanted[name] for name in missing}, **tensors}
        missing = []
    image_only = bool(missing) and all(is_video_only(name) for name in missing)
    _check(path, wanted, tensors, [] if image_only and allow_image_only else missing)
    if image_only:
        _log.warning("%s works for images, not for video: it has no weights for %s", path, _modules(missing))
    ready = {name: _on(device, tensors.get(name), like) for name, like in wanted.items()}
    model.load_state_dict(ready, strict=True, assign=assign)


def _on(device: torch.device, tensor: Tensor | None, like: Tensor) -> Tensor:
    # A copy, since the file is memory-mapped and may change later.
    out = torch.empty(like.shape, dtype=like.dtype, device=device)
    return out.fill_(float("nan")) if tensor is None else out.copy_(tensor)


def _check(path: str | Path, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], missing: list[str]) -> None:
    report = _compared(path, wanted, found)
    if not (missing or report.unexpected or report.other_shape):
        return
    if missing and not report.unexpected and not report.other_shape and all(is_video_only(name) for name in missing):
        raise CheckpointError(
            f"{path} has weights for images only: take another file for video. It lacks those of {_modules(missing)}"
        )
    parts = _differences(missing, report.unexpected, report.other_shape)
    hint = ""
    if (config := guess_config(found)) is not None:
        differs = any(name.startswith("image_encoder.") for name in (*missing, *report.other_shape))
        if differs and config != guess_config(wanted):
            counts = ", ".join(part.partition(":")[0] for part in parts)
            raise CheckpointError(
                f"{path} does not fit the model: its weights are those of {config}, "
                f"with another image encoder ({counts})"
            )
        hint = f". Its weights are those of {config}; to load what fits, pass partial=True in Python"
    raise CheckpointError(f"{path} does not fit the model: {'; '.join(parts)}{hint}")


def is_video_only(name: str) -> bool:
    """Whether the weight with this official name is only used for video."""
    return any(name == module or name.startswith(module + ".") for module in VIDEO_ONLY)


def _modules(names: Iterable[str]) -> str:
    """The modules of :data:`VIDEO_ONLY` that these weights belong to, as text."""
    return ", ".join(m for m in VIDEO_ONLY if any(n == m or n.startswith(m + ".") for n in names))


@dataclass(frozen=True)
class LoadReport:
    """The weights that were loaded from a checkpoint and those that were not, by official names."""

    path: Path
    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # weights of the model that keep their values
    unexpected: tuple[str, ...]  # weights of the checkpoint that are not used
    other_shape: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]  # the checkpoint's and the model's; not loaded

    @property
    def complete(self) -> bool:
        """Whether all weights of the model were loaded, and all of the checkpoint used."""
        return not (self.missing or self.unexpected or self.other_shape)

    def __str__(self) -> str:
        kept = len(self.missing) + len(self.other_shape)
        loaded = f"{self.path}: {len(self.loaded)} weights loaded, {kept} as they were"
        return "; ".join([loaded, *_differences(self.missing, self.unexpected, self.other_shape)])


def _compared(path: str | Path, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> LoadReport:
    """Compares the weights ``found`` with those of a model, ``wanted``."""
    shapes = {name: (tuple(found[name].shape), tuple(like.shape)) for name, like in wanted.items() if name in found}
    return LoadReport(
        path=Path(path),
        loaded=tuple(name for name, (there, own) in shapes.items() if there == own),
        missing=tuple(name for name in wanted if name not in found),
        unexpected=tuple(name for name in found if name not in wanted),
        other_shape={name: (there, own) for name, (there, own) in shapes.items() if there != own},
    )


def _differences(
    missing: Sequence[str],
    unexpected: Sequence[str],
    other_shape: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
) -> list[str]:
    shapes = [f"{name} {found} instead of {own}" for name, (found, own) in other_shape.items()]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    return [f"{len(names)} {kind}: {listed(names)}" for kind, names in kinds.items() if names]


def load_partial(
    model: nn.Module, path: str | Path, prefix: str = "", rename: Callable[[str], str] | None = None
) -> LoadReport:
    """Overwrites the weights of ``model`` that the checkpoint has with the same name and shape; others are unchanged.

    Nothing is resized: a position encoding of another size, for example, is reported and not loaded. All names and
    shapes are compared before the first weight is written. The report is also logged.

    Args:
        model: not on the meta device, since weights that the checkpoint lacks keep their values.
        path, prefix: see :func:`sam2fast.checkpoints.read_checkpoint`.
        rename: returns the model's name of a weight, given its official name without ``prefix``.

    Raises:
        CheckpointError: no weight fits, the checkpoint cannot be read, or two of its weights get the same name; the
            model is unchanged.
        FileNotFoundError: there is no such file.
        ValueError: the model is on the meta device.
    """
    wanted = model.state_dict()
    if any(tensor.is_meta for tensor in wanted.values()):
        raise ValueError(
            "the model is on the meta device, where a part of it would stay; build it without a checkpoint"
        )
    found = read_checkpoint(path, prefix)
    if rename is not None:
        renamed: dict[str, Tensor] = {}
        for name, tensor in found.items():
            if (new := rename(name)) in renamed:
                raise CheckpointError(f"rename gives {new!r} to two weights of {path}, the second of them {name}")
            renamed[new] = tensor
        found = renamed
    report = _compared(path, wanted, found)
    if not report.loaded:
        raise CheckpointError(f"nothing of the checkpoint fits the model: {report}")
    model.load_state_dict({name: found[name] for name in report.loaded}, strict=False, assign=False)
    _log.log(logging.INFO if report.complete else logging.WARNING, "%s", report)
    return report
