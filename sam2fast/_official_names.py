"""Where the original's modules, configurations and checkpoints are found here."""

from typing import NamedTuple

# Official module -> ours. `as_sam2` registers them; `config` maps targets through them.
MODULES = {
    "sam2.build_sam": "sam2fast.build_sam",
    "sam2.sam2_image_predictor": "sam2fast.sam2_image_predictor",
    "sam2.sam2_video_predictor": "sam2fast.sam2_video_predictor",
    "sam2.modeling.sam2_base": "sam2fast.modeling.sam2_base",
    "sam2.modeling.backbones.hieradet": "sam2fast.modeling.hiera",
    "sam2.modeling.backbones.image_encoder": "sam2fast.modeling.image_encoder",
    "sam2.modeling.position_encoding": "sam2fast.modeling.position_encoding",
    "sam2.modeling.memory_attention": "sam2fast.modeling.memory_attention",
    "sam2.modeling.memory_encoder": "sam2fast.modeling.memory_encoder",
    "sam2.modeling.sam.mask_decoder": "sam2fast.modeling.mask_decoder",
    "sam2.modeling.sam.prompt_encoder": "sam2fast.modeling.prompt_encoder",
    "sam2.modeling.sam.transformer": "sam2fast.modeling.two_way_transformer",
    "sam2.modeling.sam2_utils": "sam2fast.modeling.layers",
    "sam2.utils.transforms": "sam2fast.transforms",
}

# Official names that live in another module than the rest of theirs, or under another name.
NAMES = {
    "sam2.modeling.sam.transformer": {
        "Attention": "sam2fast.modeling.attention.Attention",
        "RoPEAttention": "sam2fast.modeling.attention.RoPEAttention",
    },
    "sam2.modeling.sam2_utils": {"get_1d_sine_pe": "sam2fast.modeling.position_encoding.sine_1d"},
    "sam2.utils.misc": {
        "get_connected_components": "sam2fast.kernels.connected_components.connected_components",
        "fill_holes_in_mask_scores": "sam2fast.kernels.mask_ops.fill_holes_in_mask_scores",
        "mask_to_box": "sam2fast.kernels.mask_ops.masks_to_boxes",
    },
}

# Official modules without a counterpart, and what to do instead.
ABSENT = {
    "sam2.sam2_video_predictor_legacy": (
        "the predictor from before December 2024 is not part of sam2fast; "
        "sam2.sam2_video_predictor has the same methods, and takes new objects at any time"
    ),
    "sam2.benchmark": "sam2fast's own benchmark is bench/video_side_by_side.py in its repository",
}


class Release(NamedTuple):
    """One published model."""

    config: str
    checkpoint: str
    url: str


def _release(generation: str, letter: str, size: str) -> tuple[str, Release]:
    date = {"sam2": "072824", "sam2.1": "092824"}[generation]
    checkpoint = f"{generation}_hiera_{size}.pt"
    return f"facebook/{generation}-hiera-{size.replace('_', '-')}", Release(
        config=f"configs/{generation}/{generation}_hiera_{letter}.yaml",
        checkpoint=checkpoint,
        url=f"https://dl.fbaipublicfiles.com/segment_anything_2/{date}/{checkpoint}",
    )


_SIZES = {"t": "tiny", "s": "small", "b+": "base_plus", "l": "large"}
# Hugging Face id -> release.
RELEASES = dict(_release(g, letter, size) for g in ("sam2", "sam2.1") for letter, size in _SIZES.items())
