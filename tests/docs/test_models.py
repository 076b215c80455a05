"""The table of models on docs/models.md states what is built."""

import re
from pathlib import Path

import pytest
import torch
from frame_costs import CONFIGS, Part, frame_costs

from sam2fast.config import build_from_config, load_config

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
FEW = "edgetam", "efficienttam_ti_1", "medsam2", "nano"


def rows():
    """Parameters, image, GFLOP, tokens and layers of each name in the first table."""
    found = {}
    for line in PAGE.split("\n\n")[2].splitlines()[2:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        found |= {name: cells[2:7] for name in re.findall(r"`([a-z0-9_]+)`", cells[1])}
    return found


ROWS = rows()


def test_all_are_there():
    assert ROWS.keys() == CONFIGS.keys()


@pytest.mark.parametrize("name", ROWS)
def test_sizes(name):
    parameters, image, _, tokens, layers = ROWS[name]
    with torch.device("meta"):
        model = build_from_config(load_config(CONFIGS[name]).model)
    assert parameters == f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} million"
    assert int(image) == model.image_size and int(layers) == len(model.memory_attention.layers)
    kept = (model.image_size // 16) ** 2 if model.spatial_perceiver is None else 512
    is_pooled = model.memory_attention.layers[0].cross_attn_image.pooling is not None
    assert tokens == f"{kept}, attended {kept // 4}" if is_pooled else tokens == str(kept)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name in FEW else pytest.mark.slow) for name in ROWS]
)
def test_work(name):
    (costs,) = frame_costs(name, [1]).values()
    flops = Part(*map(sum, zip(*costs.values(), strict=True))).flops / 1e9
    assert ROWS[name][2] == (f"{flops:.0f}" if flops >= 10 else f"{flops:.1f}")
