from pathlib import Path

import pytest
import torch
from torch import Tensor

from sam2fast import nano
from sam2fast.checkpoints import read_checkpoint


@pytest.fixture(scope="session")
def nano_weights() -> dict[str, Tensor]:
    """The embedded model's weights in fp32; must not be modified."""
    return {name: tensor.float() for name, tensor in read_checkpoint(nano.WEIGHTS).items()}


@pytest.fixture(scope="session")
def nano_file(nano_weights, tmp_path_factory) -> Path:
    """The embedded weights as a file in the official layout."""
    path = tmp_path_factory.mktemp("nano") / "nano.pt"
    torch.save({"model": nano_weights}, path)
    return path
