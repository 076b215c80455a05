"""Puts mini's weights into the package: ``python -m sam2fast.mini.split CHECKPOINT``.

The image path is stored in int8, and the modules that only video needs in fp16 in a file of their own: training changes
only these.
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.checkpoints import CheckpointError
from sam2fast.checkpoints.int8 import to_int8
from sam2fast.checkpoints.loading import is_video_only
from sam2fast.io.atomic import atomic_write
from sam2fast.mini import CONFIG, WEIGHTS

IMAGE, MEMORY = "image.safetensors", "memory.safetensors"
LEAST_HALF = 4096  # smaller tensors stay fp32
BITS = 10  # significant ones of the eleven in fp16: the wheel is 0.5 MB smaller


def split(checkpoint: Path, folder: Path = WEIGHTS.parent) -> list[Path]:
    """Writes the two files and their index. Equal weights give equal bytes.

    Args:
        checkpoint: what :func:`sam2fast.checkpoints.read_checkpoint` reads.
        folder: for the files; each appears whole or not at all, the index last.

    Returns:
        The written files.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        CheckpointError: it cannot be read, does not fit mini's configuration, or has weights that are not finite or too
            large for fp16.
    """
    from safetensors.torch import save

    weights = build_sam2_video_predictor(CONFIG, checkpoint, device="cpu").state_dict()
    memory = {name: weights.pop(name) for name in list(weights) if is_video_only(name)}
    stored = {IMAGE: to_int8(weights), MEMORY: {name: _half(name, weight) for name, weight in memory.items()}}
    digests, written = {}, []
    for name, tensors in stored.items():
        content = save({key: tensor.contiguous() for key, tensor in tensors.items()}, {"format": "pt"})
        digests[name] = hashlib.sha256(content).hexdigest()
        written.append(_write(folder / name, content))
    # The digests tell one version of the weights from another by the index alone.
    places = {key: name for name, tensors in stored.items() for key in sorted(tensors)}
    index = {"metadata": {"config": CONFIG, "sha256": digests}, "weight_map": places}
    return [*written, _write(folder / WEIGHTS.name, (json.dumps(index, indent=1) + "\n").encode())]


def _half(name: str, weight: Tensor) -> Tensor:
    """``weight`` in fp16 if it is large."""
    mantissa, exponent = torch.frexp(weight)
    half = torch.ldexp((mantissa * 2**BITS).round() / 2**BITS, exponent).half()
    if not half.isfinite().all():
        raise CheckpointError(f"{name} has numbers that are not finite, or too large for fp16")
    return half if weight.numel() >= LEAST_HALF else weight


def _write(path: Path, content: bytes) -> Path:
    with atomic_write(path) as file:
        file.write(content)
    return path


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Put trained weights of mini into the package.")
    parser.add_argument("checkpoint", type=Path, help="weights as training writes them, averaged.pt")
    parser.add_argument("--out", type=Path, default=WEIGHTS.parent, help="a folder; default: the package's own")
    arguments = parser.parse_args()
    for file in split(arguments.checkpoint, arguments.out):
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
