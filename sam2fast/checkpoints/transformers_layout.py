"""Converts weights between official names and names of transformers' SAM 2, EdgeTAM and SAM 3.

In transformers, the four point embeddings (1, C) are one tensor (4, C), and the matrix of the position encoding is
stored twice. Joint weights are split: keys and values in EdgeTAM's perceiver, and queries, keys and values in SAM 3's
trunk. All other weights differ only in name. In both layouts, weights of SAM 2.0 lack the same two modules.

Source: ``Sam2VideoModel``, ``EdgeTamVideoModel`` and ``Sam3TrackerVideoModel`` of transformers. Transformers' models
for images have the same names of weights.
"""

import re
from collections.abc import Collection, Mapping
from functools import cache

import torch
from torch import Tensor

from sam2fast.checkpoints.weight_files import CheckpointError, listed


def _below(official: str, theirs: str, names: str) -> list[tuple[str, str]]:
    """Returns pairs of names in two modules. ``names`` lists ``a`` for equal names, and ``a=b`` for different names."""
    pairs = (name.partition("=") for name in names.split())
    return [(f"{official}.{a}", f"{theirs}.{b or a}") for a, _, b in pairs]


def _attention(official: str, theirs: str) -> list[tuple[str, str]]:
    return _below(official, theirs, "q_proj k_proj v_proj out_proj=o_proj")


def _mlp(official: str, theirs: str) -> list[tuple[str, str]]:
    """Returns pairs of names for an MLP of three layers. Transformers renames the first and the last layer."""
    return _below(official, theirs, "layers.0=proj_in layers.1=layers.0 layers.2=proj_out")


_TRUNK, _TRUNK_THERE = "image_encoder.trunk", "vision_encoder.backbone"
_PROMPTS, _PROMPTS_THERE = "sam_prompt_encoder", "prompt_encoder"
_DECODER, _DECODER_THERE = "sam_mask_decoder", "mask_decoder"
_TWO_WAY, _TWO_WAY_THERE = f"{_DECODER}.transformer", f"{_DECODER_THERE}.transformer"
_MEMORY = "memory_attention.layers.#"
_DOWNSAMPLER = "memory_encoder.mask_downsampler"

