"""Small functions that other code imports, compared with the official functions."""

import oracle  # noqa: F401  (makes the official package importable)
import pytest
import sam2.build_sam
import sam2.modeling.backbones.hieradet as official_hiera
import sam2.modeling.backbones.utils as official_windows
import sam2.modeling.position_encoding as official_positions
import sam2.modeling.sam2_utils as official
import torch
from torch import nn

from sam2fast.build_sam import _load_checkpoint
from sam2fast.checkpoints import CheckpointError
from sam2fast.compat import official_utils as ours
from sam2fast.modeling import hiera_block, layers, position_encoding


def test_checkpoint(tmp_path):
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    torch.save({"model": source.state_dict()}, tmp_path / "w.pt")
    weight = target.weight
    _load_checkpoint(target, None)
    assert not torch.equal(target.weight, source.weight)
    _load_checkpoint(target, str(tmp_path / "w.pt"))
    assert target.weight is weight and torch.equal(weight, source.weight)
    for load, error in ((sam2.build_sam._load_checkpoint, RuntimeError), (_load_checkpoint, CheckpointError)):
        with pytest.raises(error):
            load(nn.Linear(3, 2, bias=False), str(tmp_path / "w.pt"))


def test_closest_conditioning_frames():
    outputs = {t: f"frame {t}" for t in (0, 3, 8, 9, 12, 20)}
    for frame in range(22):
        for limit in (-1, 2, 3, 4, 9):
            expected = official.select_closest_cond_frames(frame, outputs, limit)
            actual = ours.select_closest_cond_frames(frame, outputs, limit)
            assert [list(e.items()) for e in expected] == [list(a.items()) for a in actual]


def test_sines():
    positions = torch.tensor([[0.0, 0.5], [3.0, -1.0]])
    for arguments in ({"dim": 64}, {"dim": 32, "temperature": 100}):
        expected = official.get_1d_sine_pe(pos_inds=positions, **arguments)
        assert torch.equal(ours.get_1d_sine_pe(pos_inds=positions, **arguments), expected)


def test_activations():
    x = torch.linspace(-2, 2, 8)
    for name in ("relu", "gelu", "glu"):
        expected = official.get_activation_fn(activation=name)(x)
        assert torch.equal(layers.get_activation_fn(activation=name)(x), expected)
    with pytest.raises(ValueError, match="unknown activation 'tanh'"):
        layers.get_activation_fn("tanh")


def test_clones():
    layer = nn.Linear(2, 3)
    clones = layers.get_clones(layer, 2)
    assert isinstance(clones, nn.ModuleList) and len(clones) == 2
    assert len({id(c.weight) for c in (layer, *clones)}) == 3
    assert all(torch.equal(c.weight, layer.weight) for c in clones)


def test_rotations():
    for ours_, theirs in zip(position_encoding.init_t_xy(5, 3), official_positions.init_t_xy(5, 3), strict=True):
        assert torch.equal(ours_, theirs)
    for arguments in ((64, 8, 8), (16, 5, 3, 100.0)):
        expected = official_positions.compute_axial_cis(*arguments)
        actual = position_encoding.compute_axial_cis(*arguments)
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("keys", "repeat"), [(16, False), (48, True), (0, False), (0, True)])
def test_rotating(dtype, keys, repeat):
    rotations = official_positions.compute_axial_cis(32, 4, 4)
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 3, 16, 32, generator=generator).to(dtype)
    k = torch.randn(2, 3, keys, 32, generator=generator).to(dtype)
    expected = official_positions.apply_rotary_enc(q, k, rotations, repeat_freqs_k=repeat)
    actual = ours.apply_rotary_enc(xq=q, xk=k, freqs_cis=rotations, repeat_freqs_k=repeat)
    for e, a in zip(expected, actual, strict=True):
        assert a.dtype == e.dtype and a.shape == e.shape
        assert torch.equal(a, e)


def test_rotations_of_another_size():
    rotations = position_encoding.compute_axial_cis(8, 3, 3)
    assert ours.reshape_for_broadcast(rotations, torch.zeros(2, 5, 9, 4)).shape == (1, 1, 9, 4)
    with pytest.raises(ValueError, match=r"\(9, 4\); expected"):
        ours.reshape_for_broadcast(rotations, torch.zeros(2, 5, 8, 4))


@pytest.mark.parametrize(("height", "width"), [(14, 21), (16, 15), (3, 5), (7, 7)])
def test_windows(height, width):
    x = torch.randn(2, height, width, 3, generator=torch.Generator().manual_seed(0))
    expected, padded = official_windows.window_partition(x, 7)
    windows, our_padded = hiera_block.window_partition(x, 7)
    assert our_padded == padded and torch.equal(windows, expected)
    assert torch.equal(hiera_block.window_unpartition(windows, 7, padded, (height, width)), x)
    assert torch.equal(official_windows.window_unpartition(windows, 7, padded, (height, width)), x)


def test_pooling():
    x, pool, norm = torch.randn(2, 6, 8, 4), nn.MaxPool2d(2), nn.LayerNorm(4)
    for arguments in ((None,), (pool,), (pool, norm)):
        assert torch.equal(hiera_block.do_pool(x, *arguments), official_hiera.do_pool(x, *arguments))
