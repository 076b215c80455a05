"""Puts trained weights into the package: ``python -m sam2fast.training.export_nano CHECKPOINT``."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.io.atomic import atomic_write
from sam2fast.nano import CONFIG, WEIGHTS

# Smaller tensors stay fp32: biases, norms, embeddings and the frequencies of positions are a hundredth of the file.
LEAST_HALF = 4096
# Limit of the rounding error of a tensor relative to its norm. The eleven bits of fp16 always satisfy it, except for
# numbers below 6e-5, which have fewer bits.
ROUNDING = 2.0**-11


def export(checkpoint: Path, out: Path = WEIGHTS, steps: int | None = None) -> dict[str, Tensor]:
    """Writes a checkpoint of nano as safetensors, in fp16 where the rounding error is negligible.

    Equal weights give equal bytes.

    Args:
        checkpoint: what :func:`sam2fast.checkpoints.read_checkpoint` reads.
        out: appears whole or not at all.
        steps: of the training, for the file's metadata.

    Returns:
        The written tensors.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        CheckpointError: it cannot be read, or does not fit nano's configuration.
        ValueError: some of its weights are not finite.
    """
    from safetensors.torch import save

    model = build_sam2_video_predictor(CONFIG, checkpoint, device="cpu")
    tensors = {name: to_half(name, tensor) for name, tensor in model.state_dict().items()}
    # One entry, since the order of several differs between runs.
    metadata: dict[str, Any] = {"config": CONFIG} | ({} if steps is None else {"steps": steps})
    with atomic_write(out) as file:
        file.write(save(tensors, {"sam2fast": json.dumps(metadata, sort_keys=True)}))
    return tensors


def to_half(name: str, tensor: Tensor) -> Tensor:
    """``tensor`` in fp16 if it is large and the rounding error is small, else unchanged.

    Raises:
        ValueError: it is not finite; the message has its name.
    """
    if not tensor.isfinite().all():
        raise ValueError(f"the weights {name} are not finite")
    half = tensor.half()
    error = (half.float() - tensor).norm()
    # Also false if fp16 has overflowed.
    return half if tensor.numel() >= LEAST_HALF and bool(error <= ROUNDING * tensor.norm()) else tensor


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Put trained weights of nano into the package.")
    parser.add_argument("checkpoint", type=Path, help="weights as training writes them, averaged.pt")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="default: the package's own file")
    parser.add_argument("--steps", type=int, help="of the training, to be noted in the file")
    arguments = parser.parse_args()
    tensors = export(arguments.checkpoint, arguments.out, arguments.steps)
    narrow = sum(tensor.numel() for tensor in tensors.values() if tensor.dtype == torch.float16)
    count = sum(tensor.numel() for tensor in tensors.values())
    size = arguments.out.stat().st_size / 1e6
    print(f"{arguments.out}: {size:.1f} MB, {count / 1e6:.2f} million parameters, {narrow / count:.1%} of them fp16")


if __name__ == "__main__":
    main()
