"""Reads and writes files of saved sessions, for tests of the reader."""

import json
from collections.abc import Mapping
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from sam2fast.tracking.saved_state import DIGEST, FACTS, _digest


def taken_apart(data: bytes) -> tuple[Any, dict[str, Tensor]]:
    """The facts and the tensors of a file."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"][FACTS]), load(data)


def put_together(facts: str, tensors: Mapping[str, Tensor], digest: str | None = None) -> bytes:
    """A file; its digest is the right one, unless another is given."""
    return save(dict(tensors), {FACTS: facts, DIGEST: digest or _digest(facts, tensors)})
