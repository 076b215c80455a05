"""Converts weights between official names and those of Hugging Face transformers' SAM 2 and EdgeTAM: pure functions.

Besides names, three things differ: the four point embeddings of shape (1, C) are one of shape (4, C) in transformers;
transformers stores the matrix of the position encoding twice; and what projects keys and values in EdgeTAM's perceiver
is two matrices there. No tensor is transposed. Weights of SAM 2.0 lack the same two modules in both layouts.

Source: ``Sam2VideoModel`` and ``Sam2Model`` of transformers, ``EdgeTamVideoModel`` and ``EdgeTamModel``; both of a pair
have the same names, the latter those for images.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache

import torch
from torch import Tensor

from sam2fast.checkpoints.weight_files import CheckpointError, listed


def _attention(official: str, theirs: str) -> list[tuple[str, str]]:
    projections = [(f"{official}.{x}_proj", f"{theirs}.{x}_proj") for x in "qkv"]
    return [*projections, (f"{official}.out_proj", f"{theirs}.o_proj")]


def _mlp(official: str, theirs: str) -> list[tuple[str, str]]:
    """Three layers; in transformers the first and the last have special names."""
    parts = ("proj_in", "layers.0", "proj_out")
    return [(f"{official}.layers.{i}", f"{theirs}.{part}") for i, part in enumerate(parts)]


_LATENTS = "spatial_perceiver.layers.#"


def _latent_attention(official: str, theirs: str) -> list[tuple[str, str]]:
    parts = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "o_proj"}
    return [(f"{_LATENTS}.{official}.{a}", f"{_LATENTS}.{theirs}.{b}") for a, b in parts.items()]


def _latent_mlp(official: str, theirs: str) -> list[tuple[str, str]]:
    parts = {0: "layer_norm", 1: "up_proj", 3: "down_proj"}
    return [(f"{_LATENTS}.{official}.{i}", f"{_LATENTS}.{theirs}.{part}") for i, part in parts.items()]


_TRUNK, _TRUNK_THERE = "image_encoder.trunk", "vision_encoder.backbone"
_BLOCK, _BLOCK_THERE = f"{_TRUNK}.blocks.#", f"{_TRUNK_THERE}.blocks.#"
_PROMPTS, _PROMPTS_THERE = "sam_prompt_encoder", "prompt_encoder"
_DECODER, _DECODER_THERE = "sam_mask_decoder", "mask_decoder"
_TWO_WAY, _TWO_WAY_THERE = f"{_DECODER}.transformer", f"{_DECODER_THERE}.transformer"
_DOWNSAMPLER, _DOWNSAMPLER_THERE = "memory_encoder.mask_downsampler", "memory_encoder.mask_downsampler"
_FUSER, _FUSER_THERE = "memory_encoder.fuser.layers.#", "memory_encoder.memory_fuser.layers.#"

# (official module or parameter, transformers'); # is a number, equal in both. `.weight` or `.bias` may follow.
MODULES: tuple[tuple[str, str], ...] = (
    ("maskmem_tpos_enc", "memory_temporal_positional_encoding"),
    ("no_mem_embed", "no_memory_embedding"),
    ("no_mem_pos_enc", "no_memory_positional_encoding"),
    ("no_obj_ptr", "no_object_pointer"),
    ("no_obj_embed_spatial", "occlusion_spatial_embedding_parameter"),
    ("mask_downsample", "mask_downsample"),
    ("obj_ptr_tpos_proj", "temporal_positional_encoding_projection_layer"),
    *_mlp("obj_ptr_proj", "object_pointer_proj"),
    (f"{_TRUNK}.pos_embed", f"{_TRUNK_THERE}.pos_embed"),
    (f"{_TRUNK}.pos_embed_window", f"{_TRUNK_THERE}.pos_embed_window"),
    (f"{_TRUNK}.patch_embed.proj", f"{_TRUNK_THERE}.patch_embed.projection"),
    (f"{_BLOCK}.norm1", f"{_BLOCK_THERE}.layer_norm1"),
    (f"{_BLOCK}.norm2", f"{_BLOCK_THERE}.layer_norm2"),
    (f"{_BLOCK}.attn.qkv", f"{_BLOCK_THERE}.attn.qkv"),
    (f"{_BLOCK}.attn.proj", f"{_BLOCK_THERE}.attn.proj"),
    (f"{_BLOCK}.mlp.layers.0", f"{_BLOCK_THERE}.mlp.proj_in"),
    (f"{_BLOCK}.mlp.layers.1", f"{_BLOCK_THERE}.mlp.proj_out"),
    (f"{_BLOCK}.proj", f"{_BLOCK_THERE}.proj"),
    ("image_encoder.neck.convs.#.conv", "vision_encoder.neck.convs.#"),
    (f"{_PROMPTS}.not_a_point_embed", f"{_PROMPTS_THERE}.not_a_point_embed"),
    (f"{_PROMPTS}.no_mask_embed", f"{_PROMPTS_THERE}.no_mask_embed"),
    (f"{_PROMPTS}.mask_downscaling.0", f"{_PROMPTS_THERE}.mask_embed.conv1"),
    (f"{_PROMPTS}.mask_downscaling.1", f"{_PROMPTS_THERE}.mask_embed.layer_norm1"),
    (f"{_PROMPTS}.mask_downscaling.3", f"{_PROMPTS_THERE}.mask_embed.conv2"),
    (f"{_PROMPTS}.mask_downscaling.4", f"{_PROMPTS_THERE}.mask_embed.layer_norm2"),
    (f"{_PROMPTS}.mask_downscaling.6", f"{_PROMPTS_THERE}.mask_embed.conv3"),
    (f"{_DECODER}.iou_token", f"{_DECODER_THERE}.iou_token"),
    (f"{_DECODER}.mask_tokens", f"{_DECODER_THERE}.mask_tokens"),
    (f"{_DECODER}.obj_score_token", f"{_DECODER_THERE}.obj_score_token"),
    *_attention(f"{_TWO_WAY}.layers.#.self_attn", f"{_TWO_WAY_THERE}.layers.#.self_attn"),
    *_attention(
        f"{_TWO_WAY}.layers.#.cross_attn_token_to_image", f"{_TWO_WAY_THERE}.layers.#.cross_attn_token_to_image"
    ),
    *_attention(
        f"{_TWO_WAY}.layers.#.cross_attn_image_to_token", f"{_TWO_WAY_THERE}.layers.#.cross_attn_image_to_token"
    ),
    *((f"{_TWO_WAY}.layers.#.norm{i}", f"{_TWO_WAY_THERE}.layers.#.layer_norm{i}") for i in (1, 2, 3, 4)),
    (f"{_TWO_WAY}.layers.#.mlp.layers.0", f"{_TWO_WAY_THERE}.layers.#.mlp.proj_in"),
    (f"{_TWO_WAY}.layers.#.mlp.layers.1", f"{_TWO_WAY_THERE}.layers.#.mlp.proj_out"),
    *_attention(f"{_TWO_WAY}.final_attn_token_to_image", f"{_TWO_WAY_THERE}.final_attn_token_to_image"),
    (f"{_TWO_WAY}.norm_final_attn", f"{_TWO_WAY_THERE}.layer_norm_final_attn"),
    (f"{_DECODER}.output_upscaling.0", f"{_DECODER_THERE}.upscale_conv1"),
    (f"{_DECODER}.output_upscaling.1", f"{_DECODER_THERE}.upscale_layer_norm"),
    (f"{_DECODER}.output_upscaling.3", f"{_DECODER_THERE}.upscale_conv2"),
    (f"{_DECODER}.conv_s0", f"{_DECODER_THERE}.conv_s0"),
    (f"{_DECODER}.conv_s1", f"{_DECODER_THERE}.conv_s1"),
    *_mlp(f"{_DECODER}.output_hypernetworks_mlps.#", f"{_DECODER_THERE}.output_hypernetworks_mlps.#"),
    *_mlp(f"{_DECODER}.iou_prediction_head", f"{_DECODER_THERE}.iou_prediction_head"),
    *_mlp(f"{_DECODER}.pred_obj_score_head", f"{_DECODER_THERE}.pred_obj_score_head"),
    *_attention("memory_attention.layers.#.self_attn", "memory_attention.layers.#.self_attn"),
    *_attention("memory_attention.layers.#.cross_attn_image", "memory_attention.layers.#.cross_attn_image"),
    ("memory_attention.layers.#.linear1", "memory_attention.layers.#.linear1"),
    ("memory_attention.layers.#.linear2", "memory_attention.layers.#.linear2"),
    *((f"memory_attention.layers.#.norm{i}", f"memory_attention.layers.#.layer_norm{i}") for i in (1, 2, 3)),
    ("memory_attention.norm", "memory_attention.layer_norm"),
    # Officially, convolution, norm and activation alternate in one sequence.
    *((f"{_DOWNSAMPLER}.encoder.{3 * i}", f"{_DOWNSAMPLER_THERE}.layers.{i}.conv") for i in range(4)),
    *((f"{_DOWNSAMPLER}.encoder.{3 * i + 1}", f"{_DOWNSAMPLER_THERE}.layers.{i}.layer_norm") for i in range(4)),
    (f"{_DOWNSAMPLER}.encoder.12", f"{_DOWNSAMPLER_THERE}.final_conv"),
    ("memory_encoder.pix_feat_proj", "memory_encoder.feature_projection"),
    (f"{_FUSER}.gamma", f"{_FUSER_THERE}.scale"),
    (f"{_FUSER}.dwconv", f"{_FUSER_THERE}.depthwise_conv"),
    (f"{_FUSER}.norm", f"{_FUSER_THERE}.layer_norm"),
    (f"{_FUSER}.pwconv1", f"{_FUSER_THERE}.pointwise_conv1"),
    (f"{_FUSER}.pwconv2", f"{_FUSER_THERE}.pointwise_conv2"),
    ("memory_encoder.out_proj", "memory_encoder.projection"),
)
# Of EdgeTAM alone. Keys and values are :data:`SPLIT` before they get their names in transformers.
EDGETAM_MODULES: tuple[tuple[str, str], ...] = (
    ("memory_attention.layers.#.linear1", "memory_attention.layers.#.mlp.up_proj"),
    ("memory_attention.layers.#.linear2", "memory_attention.layers.#.mlp.down_proj"),
    ("spatial_perceiver.latents", "spatial_perceiver.latents_1d"),
    ("spatial_perceiver.latents_2d", "spatial_perceiver.latents_2d"),
    ("spatial_perceiver.norm", "spatial_perceiver.layer_norm"),
    (f"{_LATENTS}.attn.norm_x", f"{_LATENTS}.layer_norm_input"),
    (f"{_LATENTS}.attn.norm_latents", f"{_LATENTS}.layer_norm_latents"),
    (f"{_LATENTS}.self_attn.norm", f"{_LATENTS}.layer_norm_self"),
    *_latent_attention("attn", "cross_attention"),
    *_latent_attention("self_attn", "self_attention"),
    *_latent_mlp("ff", "mlp"),
    *_latent_mlp("self_ff", "self_mlp"),
)
_BODY, _BODY_THERE = f"{_TRUNK}.body.", f"{_TRUNK_THERE}.timm_model."  # all names below are equal in both
JOINED, SPLIT = ".to_kv.weight", (".to_k.weight", ".to_v.weight")
POINTS = tuple(f"{_PROMPTS}.point_embeddings.{label}.weight" for label in range(4))
POINTS_THERE = f"{_PROMPTS_THERE}.point_embed.weight"
POSITIONS = f"{_PROMPTS}.pe_layer.positional_encoding_gaussian_matrix"
POSITIONS_THERE = (
    f"{_PROMPTS_THERE}.shared_embedding.positional_embedding",
    "shared_image_embedding.positional_embedding",
)
# Prefixes of transformers' names only. (SAM 1 has names with the second and third, but also an image encoder.)
MARKS = ("vision_encoder.", f"{_PROMPTS_THERE}.", f"{_DECODER_THERE}.", "shared_image_embedding.")
OFFICIAL_MARKS = ("image_encoder.", f"{_PROMPTS}.", f"{_DECODER}.")


def is_transformers(names: Collection[str]) -> bool:
    """Whether these are transformers' names rather than official ones."""
    return any(name.startswith(MARKS) for name in names) and not any(name.startswith(OFFICIAL_MARKS) for name in names)


