import pytest
import torch
from parity import random_map

from sam2fast.engine.cpu.ops import chunked


@pytest.mark.parametrize("shape", [(1, 64, 64, 96), (2, 61, 32, 96), (1, 250, 250, 96), (3, 16, 2000, 64)], ids=str)
@pytest.mark.parametrize("rows", [1, 8, 14])
def test_chunks_equal_one_call(shape, rows):
    """Pooled inside groups of rows, as a block that starts a stage does."""

    def pool(x):
        return x[:, : x.shape[1] // 2 * 2].unflatten(1, (-1, 2)).amax(2) + 1 if rows % 2 == 0 else x + 1

    x = random_map(*shape)
    with torch.no_grad():
        assert torch.equal(chunked(pool, x, rows), pool(x))
