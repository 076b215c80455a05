"""Cuts the image path of SAM 2 tiny down to mini's: ``python derive_mini.py sam2_hiera_tiny.pt image.pt``.

The fourth stage of the trunk is removed, and with it the coarsest level of the neck. The neck added that level to the
next one, which gets the bias of the removed convolution.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sam2fast.checkpoints import CheckpointError, read_checkpoint
from sam2fast.checkpoints.loading import is_video_only
from sam2fast.checkpoints.writing import write_official

BLOCKS = 10  # of the trunk's twelve: stages of 1, 2 and 7 blocks
TRUNK, NECK = "image_encoder.trunk.blocks.", "image_encoder.neck.convs."
SCORE = "sam_mask_decoder.pred_obj_score_head.layers.2."


def derive(tiny: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of mini's image path, fp32, by official names.

    Args:
        tiny: the weights of ``sam2_hiera_tiny`` by official names; those for video are not used.

    Raises:
        CheckpointError: these are not tiny's weights.
    """
    if f"{TRUNK}11.attn.qkv.weight" not in tiny or f"{NECK}3.conv.weight" not in tiny:
        raise CheckpointError("expected the weights of SAM 2 tiny: a trunk of twelve blocks and a neck of four levels")
    weights = {}
    for name, weight in tiny.items():
        if is_video_only(name) or (name.startswith(TRUNK) and int(name.removeprefix(TRUNK).split(".")[0]) >= BLOCKS):
            continue
        if name.startswith(NECK):
            level, rest = name.removeprefix(NECK).split(".", 1)
            if level == "0":
                continue
            name = f"{NECK}{int(level) - 1}.{rest}"
        weights[name] = weight.float()
    # An object is present until the head of object scores is trained: masks of absent objects get no gradient.
    weights[f"{SCORE}weight"], weights[f"{SCORE}bias"] = torch.zeros(1, 256), torch.full((1,), 4.0)
    weights[f"{NECK}0.conv.bias"] = weights[f"{NECK}0.conv.bias"] + tiny[f"{NECK}0.conv.bias"].float()
    return weights


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tiny", type=Path, help="weights of sam2_hiera_tiny")
    parser.add_argument("out", type=Path, help="a .pt file")
    arguments = parser.parse_args()
    write_official(derive(read_checkpoint(arguments.tiny)), arguments.out)