def to_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with official names under transformers' names.

    Args:
        weights: of a whole model, or of its part for images; any dtypes.

    Raises:
        CheckpointError: names without a counterpart in transformers.
    """
    merged, is_edgetam = (*POINTS, POSITIONS), any(name.startswith(_BODY) for name in weights)
    weights = _with_split(weights)
    names = {name: _renamed(name, False, is_edgetam) for name in weights if name not in merged}
    if unknown := [name for name, theirs in names.items() if theirs is None]:
        raise CheckpointError(f"{len(unknown)} names have no counterpart in transformers: {listed(unknown)}")
    if absent := [name for name in merged if name not in weights]:
        raise CheckpointError(f"{len(absent)} weights that transformers needs are missing: {listed(absent)}")
    out = {theirs: weights[name] for name, theirs in names.items() if theirs is not None}
    out[POINTS_THERE] = torch.cat([weights[name] for name in POINTS])
    # Clones: safetensors refuses tensors that share memory.
    out.update({theirs: weights[POSITIONS].clone() for theirs in POSITIONS_THERE})
    return out


def to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with transformers' names under official names; the inverse of :func:`to_transformers`.

    Names without an official counterpart are kept, so that later errors can name them.

    Raises:
        CheckpointError: the two matrices of the position encoding differ, the point embeddings do not have four
            rows, or two tensors would get the same name.
    """
    tables = [tensors[theirs] for theirs in POSITIONS_THERE if theirs in tensors]
    if len(tables) == 2 and not torch.equal(*tables):
        raise CheckpointError(
            f"{POSITIONS_THERE[0]} and {POSITIONS_THERE[1]} differ; SAM 2 has one matrix for points and images"
        )
    out: dict[str, Tensor] = {}
    for theirs, name in official_names(tensors).items():
        if name in out and name != POSITIONS:
            raise CheckpointError(f"the checkpoint has {name} under two names, one of them {theirs}")
        out[name] = tensors[theirs]
    if POINTS_THERE in out:
        rows = out.pop(POINTS_THERE)
        if rows.ndim != 2 or len(rows) != len(POINTS):
            raise CheckpointError(f"{POINTS_THERE} has the shape {tuple(rows.shape)}; expected four rows")
        out.update({name: rows[i : i + 1].clone() for i, name in enumerate(POINTS)})
    for key in [name for name in out if name.endswith(SPLIT[0])]:
        module = key.removesuffix(SPLIT[0])
        if (value := module + SPLIT[1]) in out:
            out[module + JOINED] = torch.cat([out.pop(key), out.pop(value)])
    return out


