"""Reference implementations of mask ops compute a few masks at a time, each as if it were alone."""

import pytest
import torch
import torch.nn.functional as F
from parity import random_map

from sam2fast.kernels.mask_ops import mask_statistics_reference, reference, upsample_and_threshold_reference

N, LOW = 7, (9, 13)


def logits_of(dtype=torch.float32):
    """Smooth masks, an empty one, a full one, and one with values that are not finite."""
    logits = F.avg_pool2d(random_map(N, 1, LOW[0] + 2, LOW[1] + 2), 3, stride=1)[:, 0] * 5
    logits[2], logits[4] = -9.0, 9.0
    logits[5, 3, 4], logits[5, 6, 7] = torch.nan, torch.inf
    return logits.to(dtype)


@pytest.fixture(params=[1, 3, N, N + 1])
def at_once(request, monkeypatch):
    """Number of masks that are upsampled together; checks that there are never more."""
    upsampled, original = [], reference.upsample_masks_reference

    def seen(logits, size):
        upsampled.append(len(logits))
        return original(logits, size)

    def of(size):
        # A few pixels more do not admit another mask.
        monkeypatch.setattr(reference, "PIXELS_ON_CPU", request.param * size[0] * size[1] + 5)
        monkeypatch.setattr(reference, "upsample_masks_reference", seen)
        return upsampled, [min(request.param, N - start) for start in range(0, N, request.param)]

    return of


@pytest.mark.parametrize(
    ("size", "dtype"),
    [((40, 50), torch.float32), ((5, 6), torch.bfloat16), ((9, 13), torch.float32), ((9, 30), torch.bfloat16)],
    ids=str,
)
def test_statistics_and_masks(at_once, size, dtype):
    logits = logits_of(dtype)
    each = [mask_statistics_reference(logits[n : n + 1], size, 0.3, 0.5) for n in range(N)]
    masks = [upsample_and_threshold_reference(logits[n], size, 0.3) for n in range(N)]
    upsampled, expected = at_once(size)
    found = mask_statistics_reference(logits, size, 0.3, 0.5)
    for part, ours in zip(map(torch.cat, zip(*each, strict=True)), found, strict=True):
        assert torch.equal(part, ours) and ours.dtype == torch.int32
    assert torch.equal(torch.stack(masks), upsample_and_threshold_reference(logits, size, 0.3))
    assert upsampled == expected * 2


def test_masks_as_large_as_the_limit_are_computed_alone():
    meta = torch.empty(5, 4, 4, device="meta")
    assert reference._chunks(meta, (4096, 4096)) == [slice(n, n + 1) for n in range(5)]
    assert reference._chunks(meta, (4097, 4096)) == [slice(n, n + 1) for n in range(5)]
    assert reference._chunks(meta, (2048, 4096)) == [slice(0, 2), slice(2, 4), slice(4, 6)]
    assert reference._chunks(torch.empty(5, 4, 4), (1024, 1024)) == [slice(n, n + 1) for n in range(5)]
    assert reference._chunks(meta[:0], (8, 8)) == []
