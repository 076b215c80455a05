"""Conversion to transformers' names and back; tests/transformers compares the names with the library."""

import pytest
import torch
from checkpoint_files import OFFICIAL, numbered_weights

from sam2fast import nano
from sam2fast.checkpoints import CheckpointError
from sam2fast.checkpoints.transformers_layout import (
    POINTS,
    POINTS_THERE,
    POSITIONS,
    POSITIONS_THERE,
    is_transformers,
    to_official,
    to_transformers,
)

# Of every kind of module whose names follow from a rule; the others stand in the table as they are.
PAIRS = {
    "no_obj_embed_spatial": "occlusion_spatial_embedding_parameter",
    "obj_ptr_proj.layers.0.weight": "object_pointer_proj.proj_in.weight",
    "obj_ptr_proj.layers.1.weight": "object_pointer_proj.layers.0.weight",
    "obj_ptr_proj.layers.2.bias": "object_pointer_proj.proj_out.bias",
    "image_encoder.trunk.blocks.9.norm1.weight": "vision_encoder.backbone.blocks.9.layer_norm1.weight",
    "image_encoder.trunk.blocks.9.attn.proj.weight": "vision_encoder.backbone.blocks.9.attn.proj.weight",
    "image_encoder.trunk.blocks.9.mlp.layers.1.weight": "vision_encoder.backbone.blocks.9.mlp.proj_out.weight",
    "image_encoder.neck.convs.3.conv.bias": "vision_encoder.neck.convs.3.bias",
    "sam_mask_decoder.transformer.layers.1.self_attn.k_proj.weight": (
        "mask_decoder.transformer.layers.1.self_attn.k_proj.weight"
    ),
    "sam_mask_decoder.transformer.layers.0.cross_attn_image_to_token.out_proj.bias": (
        "mask_decoder.transformer.layers.0.cross_attn_image_to_token.o_proj.bias"
    ),
    "sam_mask_decoder.transformer.layers.0.norm3.bias": "mask_decoder.transformer.layers.0.layer_norm3.bias",
    "sam_mask_decoder.transformer.layers.0.mlp.layers.1.bias": "mask_decoder.transformer.layers.0.mlp.proj_out.bias",
    "sam_mask_decoder.output_hypernetworks_mlps.2.layers.1.weight": (
        "mask_decoder.output_hypernetworks_mlps.2.layers.0.weight"
    ),
    "memory_attention.layers.2.norm3.weight": "memory_attention.layers.2.layer_norm3.weight",
    "memory_encoder.mask_downsampler.encoder.9.weight": "memory_encoder.mask_downsampler.layers.3.conv.weight",
    "memory_encoder.mask_downsampler.encoder.10.weight": "memory_encoder.mask_downsampler.layers.3.layer_norm.weight",
    "memory_encoder.fuser.layers.1.gamma": "memory_encoder.memory_fuser.layers.1.scale",
}


@pytest.mark.parametrize("config", [*OFFICIAL, nano.CONFIG])
def test_there_and_back(config):
    """Every weight of every model gets a unique name, and its official name again when converted back."""
    weights = numbered_weights(config)
    theirs = to_transformers(weights)
    assert len(theirs) == len(weights) - 2  # four tables become one, one matrix two
    assert is_transformers(theirs) and not is_transformers(weights)
    back = to_official(theirs)
    assert back.keys() == weights.keys()
    for name, tensor in weights.items():
        assert back[name].shape == tensor.shape and torch.equal(back[name], tensor), name


def test_names_of_every_kind():
    weights = numbered_weights("sam2.1_hiera_t")
    theirs = to_transformers(weights)
    for official, name in PAIRS.items():
        assert torch.equal(theirs[name], weights[official]), official


def test_points_and_positions():
    weights = numbered_weights(nano.CONFIG)
    theirs = to_transformers(weights)
    assert [float(row[0]) for row in theirs[POINTS_THERE]] == [float(weights[name][0, 0]) for name in POINTS]
    tables = [theirs[name] for name in POSITIONS_THERE]
    assert all(torch.equal(table, weights[POSITIONS]) for table in tables)
    assert tables[0].data_ptr() != tables[1].data_ptr()


@pytest.mark.parametrize("kept", POSITIONS_THERE)
def test_one_of_the_two_matrices_is_enough(kept):
    weights = numbered_weights(nano.CONFIG)
    theirs = {name: x for name, x in to_transformers(weights).items() if name == kept or name not in POSITIONS_THERE}
    assert torch.equal(to_official(theirs)[POSITIONS], weights[POSITIONS])


def test_what_cannot_be_converted():
    weights = numbered_weights(nano.CONFIG)
    with pytest.raises(CheckpointError, match="1 names have no counterpart in transformers: head.weight"):
        to_transformers(weights | {"head.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"1 weights .* missing: sam_prompt_encoder.point_embeddings.2.weight"):
        to_transformers({name: x for name, x in weights.items() if name != POINTS[2]})
    theirs = to_transformers(weights)
    with pytest.raises(CheckpointError, match="differ"):
        to_official(theirs | {POSITIONS_THERE[1]: theirs[POSITIONS_THERE[1]] + 1})
    with pytest.raises(CheckpointError, match=r"\(3, 128\); expected four rows"):
        to_official(theirs | {POINTS_THERE: theirs[POINTS_THERE][:3]})
    with pytest.raises(CheckpointError, match="no_mem_embed under two names"):
        to_official(theirs | {"no_mem_embed": torch.zeros(1, 1, 128)})