# Pairs of official and transformers' names of modules or parameters. # stands for a number that is equal in both names.
# `.weight` or `.bias` may follow.
MODULES: tuple[tuple[str, str], ...] = (
    ("maskmem_tpos_enc", "memory_temporal_positional_encoding"),
    ("no_mem_embed", "no_memory_embedding"),
    ("no_mem_pos_enc", "no_memory_positional_encoding"),
    ("no_obj_ptr", "no_object_pointer"),
    ("no_obj_embed_spatial", "occlusion_spatial_embedding_parameter"),
    ("mask_downsample", "mask_downsample"),
    ("obj_ptr_tpos_proj", "temporal_positional_encoding_projection_layer"),
    *_mlp("obj_ptr_proj", "object_pointer_proj"),
    *_below(_TRUNK, _TRUNK_THERE, "pos_embed pos_embed_window patch_embed.proj=patch_embed.projection"),
    *_below(
        f"{_TRUNK}.blocks.#",
        f"{_TRUNK_THERE}.blocks.#",
        "norm1=layer_norm1 norm2=layer_norm2 attn.qkv attn.proj proj "
        "mlp.layers.0=mlp.proj_in mlp.layers.1=mlp.proj_out",
    ),
    ("image_encoder.neck.convs.#.conv", "vision_encoder.neck.convs.#"),
    *_below(_PROMPTS, _PROMPTS_THERE, "not_a_point_embed no_mask_embed"),
    *_below(
        f"{_PROMPTS}.mask_downscaling",
        f"{_PROMPTS_THERE}.mask_embed",
        "0=conv1 1=layer_norm1 3=conv2 4=layer_norm2 6=conv3",
    ),
    *_below(
        _DECODER,
        _DECODER_THERE,
        "iou_token mask_tokens obj_score_token conv_s0 conv_s1 "
        "output_upscaling.0=upscale_conv1 output_upscaling.1=upscale_layer_norm output_upscaling.3=upscale_conv2",
    ),
    *(
        pair
        for name in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
        for pair in _attention(f"{_TWO_WAY}.layers.#.{name}", f"{_TWO_WAY_THERE}.layers.#.{name}")
    ),
    *_below(
        f"{_TWO_WAY}.layers.#",
        f"{_TWO_WAY_THERE}.layers.#",
        "norm1=layer_norm1 norm2=layer_norm2 norm3=layer_norm3 norm4=layer_norm4 "
        "mlp.layers.0=mlp.proj_in mlp.layers.1=mlp.proj_out",
    ),
    *_attention(f"{_TWO_WAY}.final_attn_token_to_image", f"{_TWO_WAY_THERE}.final_attn_token_to_image"),
    (f"{_TWO_WAY}.norm_final_attn", f"{_TWO_WAY_THERE}.layer_norm_final_attn"),
    *_mlp(f"{_DECODER}.output_hypernetworks_mlps.#", f"{_DECODER_THERE}.output_hypernetworks_mlps.#"),
    *_mlp(f"{_DECODER}.iou_prediction_head", f"{_DECODER_THERE}.iou_prediction_head"),
    *_mlp(f"{_DECODER}.pred_obj_score_head", f"{_DECODER_THERE}.pred_obj_score_head"),
    *_attention(f"{_MEMORY}.self_attn", f"{_MEMORY}.self_attn"),
    *_attention(f"{_MEMORY}.cross_attn_image", f"{_MEMORY}.cross_attn_image"),
    *_below(_MEMORY, _MEMORY, "linear1 linear2 norm1=layer_norm1 norm2=layer_norm2 norm3=layer_norm3"),
    ("memory_attention.norm", "memory_attention.layer_norm"),
    # In official names, convolution, norm and activation alternate in one nn.Sequential.
    *((f"{_DOWNSAMPLER}.encoder.{3 * i}", f"{_DOWNSAMPLER}.layers.{i}.conv") for i in range(4)),
    *((f"{_DOWNSAMPLER}.encoder.{3 * i + 1}", f"{_DOWNSAMPLER}.layers.{i}.layer_norm") for i in range(4)),
    (f"{_DOWNSAMPLER}.encoder.12", f"{_DOWNSAMPLER}.final_conv"),
    *_below(
        "memory_encoder.fuser.layers.#",
        "memory_encoder.memory_fuser.layers.#",
        "gamma=scale dwconv=depthwise_conv norm=layer_norm pwconv1=pointwise_conv1 pwconv2=pointwise_conv2",
    ),
    ("memory_encoder.pix_feat_proj", "memory_encoder.feature_projection"),
    ("memory_encoder.out_proj", "memory_encoder.projection"),
)
_NECK, _NECK_THERE = "image_encoder.neck.convs", "vision_encoder.neck.fpn_layers"
# Additional pairs by model type, with precedence over MODULES. Joint weights are split before they are renamed.
MODULES_OF: dict[str, tuple[tuple[str, str], ...]] = {
    "sam2": (),
    "edgetam": (
        *_below(_MEMORY, _MEMORY, "linear1=mlp.up_proj linear2=mlp.down_proj"),
        *_below("spatial_perceiver", "spatial_perceiver", "latents=latents_1d latents_2d norm=layer_norm"),
        *_below(
            "spatial_perceiver.layers.#",
            "spatial_perceiver.layers.#",
            "attn.norm_x=layer_norm_input attn.norm_latents=layer_norm_latents self_attn.norm=layer_norm_self "
            "attn.to_q=cross_attention.q_proj attn.to_k=cross_attention.k_proj attn.to_v=cross_attention.v_proj "
            "attn.to_out=cross_attention.o_proj self_attn.to_q=self_attention.q_proj "
            "self_attn.to_k=self_attention.k_proj self_attn.to_v=self_attention.v_proj "
            "self_attn.to_out=self_attention.o_proj ff.0=mlp.layer_norm ff.1=mlp.up_proj ff.3=mlp.down_proj "
            "self_ff.0=self_mlp.layer_norm self_ff.1=self_mlp.up_proj self_ff.3=self_mlp.down_proj",
        ),
    ),
    "sam3": (
        *_below(
            _TRUNK,
            _TRUNK_THERE,
            "pos_embed=embeddings.position_embeddings patch_embed.proj=embeddings.patch_embeddings.projection "
            "ln_pre=layer_norm",
        ),
        *_below(
            f"{_TRUNK}.blocks.#",
            f"{_TRUNK_THERE}.layers.#",
            "norm1=layer_norm1 norm2=layer_norm2 attn.q=attention.q_proj attn.k=attention.k_proj "
            "attn.v=attention.v_proj attn.proj=attention.o_proj mlp.layers.0=mlp.fc1 mlp.layers.1=mlp.fc2",
        ),
        *_below(f"{_NECK}.0", f"{_NECK_THERE}.0", "dconv_2x2_0=scale_layers.0 dconv_2x2_1=scale_layers.2"),
        *_below(f"{_NECK}.1", f"{_NECK_THERE}.1", "dconv_2x2=scale_layers.0"),
        *_below(f"{_NECK}.#", f"{_NECK_THERE}.#", "conv_1x1=proj1 conv_3x3=proj2"),
    ),
}
_BODY, _BODY_THERE = f"{_TRUNK}.body.", f"{_TRUNK_THERE}.timm_model."  # prefixes of equal names
# For each model type, suffixes of joint weights, and suffixes of the parts in transformers.
SPLIT: dict[str, dict[str, tuple[str, ...]]] = {
    "sam2": {},
    "edgetam": {".to_kv.weight": (".to_k.weight", ".to_v.weight")},
    "sam3": {f".attn.qkv.{x}": tuple(f".attn.{part}.{x}" for part in "qkv") for x in ("weight", "bias")},
}
POINTS = tuple(f"{_PROMPTS}.point_embeddings.{label}.weight" for label in range(4))
POINTS_THERE = f"{_PROMPTS_THERE}.point_embed.weight"
POSITIONS = f"{_PROMPTS}.pe_layer.positional_encoding_gaussian_matrix"
POSITIONS_THERE = (
    f"{_PROMPTS_THERE}.shared_embedding.positional_embedding",
    "shared_image_embedding.positional_embedding",
)
# Prefixes that only transformers' names have. SAM 1 also has the second and third prefix, but SAM 1 has an image
# encoder.
MARKS = ("vision_encoder.", f"{_PROMPTS_THERE}.", f"{_DECODER_THERE}.", "shared_image_embedding.")
OFFICIAL_MARKS = ("image_encoder.", f"{_PROMPTS}.", f"{_DECODER}.")


