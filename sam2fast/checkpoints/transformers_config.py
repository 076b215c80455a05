"""Writes ``config.json`` files of transformers' models, and compares such files with configurations of sam2fast."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from sam2fast._official_names import SAM3_CONFIG
from sam2fast.checkpoints.weight_files import CheckpointError, NoConfigError, listed
from sam2fast.config import ConfigError, load_config
from sam2fast.modeling.hiera import Hiera
from sam2fast.modeling.image_encoder import FpnNeck, ScaledNeck
from sam2fast.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.modeling.vit import RoPEViT

# For each model type of transformers for images: prefix of class names, and the configuration that has transformers'
# default values for keys that a config.json omits. Model types for video end with _video. EdgeTAM's default values
# match no published model.
MODEL_TYPES = {
    "sam2": ("Sam2", "configs/sam2.1/sam2.1_hiera_t.yaml"),
    "edgetam": ("EdgeTam", "configs/edgetam/edgetam.yaml"),
    "sam3_tracker": ("Sam3Tracker", SAM3_CONFIG),
}
# Model type of the whole SAM 3, which contains the tracker.
WHOLE_SAM3 = "sam3_video"
# Parameters that change results, but no shapes: names in transformers and in sam2fast.
SWITCHES = {
    "sigmoid_scale_for_mem_enc": "sigmoid_scale_for_mem_enc",
    "sigmoid_bias_for_mem_enc": "sigmoid_bias_for_mem_enc",
    "multimask_output_in_sam": "multimask_output_in_sam",
    "multimask_min_pt_num": "multimask_min_pt_num",
    "multimask_max_pt_num": "multimask_max_pt_num",
    "multimask_output_for_tracking": "multimask_output_for_tracking",
    "max_object_pointers_in_encoder": "max_obj_ptrs_in_encoder",
    "max_cond_frame_num": "max_cond_frames_in_attn",
}
EPSILON = ("vision_config.backbone_config.layer_norm_eps", "image_encoder.trunk.norm_eps")  # another parameter of SAM 3
# Options of sam2fast that have fixed values in transformers' code.
ALWAYS = {
    "use_mask_input_as_output_without_sam": True,
    "directly_add_no_mem_embed": True,
    "use_high_res_features_in_sam": True,
    "use_multimask_token_for_obj_ptr": True,
    "iou_prediction_use_sigmoid": True,
    "use_obj_ptrs_in_encoder": True,
    "only_obj_ptrs_in_the_past_for_eval": True,
    "pred_obj_scores": True,
    "pred_obj_scores_mlp": True,
    "fixed_no_obj_ptr": True,
    "use_mlp_for_obj_ptr_proj": True,
    "memory_temporal_stride_for_eval": 1,
}
GELU = {"hidden_act": "gelu", "layer_norm_eps": 1e-6}
# Keys that depend on the image size. Files with another image size often keep default values of these keys.
DERIVED = ("image_size", "backbone_feature_sizes", "memory_attention_rope_feat_sizes")
NAME = "to use the weights, name their configuration"  # end of error messages
# Keys that do not describe the model, and keys that only affect training.
IRRELEVANT = (
    "model_type",
    "num_classes",
    "architectures",
    "dtype",
    "memory_attention_dropout",
    "memory_attention_rope_dropout",
    "memory_fuser_layer_scale_init_value",
)


def transformers_config(config: str | Path, overrides: tuple[str, ...] = (), video: bool = True) -> dict[str, Any]:
    """Returns the content of ``config.json`` for a configuration of sam2fast.

    Args:
        config, overrides: See :func:`sam2fast.config.load_config`.
        video: If True, returns the content for transformers' model for video, else for the model for images.

    Raises:
        ConfigError: If transformers' model does not support the configuration.
        FileNotFoundError: If the configuration does not exist.
    """
    node = OmegaConf.to_container(load_config(config, overrides).model, resolve=True)
    model = _arguments(SAM2Base, cast(dict[str, Any], node))
    encodes_time = model["proj_tpos_enc_in_obj_ptrs"]
    perceiver, encoder, size = model["spatial_perceiver"], model["image_encoder"], model["image_size"]
    is_sam3 = encoder["trunk"]["_target_"].endswith(f".{RoPEViT.__name__}")
    patch = encoder["trunk"]["patch_size"] if is_sam3 else 16
    required = dict.fromkeys(("add_tpos_enc_to_obj_ptrs", "use_signed_tpos_enc_to_obj_ptrs"), encodes_time)
    required |= ALWAYS | {"backbone_stride": patch}
    if other := [f"{name}={model[name]}" for name, value in required.items() if model[name] != value]:
        raise ConfigError(f"transformers' model does not support {config}, which has {', '.join(other)}")
    vision = _sam3_vision_config(encoder, size) if is_sam3 else _vision_config(encoder, size, perceiver is not None)
    dim = vision["fpn_hidden_size"]
    name = "sam3_tracker" if is_sam3 else "sam2" if perceiver is None else "edgetam"
    model_type = f"{name}_video" if video else name
    out: dict[str, Any] = {
        "architectures": [f"{MODEL_TYPES[name][0]}{'Video' if video else ''}Model"],
        "model_type": model_type,
        "vision_config": vision,
        "prompt_encoder_config": {
            "model_type": f"{model_type}_prompt_encoder",
            "hidden_size": dim,
            "image_size": size,
            "patch_size": patch,
            "mask_input_channels": 16,
            "num_point_embeddings": 4,
            **GELU,
            "scale": 1,
        },
        "mask_decoder_config": {
            "model_type": f"{model_type}_mask_decoder",
            "hidden_size": dim,
            "hidden_act": "gelu",
            "mlp_dim": 2048,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
            "attention_downsample_rate": 2,
            "num_multimask_outputs": 3,
            "iou_head_depth": 3,
            "iou_head_hidden_dim": 256,
            # Postprocessing. The builders of sam2fast also enable postprocessing.
            "dynamic_multimask_via_stability": True,
            "dynamic_multimask_stability_delta": 0.05,
            "dynamic_multimask_stability_thresh": 0.98,
        },
    }
    if not video:
        return out
    out |= _video_config(model, dim, "memory_attention_feed_forward" if perceiver is None else "memory_attention_mlp")
    if perceiver is not None:
        out |= {
            "memory_attention_rope_k_sizes": list(model["memory_attention"]["layer"]["cross_attention"]["k_sizes"]),
            "perceiver_resampler_num_latents": perceiver["num_latents"],
            "perceiver_resampler_num_latents_2d": perceiver["num_latents_2d"],
            "perceiver_resampler_hidden_size": perceiver["dim"],
            "perceiver_resampler_mlp_intermediate_size": perceiver["dim"] * perceiver["ff_mult"],
            "perceiver_resampler_num_attention_heads": perceiver["heads"],
            "perceiver_resampler_attention_head_dim": perceiver["dim_head"],
            "perceiver_resampler_num_layers": perceiver["depth"],
            "perceiver_resampler_hidden_dropout": perceiver["hidden_dropout_p"],
            "perceiver_resampler_attention_dropout": perceiver["attention_dropout_p"],
        }
    return out


def _vision_config(encoder: Mapping[str, Any], size: int, is_edgetam: bool) -> dict[str, Any]:
    neck = _arguments(FpnNeck, encoder["neck"])
    return {
        "model_type": "edgetam_vision_model" if is_edgetam else "sam2_vision_model",
        "backbone_config": REPVIT if is_edgetam else _hiera_config(encoder["trunk"], size),
        "backbone_channel_list": list(neck["backbone_channel_list"]),
        "backbone_feature_sizes": [[size // stride] * 2 for stride in (4, 8, 16)],
        "fpn_hidden_size": neck["d_model"],
        "fpn_kernel_size": neck["kernel_size"],
        "fpn_stride": neck["stride"],
        "fpn_padding": neck["padding"],
        "fpn_top_down_levels": list(neck["fpn_top_down_levels"]),
        "num_feature_levels": 3,
        **GELU,
    }


REPVIT = {
    "model_type": "timm_wrapper",
    "architecture": "repvit_m1",
    "num_classes": 2,  # transformers' default; without num_classes, transformers does not read other keys
    "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
}


def _hiera_config(node: Mapping[str, Any], size: int) -> dict[str, Any]:
    trunk = _arguments(Hiera, node)
    stages = range(len(trunk["stages"]))
    return {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": trunk["embed_dim"],
        "num_attention_heads": trunk["num_heads"],
        "num_channels": 3,
        "image_size": [size, size],
        "patch_kernel_size": [7, 7],
        "patch_stride": [4, 4],
        "patch_padding": [3, 3],
        "query_stride": list(trunk["q_stride"]),
        "window_positional_embedding_background_size": list(trunk["window_pos_embed_bkg_spatial_size"]),
        "num_query_pool_stages": trunk["q_pool"],
        "blocks_per_stage": list(trunk["stages"]),
        "embed_dim_per_stage": [int(trunk["embed_dim"] * trunk["dim_mul"] ** i) for i in stages],
        "num_attention_heads_per_stage": [int(trunk["num_heads"] * trunk["head_mul"] ** i) for i in stages],
        "window_size_per_stage": list(trunk["window_spec"]),
        "global_attention_blocks": list(trunk["global_att_blocks"] or ()),
        "mlp_ratio": 4.0,
        **GELU,
    }


def _sam3_vision_config(encoder: Mapping[str, Any], size: int) -> dict[str, Any]:
    trunk, neck = _arguments(RoPEViT, encoder["trunk"]), _arguments(ScaledNeck, encoder["neck"])
    patch, dim = trunk["patch_size"], trunk["embed_dim"]
    return {
        "model_type": "sam3_vision_model",
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": dim,
            "intermediate_size": int(dim * trunk["mlp_ratio"]),
            "num_hidden_layers": trunk["depth"],
            "num_attention_heads": trunk["num_heads"],
            "num_channels": 3,
            "image_size": size,
            "patch_size": patch,
            "hidden_act": "gelu",
            "layer_norm_eps": trunk["norm_eps"],
            "window_size": trunk["window_size"],
            "global_attn_indexes": list(trunk["global_att_blocks"]),
            "pretrain_image_size": trunk["pretrained_size"] * patch,
            "rope_parameters": {"rope_theta": trunk["rope_theta"], "rope_type": "axial"},
        },
        "backbone_feature_sizes": [[factor * size // patch] * 2 for factor in (4, 2, 1)],
        "fpn_hidden_size": neck["d_model"],
        "scale_factors": list(neck["scale_factors"]),
        **GELU,
    }


def _video_config(model: Mapping[str, Any], dim: int, feed_forward: str) -> dict[str, Any]:
    layer = model["memory_attention"]["layer"]
    attention = layer["cross_attention"]
    encoder = _arguments(MemoryEncoder, model["memory_encoder"])
    downsampler = _arguments(MaskDownSampler, encoder["mask_downsampler"])
    fuser = _arguments(Fuser, encoder["fuser"])
    block = _arguments(CXBlock, fuser["layer"])
    return {
        "image_size": model["image_size"],
        "num_maskmem": model["num_maskmem"],
        **{theirs: model[ours] for theirs, ours in SWITCHES.items()},
        "enable_occlusion_spatial_embedding": model["no_obj_embed_spatial"],
        "enable_temporal_pos_encoding_for_object_pointers": model["proj_tpos_enc_in_obj_ptrs"],
        "memory_attention_hidden_size": dim,
        "memory_attention_num_layers": model["memory_attention"]["num_layers"],
        "memory_attention_num_attention_heads": attention["num_heads"],
        "memory_attention_downsample_rate": attention["downsample_rate"],
        f"{feed_forward}_hidden_size": layer["dim_feedforward"],
        f"{feed_forward}_hidden_act": layer["activation"],
        "memory_attention_dropout": layer["dropout"],
        "memory_attention_rope_feat_sizes": [model["image_size"] // model["backbone_stride"]] * 2,
        "memory_attention_rope_dropout": attention["dropout"],
        "rope_parameters": {"rope_theta": attention["rope_theta"], "rope_type": "axial"},
        "memory_encoder_hidden_size": encoder["in_dim"],
        "memory_encoder_output_channels": encoder["out_dim"],
        "mask_downsampler_embed_dim": downsampler["embed_dim"],
        "mask_downsampler_kernel_size": downsampler["kernel_size"],
        "mask_downsampler_stride": downsampler["stride"],
        "mask_downsampler_padding": downsampler["padding"],
        "mask_downsampler_total_stride": downsampler["total_stride"],
        "mask_downsampler_hidden_act": "gelu",
        "memory_fuser_num_layers": fuser["num_layers"],
        "memory_fuser_embed_dim": block["dim"],
        "memory_fuser_intermediate_dim": 4 * block["dim"],
        "memory_fuser_kernel_size": block["kernel_size"],
        "memory_fuser_padding": block["padding"],
        "memory_fuser_layer_scale_init_value": block["layer_scale_init_value"],
        "memory_fuser_hidden_act": "gelu",
    }


def _arguments(cls: type, node: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the constructor arguments of a class: values of the configuration, or default values."""
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty} | dict(node)


