"""Determines the configuration of a checkpoint."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from sam2fast._official_names import EDGETAM, EFFICIENTTAM, MEDSAM2, RELEASES, SAM3_CONFIG
from sam2fast.checkpoints.other_files import OTHER_MODEL, family_of
from sam2fast.checkpoints.reading import read_layout
from sam2fast.checkpoints.transformers_config import overrides_from
from sam2fast.checkpoints.weight_files import CONFIG_FILE, CheckpointError, NoConfigError, listed
from sam2fast.utils.embedded import MINI, NANO

EMBEDDED_SIZES = {(32, 10): NANO, (96, 10): MINI}  # models by width and depth of the image encoder

# For each configuration, other models with the same weight names and shapes: file names and configurations. Only the
# file name distinguishes these models.
SAME_WEIGHTS = {
    f"configs/{base}.yaml": {
        release.checkpoint: release.config
        for release in (EFFICIENTTAM | MEDSAM2).values()
        if release.config.startswith(f"configs/{variants}")
    }
    for base, variants in (
        ("sam2.1/sam2.1_hiera_t", "medsam2/"),
        ("efficienttam/efficienttam_s", "efficienttam/efficienttam_s"),
        ("efficienttam/efficienttam_ti", "efficienttam/efficienttam_ti"),
    )
}
EFFICIENTTAM_WIDTHS = {384: "s", 192: "ti"}

_log = logging.getLogger(__name__)


class Choice(NamedTuple):
    """Stores the configuration of a checkpoint's model, and overrides of the configuration."""

    config: str
    overrides: tuple[str, ...] = ()


def choose_config(path: str | Path, prefix: str = "") -> Choice:
    """Determines the configuration of an official or embedded model from the weights of its checkpoint.

    If several models have weights of the same names and shapes, the file name decides. For example, a file with a
    published name of MedSAM2 belongs to MedSAM2, although SAM 2.1 tiny has weights of the same shapes.

    If a checkpoint in transformers' layout has a ``config.json`` in its folder, this file decides instead of the name.
    The ``config.json`` must describe the same model as the configuration. The image size in ``config.json``, and a few
    values that do not change shapes, become overrides.

    Args:
        path, prefix: See :func:`sam2fast.checkpoints.read_checkpoint`.

    Raises:
        NoConfigError: If no configuration fits the weights, or ``config.json`` describes another model.
        CheckpointError: If the checkpoint cannot be read, or has weights of another family of models, such as SAM 1.
        FileNotFoundError, ImportError: If :func:`sam2fast.checkpoints.read_checkpoint` raises the error.
    """
    file, from_transformers, tensors = read_layout(path, prefix)[:3]
    config = guess_config(tensors)
    if config is None:
        if family := family_of(tensors):
            raise CheckpointError(f"{file} has weights of {family}, not of a SAM 2 model; {OTHER_MODEL}")
        raise NoConfigError(
            f"{file} fits none of nano, mini and the official models: its {len(tensors)} weights are "
            f"{listed(list(tensors))}; name its configuration"
        )
    variants = SAME_WEIGHTS.get(config, {})
    beside = file.with_name(CONFIG_FILE)
    if from_transformers and beside.is_file():
        choices = [Choice(name, overrides_from(beside, name)) for name in dict.fromkeys((config, *variants.values()))]
        return next((choice for choice in choices if not choice.overrides), choices[0])
    if variants:
        config = variants.get(file.name, config)
        _log.info("%s: uses %s by the file name, since other models have weights of the same shapes", file, config)
    return Choice(config)


def guess_config(tensors: Mapping[str, Tensor]) -> str | None:
    """Returns the configuration with an image encoder of the same width and depth as these tensors, or None.

    For weights without the modules that distinguish SAM 2.1 from SAM 2.0, returns SAM 2.0. For images, both versions
    are equal.
    """
    if "image_encoder.trunk.body.stem.conv1.c.weight" in tensors:
        return EDGETAM["facebook/EdgeTAM"].config
    embedding = tensors.get("image_encoder.trunk.patch_embed.proj.weight")
    if embedding is None or embedding.ndim != 4:
        return None
    depth = len({name.split(".")[3] for name in tensors if name.startswith("image_encoder.trunk.blocks.")})
    shape = (embedding.shape[0], depth)
    if "image_encoder.trunk.ln_pre.weight" in tensors:
        return SAM3_CONFIG if shape == (1024, 32) else None
    if "image_encoder.neck.convs.0.conv_1x1.weight" in tensors:
        size = EFFICIENTTAM_WIDTHS.get(embedding.shape[0])
        return size and f"configs/efficienttam/efficienttam_{size}.yaml"
    if shape in EMBEDDED_SIZES:
        return EMBEDDED_SIZES[shape].config
    letter = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}.get(shape)
    generation = "sam2.1" if "no_obj_embed_spatial" in tensors else "sam2"
    configs = {release.config for release in RELEASES.values()}
    name = f"configs/{generation}/{generation}_hiera_{letter}.yaml"
    return name if name in configs else None