def is_transformers(names: Collection[str]) -> bool:
    """Returns True for transformers' names, and False for official names."""
    return any(name.startswith(MARKS) for name in names) and not any(name.startswith(OFFICIAL_MARKS) for name in names)


def to_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Converts weights from official names to transformers' names.

    Args:
        weights: Weights of a whole model, or of a model's part for images. The dtypes are unchanged.

    Raises:
        CheckpointError: If a name has no counterpart in transformers, or a weight is missing.
    """
    merged, model_type = (*POINTS, POSITIONS), _model_type(weights)
    parts: dict[str, Tensor] = {}  # weights, and parts of joint weights
    for name, tensor in weights.items():
        joint = next((suffix for suffix in SPLIT[model_type] if name.endswith(suffix)), None)
        if joint is None:
            parts[name] = tensor
            continue
        split = [name.removesuffix(joint) + part for part in SPLIT[model_type][joint]]
        parts |= {part: x.clone() for part, x in zip(split, tensor.chunk(len(split)), strict=True)}
    weights = parts
    names = {name: _renamed(name, False, model_type) for name in weights if name not in merged}
    if unknown := [name for name, theirs in names.items() if theirs is None]:
        raise CheckpointError(f"{len(unknown)} names have no counterpart in transformers: {listed(unknown)}")
    if absent := [name for name in merged if name not in weights]:
        raise CheckpointError(f"{len(absent)} weights that transformers needs are missing: {listed(absent)}")
    out = {theirs: weights[name] for name, theirs in names.items() if theirs is not None}
    out[POINTS_THERE] = torch.cat([weights[name] for name in POINTS])
    # Tensors are cloned, since safetensors does not save tensors that share memory.
    out.update({theirs: weights[POSITIONS].clone() for theirs in POSITIONS_THERE})
    return out


def to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Converts weights from transformers' names to official names. Inverse of :func:`to_transformers`.

    Names without an official counterpart are unchanged, so that later error messages contain them.

    Raises:
        CheckpointError: If the two matrices of the position encoding differ, the point embeddings do not have four
            rows, or two tensors would get the same name.
    """
    tables = [tensors[theirs] for theirs in POSITIONS_THERE if theirs in tensors]
    if len(tables) == 2 and not torch.equal(*tables):
        raise CheckpointError(
            f"{POSITIONS_THERE[0]} and {POSITIONS_THERE[1]} differ; SAM 2 has one matrix for points and images"
        )
    out: dict[str, Tensor] = {}
    model_type = _model_type(tensors)
    for theirs in tensors:
        name = POSITIONS if theirs in POSITIONS_THERE else _renamed(theirs, True, model_type) or theirs
        if name in out and name != POSITIONS:
            raise CheckpointError(f"the checkpoint has {name} under two names, one of them {theirs}")
        out[name] = tensors[theirs]
    if POINTS_THERE in out:
        rows = out.pop(POINTS_THERE)
        if rows.ndim != 2 or len(rows) != len(POINTS):
            raise CheckpointError(f"{POINTS_THERE} has the shape {tuple(rows.shape)}; expected four rows")
        out.update({name: rows[i : i + 1].clone() for i, name in enumerate(POINTS)})
    for joint, parts in SPLIT[model_type].items():
        for module in [name.removesuffix(parts[0]) for name in out if name.endswith(parts[0])]:
            names = [module + part for part in parts]
            if all(name in out for name in names):
                out[module + joint] = torch.cat([out.pop(name) for name in names])
    return out


