"""Loads what fits of a checkpoint, and says what did not."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from sam2fast.checkpoints.errors import CheckpointError, listed
from sam2fast.checkpoints.reading import read_checkpoint, recognised_prefix

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadReport:
    """What became of each weight of a model and of a checkpoint, by official names."""

    path: Path
    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # of the model; they keep the values that they had
    unexpected: tuple[str, ...]  # of the checkpoint; not used
    other_shape: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]  # the checkpoint's and the model's; not loaded

    @property
    def complete(self) -> bool:
        """Whether everything was loaded and used."""
        return not (self.missing or self.unexpected or self.other_shape)

    def __str__(self) -> str:
        kept = len(self.missing) + len(self.other_shape)
        parts = [f"{self.path}: {len(self.loaded)} weights loaded, {kept} as they were"]
        if self.missing:
            parts.append(f"{len(self.missing)} missing: {listed(self.missing)}")
        if self.other_shape:
            shapes = [f"{name} {found} instead of {own}" for name, (found, own) in self.other_shape.items()]
            parts.append(f"{len(shapes)} of another shape: {listed(shapes)}")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} unexpected: {listed(self.unexpected)}")
        return "; ".join(parts)


def load_partial(
    model: nn.Module, path: str | Path, prefix: str = "", rename: Callable[[str], str] | None = None
) -> LoadReport:
    """Overwrites the weights of ``model`` that a checkpoint has in the same name and shape; the others stay.

    Nothing is resized: a position encoding of another size, for example, stays as it is, and the report says so. What
    is compared is compared before the first weight is written. The report is also logged.

    Args:
        model: with weights, not on the meta device: what the checkpoint lacks keeps its value.
        path, prefix: see :func:`sam2fast.checkpoints.read_checkpoint`.
        rename: gives the model's name for each of the checkpoint's, as they are after ``prefix`` and under official
            names.

    Raises:
        CheckpointError: no weight fits, the checkpoint cannot be read, or two of its weights get the same name; nothing
            was written.
        FileNotFoundError: there is no such file.
        ValueError: the model is on the meta device.
    """
    wanted = model.state_dict()
    if any(tensor.is_meta for tensor in wanted.values()):
        raise ValueError(
            "the model is on the meta device, and a part of it would stay there; build it without a checkpoint"
        )
    found = read_checkpoint(path, prefix)
    if rename is not None:
        found = _renamed(path, found, rename)
    fitting = {name: x for name, x in found.items() if name in wanted and x.shape == wanted[name].shape}
    report = LoadReport(
        path=Path(path),
        loaded=tuple(name for name in wanted if name in fitting),
        missing=tuple(name for name in wanted if name not in found),
        unexpected=tuple(name for name in found if name not in wanted),
        other_shape={
            name: (tuple(found[name].shape), tuple(like.shape))
            for name, like in wanted.items()
            if name in found and name not in fitting
        },
    )
    hint = recognised_prefix(found, wanted)
    hint = (
        f". Every name begins with {hint!r}; pass prefix={hint!r}, to builders ckpt_prefix, to load it without"
        if hint
        else ""
    )
    if not fitting:
        raise CheckpointError(f"nothing of the checkpoint fits the model: {report}{hint}")
    model.load_state_dict(fitting, strict=False, assign=False)
    _log.log(logging.INFO if report.complete else logging.WARNING, "%s%s", report, hint)
    return report


def _renamed(path: str | Path, found: Mapping[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, tensor in found.items():
        if (new := rename(name)) in out:
            raise CheckpointError(f"rename gives {new!r} to two weights of {path}, the second of them {name}")
        out[new] = tensor
    return out
