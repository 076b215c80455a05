"""Makes implementations that always store memories as bfloat16 store them in fp32."""

from typing import Any

import torch


class Float32Memory:
    """Replaces the name ``torch`` in their module."""

    bfloat16 = torch.float32

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)
