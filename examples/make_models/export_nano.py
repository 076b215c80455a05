"""Stores trained weights of nano in the package: ``python export_nano.py CHECKPOINT``."""

import argparse
import json
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.io.atomic import atomic_write
from sam2fast.nano import CONFIG, WEIGHTS

LEAST_HALF = 4096  # smaller tensors stay fp32: a hundredth of the file
# Largest rounding error of a tensor relative to its norm. fp16 exceeds it only for numbers below 6e-5.
ROUNDING = 2.0**-11


def export(checkpoint: Path, out: Path = WEIGHTS, steps: int | None = None) -> dict[str, Tensor]:
    """The written tensors: the weights of a checkpoint in fp16 where the rounding error is negligible.

    Equal weights give equal bytes.

    Args:
        checkpoint: weights of nano as training writes them.
        out: a safetensors file, replaced atomically.
        steps: number of updates, for the file's metadata.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is not one of nano.
        ValueError: some weights are not finite.
    """
    model = build_sam2_video_predictor(CONFIG, checkpoint, device="cpu")
    tensors = {name: to_half(name, tensor) for name, tensor in model.state_dict().items()}
    # One entry: the order of several differs between runs.
    metadata: dict[str, Any] = {"config": CONFIG} | ({} if steps is None else {"steps": steps})
    with atomic_write(out) as file:
        file.write(save(tensors, {"sam2fast": json.dumps(metadata, sort_keys=True)}))
    return tensors


def to_half(name: str, tensor: Tensor) -> Tensor:
    """``tensor`` in fp16 if it is large and the rounding error is small, else unchanged.

    Raises:
        ValueError: it is not finite.
    """
    if not tensor.isfinite().all():
        raise ValueError(f"the weights {name} are not finite")
    half = tensor.half()
    error = (half.float() - tensor).norm()
    # Also false if fp16 has overflowed.
    return half if tensor.numel() >= LEAST_HALF and bool(error <= ROUNDING * tensor.norm()) else tensor


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="weights as training writes them, averaged.pt")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="default: the package's own file")
    parser.add_argument("--steps", type=int, help="number of updates, for the file's metadata")
    arguments = parser.parse_args()
    export(arguments.checkpoint, arguments.out, arguments.steps)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB")
