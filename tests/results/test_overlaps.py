import pytest
import torch
import torch.nn.functional as F

from sam2fast.kernels.mask_ops import suppress_overlaps, upsample_masks
from sam2fast.kernels.run_lengths import encode_masks, encode_upsampled
from sam2fast.results.overlaps import visible_parts


@pytest.mark.parametrize("seed", range(12))
def test_only_shared_pixels_change(seed):
    """Equal to suppressing overlaps everywhere."""
    generator = torch.Generator().manual_seed(seed)
    blobs = torch.randn(1 + seed % 5, 1, 3, 3, generator=generator)
    masks = F.interpolate(blobs, (16, 16), mode="bicubic") - 0.6
    size = (50 + seed, 61)
    logits = upsample_masks(masks, size)
    found = visible_parts(masks, encode_upsampled(masks[:, 0], size))
    if not ((logits > 0).sum(0) > 1).any():
        assert found is None
        return
    expected = encode_masks(suppress_overlaps(logits)[:, 0] > 0)
    assert found is not None and torch.equal(found.counts, expected.counts)
    assert torch.equal(found.offsets, expected.offsets)
