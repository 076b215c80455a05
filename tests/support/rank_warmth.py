"""Imported by the process that ranks are forked from, for slow imports. No gradients: torch refuses them in forks."""

from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed.fsdp
import torch.distributed.tensor
from small_training import build

from sam2fast.training.distributed import strategies  # noqa: F401
from sam2fast.training.validation import validate

torch.set_num_threads(1)  # a process that is forked from one with a pool of threads waits for them for ever
with TemporaryDirectory() as _folder, torch.no_grad():
    _trainer = build(Path(_folder), "trainer.accelerator=cpu")
    validate(_trainer.model.eval(), _trainer.data["val"], _trainer.device)
    del _trainer
# Torch draws up its table of dtypes for files now, before any of them is another one for a test's sake.
torch.save(torch.zeros(1), BytesIO())