def overrides_from(file: Path, config: str) -> tuple[str, ...]:
    """Returns overrides that make a configuration of sam2fast equal to a ``config.json``.

    Raises:
        NoConfigError: If the file describes another model than the configuration.
        CheckpointError: If the file is not a JSON mapping.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is no JSON file: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is no configuration: expected a mapping")
    if content.get("model_type") == WHOLE_SAM3:
        content = _tracker_config(file, content)
    model_type = content.get("model_type")
    video = str(model_type).endswith("_video")
    written = transformers_config(config, video=video)
    family = written["model_type"].removesuffix("_video")
    if model_type != written["model_type"]:
        raise NoConfigError(f"{file} is of the model type {model_type!r}, expected {family}_video or {family}; {NAME}")
    defaults = _flat(transformers_config(MODEL_TYPES[family][1], video=video))
    described = defaults | {name: value for name, value in _flat(content).items() if name in defaults}
    described = {name: _pair(value) if _last(name) == "image_size" else value for name, value in described.items()}
    ours = _flat(written)
    changes = _size_change(file, described, _pair(ours["prompt_encoder_config.image_size"]))
    for theirs, name in (*SWITCHES.items(), EPSILON):
        if theirs in ours and described[theirs] != ours[theirs]:
            if not isinstance(described[theirs], int | float):
                raise NoConfigError(f"{file} has {theirs} = {described[theirs]!r}, expected a number; {NAME}")
            changes.append(f"++model.{name}={json.dumps(described[theirs])}")
    other = [
        f"{name} is {described[name]} instead of {value}"
        for name, value in ours.items()
        if name not in (*SWITCHES, EPSILON[0])
        and _last(name) not in (*DERIVED, *IRRELEVANT)
        and described[name] != value
    ]
    if other:
        raise NoConfigError(
            f"{file} describes another model than {config}, which fits the weights: {listed(other)}; {NAME}"
        )
    return tuple(changes)


def _tracker_config(file: Path, whole: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tracker's configuration, with the image encoder's configuration from the detector."""
    tracker, detector = (whole.get(f"{part}_config") for part in ("tracker", "detector"))
    if not isinstance(tracker, dict):
        raise NoConfigError(f"{file} is of the model type {WHOLE_SAM3!r}, but has no tracker_config; {NAME}")
    vision = detector.get("vision_config") if isinstance(detector, dict) else None
    return tracker | {"model_type": "sam3_tracker_video"} | ({"vision_config": vision} if vision else {})


def _size_change(file: Path, described: Mapping[str, Any], ours: Any) -> list[str]:
    sizes = {name: value for name, value in described.items() if _last(name) == "image_size"}
    size = sizes["prompt_encoder_config.image_size"]
    if any(other != size for other in sizes.values()):
        different = ", ".join(f"{name} {value}" for name, value in sizes.items())
        raise NoConfigError(f"{file} has several image sizes, {different}; {NAME}")
    if len(size) != 2 or not all(isinstance(side, int) for side in size) or size[0] != size[1]:
        raise NoConfigError(f"{file} is for images of the size {size}, but only squares are supported; {NAME}")
    return [] if size == ours else [f"++model.image_size={size[0]}"]


def _flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Flattens nested mappings to one mapping with dotted names. Omits values that are None."""
    out: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{above}{name}.")
        elif value is not None:  # omitted, since None is the default value in transformers
            out[above + name] = value
    return out


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _pair(size: Any) -> Any:
    return size if isinstance(size, list) else [size, size]
