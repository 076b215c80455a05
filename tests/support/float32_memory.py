"""Lets implementations that store memories as bfloat16, whatever they compute in, store them in fp32."""

from typing import Any

import torch


class Float32Memory:
    """Stands in for the name ``torch`` in a module of theirs."""

    bfloat16 = torch.float32

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)
