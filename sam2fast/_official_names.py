"""Maps official modules, names, configurations and checkpoints to their counterparts in sam2fast."""

from typing import NamedTuple

# Official module -> our module. `_official_imports` and the `_target_`s of configurations use this table.
MODULES = {
    "sam2.build_sam": "sam2fast.build_sam",
    "sam2.automatic_mask_generator": "sam2fast.automatic_mask_generator",
    "sam2.sam2_image_predictor": "sam2fast.sam2_image_predictor",
    "sam2.sam2_video_predictor": "sam2fast.sam2_video_predictor",
    "sam2.sam2_camera_predictor": "sam2fast.compat.camera",  # exists only in forks
    "sam2.modeling.sam2_base": "sam2fast.modeling.sam2_base",
    "sam2.modeling.backbones.hieradet": "sam2fast.modeling.hiera",
    "sam2.modeling.backbones.image_encoder": "sam2fast.modeling.image_encoder",
    "sam2.modeling.position_encoding": "sam2fast.modeling.position_encoding",
    "sam2.modeling.memory_attention": "sam2fast.modeling.memory_attention",
    "sam2.modeling.memory_encoder": "sam2fast.modeling.memory_encoder",
    "sam2.modeling.perceiver": "sam2fast.modeling.perceiver",
    "sam2.modeling.sam.mask_decoder": "sam2fast.modeling.mask_decoder",
    "sam2.modeling.sam.prompt_encoder": "sam2fast.modeling.prompt_encoder",
    "sam2.modeling.sam.transformer": "sam2fast.modeling.two_way_transformer",
    "sam2.modeling.sam2_utils": "sam2fast.modeling.layers",
    "sam2.utils.amg": "sam2fast.amg",
    "sam2.utils.misc": "sam2fast.compat.misc",
    "sam2.utils.transforms": "sam2fast.transforms",
}


def _in(module: str, *names: str) -> dict[str, str]:
    return {name: f"sam2fast.{module}.{name}" for name in names}


# Official module -> names with a counterpart of another name, or in another module than `MODULES` gives. Names that the
# official module only imports are included, because users import these names from the official module.
NAMES = {
    "sam2.automatic_mask_generator": _in(
        "amg",
        "batched_mask_to_box",
        "build_all_layer_point_grids",
        "calculate_stability_score",
        "mask_to_rle_pytorch",
        "remove_small_regions",
        "uncrop_masks",
    ),
    "sam2.sam2_video_predictor": {
        **_in("compat.misc", "concat_points", "fill_holes_in_mask_scores"),
        **_in("modeling.sam2_base", "NO_OBJ_SCORE", "SAM2Base"),
        "tqdm": "tqdm.tqdm",
    },
    "sam2.modeling.sam2_base": {
        **_in("compat.official_utils", "get_1d_sine_pe", "select_closest_cond_frames"),
        "trunc_normal_": "torch.nn.init.trunc_normal_",
    },
    "sam2.modeling.sam2_utils": {
        **_in("compat.official_utils", "get_1d_sine_pe", "select_closest_cond_frames"),
        **_in(
            "training.official_sampling",
            "get_next_point",
            "sample_box_points",
            "sample_one_point_from_error_center",
            "sample_random_points_from_errors",
        ),
        **_in("compat.misc", "mask_to_box"),
    },
    "sam2.modeling.backbones.utils": {
        **_in("modeling.hiera", "PatchEmbed"),
        **_in("modeling.hiera_block", "window_partition", "window_unpartition"),
    },
    "sam2.modeling.backbones.hieradet": {
        **_in("modeling.layers", "DropPath", "MLP"),
        **_in("modeling.hiera_block", "do_pool", "window_partition", "window_unpartition"),
    },
    "sam2.modeling.position_encoding": _in("compat.official_utils", "apply_rotary_enc", "reshape_for_broadcast"),
    "sam2.modeling.backbones.timm": {"TimmBackbone": "sam2fast.modeling.repvit.RepViT"},  # from EdgeTAM
    "sam2.modeling.backbones.vitdet": _in("modeling.vit", "ViT"),  # from EfficientTAM
    "sam2.modeling.efficienttam_base": {"EfficientTAMBase": "sam2fast.modeling.sam2_base.SAM2Base"},
    "sam2.modeling.sam.transformer": {
        **_in("modeling.attention", "Attention", "RoPEAttention", "RoPEAttentionv2", "compute_axial_cis"),
        **_in("modeling.attention", "EfficientRoPEAttention1", "EfficientRoPEAttention2"),
        **_in("compat.official_utils", "apply_rotary_enc"),
    },
}

_STREAM = (
    "it belongs to a fork of sam2; here build_sam2_video_predictor(...).open_stream() takes the frames of a camera "
    "one by one, see docs/streams.md"
)
_VOLUME = "it belongs to MedSAM2; here build_sam2_video_predictor(...).init_state(frames) takes arrays and tensors"

# Name without a counterpart, from the official package or a popular fork -> message of the ImportError.
ABSENT = {
    "sam2.build_sam.build_sam2_object_tracker": _STREAM,
    "sam2.build_sam.build_sam2_video_predictor_npz": _VOLUME,
    "sam2.sam2_object_tracker": _STREAM,
    "sam2.sam2_video_predictor_npz": _VOLUME,
    "sam2.sam2_video_predictor_legacy": (
        "the predictor from before December 2024 is not part of sam2fast; "
        "sam2.sam2_video_predictor has the same methods, and accepts new objects at any time"
    ),
    "sam2.benchmark": "sam2fast's own benchmark is bench/suite in its repository: make bench",
}

