"""A small case of every op and every row of the launch table, for rehearsals in Triton's interpreter; no times."""

from collections.abc import Iterator

import torch
from encoder_ops import layer_norm_case, linear_gelu_case, preprocess_case
from mask_lists import box_nms_case, decode_case, encode_case, encode_upsampled_case, mask_nms_case
from masks import bits_case, overlaps_case, statistics_case, threshold_case
from registry import Case, attention_case, components_case, holes_case, memory_case, self_attention_case

SIZE = (20, 36)


def small_cases() -> Iterator[Case]:
    """In the order of :func:`registry.cases`."""
    yield components_case(1, 16, 24)
    yield holes_case(1, side=16)
    for dtype in (torch.float32, torch.bfloat16):
        yield attention_case(8, 4, 2, 16, dtype)
        yield attention_case(8, 0, 2, 16, dtype)
        yield memory_case(1, 1, dtype, side=4)
        yield memory_case(1, 1, dtype, side=4, d=128)
        yield self_attention_case(1, dtype, side=4)
    yield statistics_case(1, SIZE)
    yield threshold_case(1, SIZE, packed=False)
    yield threshold_case(1, SIZE, packed=True)
    yield bits_case(1, SIZE, packing=True)
    yield bits_case(1, SIZE, packing=False)
    yield overlaps_case(3, SIZE)
    yield encode_case(1, SIZE)
    yield encode_upsampled_case(1, SIZE)
    yield decode_case(1, SIZE)
    yield box_nms_case(20, 5)
    yield mask_nms_case(4, 2)
    for dtype in (torch.float32, torch.bfloat16):
        yield layer_norm_case(8, 32, dtype)
        yield linear_gelu_case(8, 16, 32, dtype)
    yield preprocess_case(1, 12, 16, side=16)
