import math

import pytest
import torch
import torch.nn.functional as F

from sam2fast.training.auxiliary import DenseAuxiliary, draw_pairs, find_boundaries, sample_ids
from sam2fast.training.losses import balanced_bce_and_dice


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def scene() -> torch.Tensor:
    """Ids ``(2, 16, 24)``: two objects, then one with another id."""
    ids = torch.zeros(2, 16, 24, dtype=torch.int64)
    ids[:, 2:10, 3:9] = 5
    ids[0, 11:14, 12:20] = 2**40
    return ids


def perfect(ids: torch.Tensor) -> tuple[DenseAuxiliary, torch.Tensor]:
    """Perfect features and heads: one channel per id, one for boundaries."""
    values = ids.unique()
    inside = (ids[:, None] == values[:, None, None]).float()
    features = torch.cat([inside, find_boundaries(ids)[:, None] * 2.0 - 1], dim=1)
    auxiliary = DenseAuxiliary(len(values) + 1, embedding_dim=len(values))
    with torch.no_grad():
        for head in (auxiliary.embedding, auxiliary.boundary):
            head.weight.zero_()
            head.bias.zero_()
        auxiliary.embedding.weight[:, :-1, 0, 0] = torch.eye(len(values))
        auxiliary.boundary.weight[0, -1] = 20.0
    return auxiliary, features


def test_perfect_features(scene):
    auxiliary, features = perfect(scene)
    got = auxiliary(features, scene, seeded())
    # Scale 5 and bias 0: the logit of positive pairs is 5, of others 0.
    expected = (math.log1p(math.exp(-5)) + math.log(2)) / 2
    assert got["loss_affinity"].item() == pytest.approx(expected)
    assert got["loss_boundary"].item() < 1e-4
    # Only the direction of an embedding counts.
    assert auxiliary(3 * features, scene, seeded())["loss_affinity"].item() == pytest.approx(expected)
    worse = auxiliary(-features, scene, seeded())
    assert worse["loss_boundary"].item() > 10


def test_background_pairs_can_be_left_out(scene):
    auxiliary, features = perfect(scene)
    # Within the background alone, embeddings disagree.
    features[:, 0] *= torch.randn(scene.shape, generator=seeded()).sign()
    with_background = auxiliary(features, scene, seeded())["loss_affinity"]
    auxiliary.pair_background = False
    assert auxiliary(features, scene, seeded())["loss_affinity"].item() == pytest.approx(
        (math.log1p(math.exp(-5)) + math.log(2)) / 2
    )
    assert with_background > 0.5


def test_one_region_and_one_pixel():
    auxiliary = DenseAuxiliary(3, num_pairs=8)
    for size in (1, 5):
        features = torch.randn(2, 3, size, size, requires_grad=True)
        got = auxiliary(features, torch.zeros(2, 7, 7, dtype=torch.uint8), seeded())
        sum(got.values()).backward()
        assert all(value.isfinite() for value in got.values())
        assert features.grad.isfinite().all()
        # A pixel and itself are no pair.
        assert (got["loss_affinity"] > 0) == (size > 1)


def test_half_precision_scale_and_bias(scene):
    auxiliary, features = perfect(scene)
    with torch.no_grad():
        auxiliary.bias.fill_(1.0)
        auxiliary.log_scale.fill_(math.log(2.0))
    expected = F.softplus(torch.tensor([-3.0, 1.0])).mean()  # both kinds of pairs weigh the same
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = auxiliary(features.bfloat16(), scene, seeded())
    assert all(value.dtype == torch.float32 for value in got.values())
    torch.testing.assert_close(got["loss_affinity"], expected, rtol=1e-2, atol=1e-4)


def test_pairs(scene):
    n, radius, W = 4000, 2, scene.shape[2]
    first, second = draw_pairs(scene, n, radius, seeded())
    assert first.shape == second.shape == (2, n)
    near = slice(0, n // 2)
    assert (first // W - second // W)[:, near].abs().max() == radius
    assert (first % W - second % W)[:, near].abs().max() == radius
    # All ids are equally frequent, also small ones; a far pixel does not depend on the first.
    for pixels in (first, second[:, n // 2 :]):
        for image, share in ((0, 1 / 3), (1, 1 / 2)):
            drawn = scene[image].flatten()[pixels[image]]
            for value in scene[image].unique():
                assert (drawn == value).float().mean().item() == pytest.approx(share, abs=0.05)
    flat = scene.flatten(1)
    same = flat.gather(1, first) == flat.gather(1, second)
    assert same[0, n // 2 :].float().mean().item() == pytest.approx(1 / 3, abs=0.05)


def test_boundaries_and_ids_of_cells():
    ids = torch.tensor([[[0, 0, 0, 0], [0, 7, 7, 0], [0, 7, 7, 8]]])
    expected = torch.tensor([[[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]]], dtype=torch.bool)
    assert torch.equal(find_boundaries(ids), expected)
    ids = torch.arange(24).view(1, 4, 6)
    for size in ((4, 6), (8, 12), (3, 5)):
        expected = F.interpolate(ids[None].float(), size=size, mode="nearest-exact")[0].long()
        assert torch.equal(sample_ids(ids, *size), expected)


def test_boundary_loss_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    targets = torch.tensor([[True, True], [False, False]])
    entropy = 0.5 * ((math.log(2) - math.log(0.75)) / 2 + math.log(2))
    dice = 1 - (2 * 1.25 + 1) / (1.25 + 1.0 + 2 + 1)
    assert balanced_bce_and_dice(logits, targets).item() == pytest.approx(entropy + dice)


@pytest.mark.parametrize(
    ("channels", "ids", "words"),
    [
        (3, torch.zeros(1, 4, 4, dtype=torch.int64), r"ids \(B, H, W\)"),
        (2, torch.zeros(2, 4, 4, dtype=torch.int64), "features of 2 channels for a head of 3"),
        (3, torch.zeros(2, 4, 4), "integers"),
    ],
)
def test_wrong_inputs(channels, ids, words):
    with pytest.raises(ValueError, match=words):
        DenseAuxiliary(3)(torch.zeros(2, channels, 4, 4), ids, seeded())
    with pytest.raises(ValueError, match="radius=0"):
        DenseAuxiliary(3, radius=0)
