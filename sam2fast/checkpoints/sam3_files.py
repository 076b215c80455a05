"""Extracts the tracker's weights from files of the whole SAM 3, without the detector's weights.

Source: transformers' conversion of Meta's file (``convert_sam3_video_to_hf.py``), and transformers' ``Sam3VideoModel``.
"""

import math
import re
from collections.abc import Collection, Mapping

from torch import Tensor

from sam2fast.checkpoints.weight_files import CheckpointError

# Prefixes of names in transformers' Sam3VideoModel, and the corresponding prefixes in Sam3TrackerVideoModel.
TRACKER_NECK = "tracker_neck."
FROM_VIDEO_MODEL = {
    "detector_model.vision_encoder.backbone.": "vision_encoder.backbone.",
    TRACKER_NECK: "vision_encoder.neck.",
    "tracker_model.": "",
}
# Parts of names in Meta's file. The image encoder belongs to the detector. The tracker may have a copy of this encoder.
NECK, TRUNK = "backbone.vision_backbone.sam2_convs.", "backbone.vision_backbone.trunk."
OF_TRACKER = "maskmem_tpos_enc"  # a weight that identifies the tracker's prefix
COMPUTED = ".attn.freqs_cis"  # buffers that the model computes itself
POSITIONS = "image_encoder.trunk.pos_embed"
RENAMED = {
    rf".*{re.escape(TRUNK)}": "image_encoder.trunk.",
    rf".*{re.escape(NECK)}": "image_encoder.neck.convs.",
    r"^transformer\.encoder\.": "memory_attention.",
    r"^maskmem_backbone\.": "memory_encoder.",
    r"\.mlp\.(?:lin|fc)1\.": ".mlp.layers.0.",
    r"\.mlp\.(?:lin|fc)2\.": ".mlp.layers.1.",
}


def is_whole(names: Collection[str]) -> bool:
    """Returns True for names of the whole SAM 3, in Meta's or in transformers' layout."""
    return any(TRACKER_NECK in name or NECK in name for name in names)


def tracker_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tracker's weights of the whole SAM 3, without the detector's weights.

    Names in Meta's layout become official names. Names in transformers' layout become names of transformers' tracker.

    Raises:
        CheckpointError: If two names become the same name.
    """
    if not any(NECK in name for name in tensors):
        above = next(name.partition(TRACKER_NECK)[0] for name in tensors if TRACKER_NECK in name)
        return {
            new + name.removeprefix(above + prefix): tensor
            for name, tensor in tensors.items()
            for prefix, new in FROM_VIDEO_MODEL.items()
            if name.startswith(above + prefix)
        }
    prefix = next((name.removesuffix(OF_TRACKER) for name in tensors if name.endswith(OF_TRACKER)), None)
    others = [name for name in tensors if prefix is None or not name.startswith(f"{prefix}backbone.")]
    if any(NECK in name for name in others):
        tensors = {name: tensors[name] for name in others}  # omits the tracker's copy of the image encoder
    named: dict[str, Tensor] = {}
    for name, x in tensors.items():
        if (official := _official_name(name, prefix)) in named:
            raise CheckpointError(f"SAM 3's {official} occurs twice, the second time as {name}; remove one of them")
        if official is not None:
            named[official] = x
    rows = named.get(POSITIONS)
    if rows is not None and rows.ndim == 3 and math.isqrt(rows.shape[1]) ** 2 != rows.shape[1]:
        named[POSITIONS] = rows[:, 1:]  # omits the row of the class token
    return named


def _official_name(name: str, prefix: str | None) -> str | None:
    """Returns the official name of a weight in Meta's file, or None if the weight is not the tracker's."""
    if NECK not in name and TRUNK not in name:
        if prefix is None or not name.startswith(prefix) or name.startswith(f"{prefix}backbone."):
            return None
        name = name.removeprefix(prefix)
    for pattern, new in RENAMED.items():
        name = re.sub(pattern, new, name)
    return None if name.endswith(COMPUTED) else name