# Configurations of forks. Keys are patterns of configuration names, without the folder `configs` and the suffix. Groups
# of a pattern are filled into the value: YAML based on our configurations, or the message for an absent configuration.
FORK_CONFIGS = {
    r"samurai/(sam2\.1_hiera_(?:t|s|b\+|l))": r"base_config: sam2.1/\1",  # build_sam2_video_predictor sets the strategy
    r"(?:[\w.]+/)?(sam2(?:\.1)?_hiera_(?:t|s|b\+|l)|efficienttam_(?:s|ti))_512": (
        r"{base_config: \1, model: {image_size: 512}}"
    ),
}
ABSENT_CONFIGS = {
    r"(?:.*/)?sam2pp_(.+)": r'it belongs to DAM4SAM: use sam2_\1 and strategy="dam4sam"',
    r"(?:.*/)?sam21pp_(.+)": r'it belongs to DAM4SAM: use sam2.1_\1 and strategy="dam4sam"',
    r"(?:.*/)?(?:sam2\.1_hiera_tiny|efficientmedsam_).*512.*": "it trains MedSAM2, whose model is sam2.1_hiera_t512",
    r".*(?:train|finetune).*": "`sam2fast train -c` takes training configurations, by name or as a file",
}


class Release(NamedTuple):
    """One published model."""

    config: str
    checkpoint: str
    url: str
    licence: str = "Apache-2.0"  # licence of the weights
    bytes: int | None = None  # size of the checkpoint, if known


def _release(generation: str, letter: str, size: str) -> tuple[str, Release]:
    date = {"sam2": "072824", "sam2.1": "092824"}[generation]
    checkpoint = f"{generation}_hiera_{size}.pt"
    return f"facebook/{generation}-hiera-{size.replace('_', '-')}", Release(
        config=f"configs/{generation}/{generation}_hiera_{letter}.yaml",
        checkpoint=checkpoint,
        url=f"https://dl.fbaipublicfiles.com/segment_anything_2/{date}/{checkpoint}",
        bytes=_BYTES[checkpoint],
    )


# Sizes of Meta's files in bytes. Several public projects list the same sizes.
_BYTES = {
    "sam2_hiera_tiny.pt": 155906050,
    "sam2_hiera_small.pt": 184309650,
    "sam2_hiera_base_plus.pt": 323493298,
    "sam2_hiera_large.pt": 897952466,
    "sam2.1_hiera_tiny.pt": 156008466,
    "sam2.1_hiera_small.pt": 184416285,
    "sam2.1_hiera_base_plus.pt": 323606802,
    "sam2.1_hiera_large.pt": 898083611,
}
_SIZES = {"t": "tiny", "s": "small", "b+": "base_plus", "l": "large"}
# Hugging Face id -> release. If a repository has several models, the ids of all except the first end with a file name.
SAM2 = dict(_release(g, letter, size) for g in ("sam2", "sam2.1") for letter, size in _SIZES.items())
# EdgeTAM's code and weights are under Apache-2.0. Meta publishes no checksum.
EDGETAM = {
    "facebook/EdgeTAM": Release(
        config="configs/edgetam/edgetam.yaml",
        checkpoint="edgetam.pt",
        url="https://github.com/facebookresearch/EdgeTAM/raw/main/checkpoints/edgetam.pt",
    )
}
# EfficientTAM is under Apache-2.0, and publishes no checksum. The README of EfficientTAM names this repository. The ids
# in EfficientTAM's builder are placeholders.
_EFFICIENTTAM = "yunyangx/efficient-track-anything"
EFFICIENTTAM = {
    _EFFICIENTTAM if name == "s" else f"{_EFFICIENTTAM}/efficienttam_{name}.pt": Release(
        config=f"configs/efficienttam/efficienttam_{name}.yaml",
        checkpoint=f"efficienttam_{name}.pt",
        url=f"https://huggingface.co/{_EFFICIENTTAM}/resolve/main/efficienttam_{name}.pt",
    )
    for name in ("s", "s_512x512", "s_1", "s_2", "ti", "ti_512x512", "ti_1", "ti_2")
}
_MEDSAM2 = "wanglab/MedSAM2"
# Name of a MedSAM2 checkpoint without suffix -> configuration. The last two models are fine-tuned from EfficientTAM.
_MEDSAM2_CONFIGS = dict.fromkeys(
    (
        *(f"MedSAM2_{part}" for part in ("latest", "2411", "US_Heart", "MRI_LiverLesion", "CTLesion")),
        "medsam2_FLARE25_RECIST_baseline",
    ),
    "medsam2/sam2.1_hiera_t512",
) | {
    "eff_medsam2_small_FLARE25_RECIST_baseline": "efficienttam/efficienttam_s_512x512",
    "eff_medsam2_tiny_FLARE25_RECIST_baseline": "efficienttam/efficienttam_ti_512x512",
}
MEDSAM2 = {
    _MEDSAM2 if name == "MedSAM2_latest" else f"{_MEDSAM2}/{name}.pt": Release(
        config=f"configs/{config}.yaml",
        checkpoint=f"{name}.pt",
        url=f"https://huggingface.co/{_MEDSAM2}/resolve/main/{name}.pt",
        licence=f"unverified, see https://huggingface.co/{_MEDSAM2}; not a medical device",
    )
    for name, config in _MEDSAM2_CONFIGS.items()
}
# Meta provides the weights of SAM 3 only on request, under the SAM License.
SAM3_CONFIG, SAM3_ID = "configs/sam3/sam3.yaml", "facebook/sam3"
SAM3_NAMES = (SAM3_ID, "sam3")  # model names for which error messages explain how to get the weights
RELEASES = SAM2 | EDGETAM | EFFICIENTTAM | MEDSAM2
