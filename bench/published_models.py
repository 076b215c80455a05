"""Sizes of the published models at 1024 x 1024 pixels."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from figures.results import MODELS
from registry import Work

# Positions of a frame's map, channels of its queries and of memory tokens, memories that an object has at most, and
# tokens of its pointers (16, of four tokens each).
N, D, M_CHANNELS, PAGES, POINTERS = 4096, 256, 64, 7, 64
FULL_HD = (1080, 1920)


class Windowed(NamedTuple):
    """Attention of one block of Hiera."""

    side: int  # of the map
    window: int  # 0: the map is one window
    heads: int
    width: int  # channels of a head
    stride: int = 1  # of pooling: 2, or 1


@functools.cache
def hiera_blocks(size: str) -> tuple[Windowed, ...]:
    """Every block of a published model, in order."""
    import torch

    from sam2fast.config import load_config
    from sam2fast.modeling.hiera import Hiera

    trunk = dict(load_config(f"configs/sam2.1/sam2.1_hiera_{size}.yaml").model.image_encoder.trunk)
    del trunk["_target_"]
    with torch.device("meta"):
        blocks: Iterable[Any] = Hiera(**trunk).blocks
    side, found = 256, []
    for block in blocks:
        stride, heads = (2 if block.q_stride else 1), block.attn.num_heads
        found.append(Windowed(side, block.window_size, heads, block.dim_out // heads, stride))
        side //= stride
    return tuple(found)


def of_stages(of_stage: Callable[[int, int, int], tuple[str, Work]]) -> Iterable[tuple[str, str, Work]]:
    """Work by positions, channels and bytes of a number in the stages of the smallest and the largest model.

    A session's stream is fp32 up to the first pooling.
    """
    for size in ("t", "l"):
        stages = {block.side // block.stride: block.heads * block.width for block in hiera_blocks(size)}
        for stage, (side, channels) in enumerate(stages.items()):
            said, done = of_stage(side**2, channels, 2 if stage else 4)
            yield f"{MODELS[size]}, {side**2:,} × {channels}{said}", "bf16", done