def _with_split(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with keys and values apart."""
    out: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.endswith(JOINED):
            parts = zip(SPLIT, tensor.chunk(2), strict=True)
            out |= {name.removesuffix(JOINED) + suffix: part.clone() for suffix, part in parts}
        else:
            out[name] = tensor
    return out


def official_names(names: Iterable[str]) -> dict[str, str]:
    """The official name of each of transformers' names; the name itself if it has none, or several, as for points."""
    names = list(names)
    is_edgetam = any(name.startswith(_BODY_THERE) for name in names)
    there = {name: _renamed(name, True, is_edgetam) or name for name in names}
    return there | {name: POSITIONS for name in POSITIONS_THERE if name in there}


def _renamed(name: str, back: bool, is_edgetam: bool) -> str | None:
    """Transformers' name of an official parameter, or with ``back`` the reverse; None if there is none."""
    before, after = (_BODY_THERE, _BODY) if back else (_BODY, _BODY_THERE)
    if name.startswith(before):
        return after + name.removeprefix(before)
    module, dot, kind = name.rpartition(".")
    if kind not in ("weight", "bias"):
        module, dot, kind = name, "", ""
    for pattern, replacement in _patterns(back, is_edgetam):
        if found := pattern.fullmatch(module):
            return found.expand(replacement) + dot + kind
    return None


@cache
def _patterns(back: bool, is_edgetam: bool) -> list[tuple[re.Pattern[str], str]]:
    modules = EDGETAM_MODULES + MODULES if is_edgetam else MODULES  # the first that fits
    pairs = ((theirs, official) if back else (official, theirs) for official, theirs in modules)
    return [(re.compile(re.escape(a).replace(r"\#", r"(\d+)")), b.replace("#", r"\1")) for a, b in pairs]