def _model_type(names: Collection[str]) -> str:
    """Returns the key of :data:`MODULES_OF` for official or transformers' names."""
    if any(name.startswith((_BODY, _BODY_THERE)) for name in names):
        return "edgetam"
    is_sam3 = any(name.startswith((f"{_TRUNK}.ln_pre.", f"{_TRUNK_THERE}.embeddings.")) for name in names)
    return "sam3" if is_sam3 else "sam2"


def _renamed(name: str, back: bool, model_type: str) -> str | None:
    """Converts an official name to transformers' name, or the reverse if ``back``. Returns None for unknown names."""
    before, after = (_BODY_THERE, _BODY) if back else (_BODY, _BODY_THERE)
    if name.startswith(before):
        return after + name.removeprefix(before)
    module, dot, parameter = name.rpartition(".")
    if parameter not in ("weight", "bias"):
        module, dot, parameter = name, "", ""
    for pattern, replacement in _patterns(back, model_type):
        if match := pattern.fullmatch(module):
            return match.expand(replacement) + dot + parameter
    return None


@cache
def _patterns(back: bool, model_type: str) -> list[tuple[re.Pattern[str], str]]:
    modules = MODULES_OF[model_type] + MODULES  # the first matching pattern is used
    pairs = ((theirs, official) if back else (official, theirs) for official, theirs in modules)
    return [(re.compile(re.escape(a).replace(r"\#", r"(\d+)")), b.replace("#", r"\1")) for a, b in pairs]
