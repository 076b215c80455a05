import oracle  # noqa: F401  (makes the official package importable)
import pytest
import torch
from parity import random_map
from sam2.modeling.position_encoding import apply_rotary_enc, compute_axial_cis

from sam2fast.kernels.memory_attention import apply_rope, rope_attention
from sam2fast.modeling.position_encoding import axial_rope
from sam2fast.testing import relative_error


@pytest.mark.parametrize(("width", "height", "dim"), [(8, 8, 256), (64, 64, 256), (6, 3, 32)], ids=str)
def test_rotation_is_the_official_one(width, height, dim):
    x = random_map(2, 1, 3 * width * height, dim)
    q = random_map(2, 1, width * height, dim, seed=1)
    _, expected = apply_rotary_enc(q, x, compute_axial_cis(dim, width, height), repeat_freqs_k=True)
    actual = apply_rope(x, *axial_rope(dim, width, height, 10000.0, torch.device("cpu")))
    assert relative_error(expected, actual) < 1e-6


def test_axes_matter():
    """Swapping the axes of the table changes the result, so that a mix-up cannot pass."""
    x = random_map(1, 1, 64, 32)
    cos, sin = axial_rope(32, 8, 8, 10000.0, torch.device("cpu"))
    swapped = (torch.cat(t.chunk(2, -1)[::-1], -1) for t in (cos, sin))
    assert relative_error(apply_rope(x, cos, sin), apply_rope(x, *swapped)) > 0.1


@pytest.mark.parametrize("maps", [0, 1, 3])
@pytest.mark.parametrize("value_dim", [32, 8])
def test_pointers_have_no_position(maps, value_dim):
    q, k = random_map(2, 1, 16, 32), random_map(2, 1, 16 * maps + 5, 32, seed=1)
    v = random_map(2, 1, 16 * maps + 5, value_dim, seed=2)
    cos, sin = axial_rope(32, 4, 4, 10000.0, torch.device("cpu"))
    rotated = [apply_rope(k[:, :, 16 * i : 16 * (i + 1)], cos, sin) for i in range(maps)]
    keys = torch.cat([*rotated, k[:, :, 16 * maps :]], dim=2).double()
    scores = apply_rope(q, cos, sin).double() @ keys.mT / 32**0.5
    expected = scores.softmax(-1) @ v.double()
    assert relative_error(expected, rope_attention(q, k, v, cos, sin, num_unrotated_keys=5)) < 1e-5


def test_shapes_that_do_not_fit():
    q, k = random_map(1, 1, 16, 32), random_map(1, 1, 40, 32)
    cos, sin = axial_rope(32, 4, 4, 10000.0, torch.device("cpu"))
    with pytest.raises(ValueError, match="whole number of maps"):
        rope_attention(q, k, k, cos, sin, num_unrotated_keys=5)
    with pytest.raises(ValueError, match="expected cos and sin"):
        rope_attention(q, k, k, cos[:8], sin[:8])
