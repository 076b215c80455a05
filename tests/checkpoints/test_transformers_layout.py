"""Conversion to transformers' names and back; tests/transformers compares the names with the library."""

import hashlib

import pytest
import torch
from checkpoint_files import OFFICIAL, numbered_weights

from sam2fast import nano
from sam2fast.checkpoints import CheckpointError
from sam2fast.checkpoints.transformers_layout import (
    POINTS,
    POINTS_THERE,
    POSITIONS,
    POSITIONS_THERE,
    is_transformers,
    to_official,
    to_transformers,
)

# Of our names beside those of transformers, when tests/transformers compared these with the library.
NAMES = "ae22a02d59e5ffdd21102967795123137c62bddaea4991e1d39872e3b2de75c5"
EDGETAM = "configs/edgetam/edgetam.yaml"
EDGETAM_NAMES = "af5ccaf0d81fbfef7830902194f53533c039bc5d00750dad168e091334d34cd1"


@pytest.mark.parametrize("config", [OFFICIAL[0], OFFICIAL[-1], nano.CONFIG, EDGETAM])
def test_there_and_back(config):
    """Every weight of the smallest and largest models gets a unique name, and its official name on the way back."""
    weights = numbered_weights(config)
    theirs = to_transformers(weights)
    split = sum(name.endswith(".to_kv.weight") for name in weights)
    assert len(theirs) == len(weights) - 2 + split  # four tables become one, one matrix two
    assert is_transformers(theirs) and not is_transformers(weights)
    back = to_official(theirs)
    assert back.keys() == weights.keys()
    for name, tensor in weights.items():
        assert back[name].shape == tensor.shape and torch.equal(back[name], tensor), name


@pytest.mark.parametrize(("config", "names"), [("sam2.1_hiera_t", NAMES), (EDGETAM, EDGETAM_NAMES)])
def test_names_are_those_of_the_library(config, names):
    weights = numbered_weights(config)
    numbers = {int(tensor.flatten()[0]): name for name, tensor in weights.items()}
    table = sorted((numbers[int(tensor.flatten()[0])], name) for name, tensor in to_transformers(weights).items())
    found = hashlib.sha256("\n".join(f"{ours} {name}" for ours, name in table).encode()).hexdigest()
    assert found == names, "names changed: see make test-transformers"


@pytest.fixture(scope="module")
def ours():
    return numbered_weights(nano.CONFIG)


@pytest.fixture(scope="module")
def theirs(ours):
    return to_transformers(ours)


def test_points_and_positions(ours, theirs):
    assert [float(row[0]) for row in theirs[POINTS_THERE]] == [float(ours[name][0, 0]) for name in POINTS]
    tables = [theirs[name] for name in POSITIONS_THERE]
    assert all(torch.equal(table, ours[POSITIONS]) for table in tables)
    assert tables[0].data_ptr() != tables[1].data_ptr()


def test_keys_and_values_of_the_perceiver():
    name, rows = "spatial_perceiver.layers.1.attn.to_kv.weight", torch.arange(128.0)[:, None].expand(-1, 64)
    theirs = to_transformers(numbered_weights(EDGETAM) | {name: rows})
    for kind, part in zip("kv", rows.split(64), strict=True):
        assert torch.equal(theirs[f"spatial_perceiver.layers.1.cross_attention.{kind}_proj.weight"], part)
    assert torch.equal(to_official(theirs)[name], rows)


@pytest.mark.parametrize("kept", POSITIONS_THERE)
def test_one_of_the_two_matrices_is_enough(kept, ours, theirs):
    theirs = {name: x for name, x in theirs.items() if name == kept or name not in POSITIONS_THERE}
    assert torch.equal(to_official(theirs)[POSITIONS], ours[POSITIONS])


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        (lambda ours: ours | {"head.weight": torch.zeros(1)}, "no counterpart in transformers: head.weight"),
        (lambda ours: {name: x for name, x in ours.items() if name != POINTS[2]}, f"missing: {POINTS[2]}"),
    ],
)
def test_refused_weights_of_ours(changed, word, ours):
    with pytest.raises(CheckpointError, match=word):
        to_transformers(changed(ours))


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        (lambda theirs: {POSITIONS_THERE[1]: theirs[POSITIONS_THERE[1]] + 1}, "differ"),
        (lambda theirs: {POINTS_THERE: theirs[POINTS_THERE][:3]}, r"\(3, 128\); expected four rows"),
        (lambda theirs: {"no_mem_embed": torch.zeros(1, 1, 128)}, "no_mem_embed under two names"),
    ],
)
def test_refused_weights_of_transformers(changed, word, theirs):
    with pytest.raises(CheckpointError, match=word):
        to_official(theirs | changed(theirs))
