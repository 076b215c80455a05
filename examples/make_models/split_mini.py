"""Stores trained weights of mini in the package: ``python split_mini.py CHECKPOINT``.

The image path is stored in int8, and the modules that only video needs in fp16 in a file of their own: training changes
only these.
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.checkpoints import CheckpointError
from sam2fast.checkpoints.int8 import to_int8
from sam2fast.checkpoints.loading import is_video_only
from sam2fast.io.atomic import atomic_write
from sam2fast.mini import CONFIG, WEIGHTS

LEAST_HALF = 4096  # smaller tensors stay fp32
BITS = 10  # significant ones of the eleven in fp16: the wheel is 0.5 MB smaller


def split(checkpoint: Path, folder: Path = WEIGHTS.parent) -> list[Path]:
    """The two written files and their index, which is written last. Equal weights give equal bytes.

    Args:
        checkpoint: weights of mini as training writes them.
        folder: for the files; each is replaced atomically.

    Raises:
        CheckpointError: the checkpoint cannot be read, is not one of mini, or has weights that are not finite or too
            large for fp16.
    """
    weights = build_sam2_video_predictor(CONFIG, checkpoint, device="cpu").state_dict()
    memory = {name: weights.pop(name) for name in list(weights) if is_video_only(name)}
    stored = {
        "image.safetensors": to_int8(weights),
        "memory.safetensors": {name: to_half(name, weight) for name, weight in memory.items()},
    }
    contents = {
        name: save({key: tensor.contiguous() for key, tensor in tensors.items()}, {"format": "pt"})
        for name, tensors in stored.items()
    }
    # The digests identify a version of the weights by the index alone.
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    files = {key: name for name, tensors in stored.items() for key in sorted(tensors)}
    index = {"metadata": {"config": CONFIG, "sha256": digests}, "weight_map": files}
    contents[WEIGHTS.name] = (json.dumps(index, indent=1) + "\n").encode()
    for name, content in contents.items():
        with atomic_write(folder / name) as file:
            file.write(content)
    return [folder / name for name in contents]


def to_half(name: str, weight: Tensor) -> Tensor:
    """``weight`` in fp16 if it is large, else unchanged.

    Raises:
        CheckpointError: a number is not finite, or too large for fp16.
    """
    mantissa, exponent = torch.frexp(weight)
    half = torch.ldexp((mantissa * 2**BITS).round() / 2**BITS, exponent).half()
    if not half.isfinite().all():
        raise CheckpointError(f"{name} has numbers that are not finite, or too large for fp16")
    return half if weight.numel() >= LEAST_HALF else weight


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="weights as training writes them, averaged.pt")
    parser.add_argument("--out", type=Path, default=WEIGHTS.parent, help="a folder; default: the package's own")
    arguments = parser.parse_args()
    for file in split(arguments.checkpoint, arguments.out):
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
