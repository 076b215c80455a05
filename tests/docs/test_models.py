"""The tables of models on docs/models.md and in README.md state what is built."""

import re
from pathlib import Path

import pytest
import torch
from frame_costs import CONFIGS, Part, frame_costs

from sam2fast.config import build_from_config, load_config

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
FEW = "efficienttam_ti_1", "nano"


def rows():
    """Parameters, image, GFLOP, tokens and layers of each name in the first table."""
    found = {}
    table = next(block for block in PAGE.split("\n\n") if block.startswith("|"))
    for line in table.splitlines()[2:]:
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
    kept = model.sam_image_embedding_size**2 if model.spatial_perceiver is None else 512
    is_pooled = model.memory_attention.layers[0].cross_attn_image.pooling is not None
    assert tokens == f"{kept}, attended {kept // 4}" if is_pooled else tokens == str(kept)


@pytest.mark.parametrize(
    ("row", "names"),
    [
        *((f"SAM 2.1 {name}", (name,)) for name in ("tiny", "small", "large")),
        ("SAM 2.1 base+", ("base_plus",)),
        ("SAM 3's tracker", ("sam3",)),
        ("EdgeTAM", ("edgetam",)),
        ("EfficientTAM S, Ti", ("efficienttam_s", "efficienttam_ti")),
        ("MedSAM2", ("medsam2",)),
        ("[mini](sam2fast/mini/MODEL_CARD.md)", ("mini",)),
        ("[nano](sam2fast/nano/MODEL_CARD.md)", ("nano",)),
    ],
)
def test_readme(row, names):
    (line,) = (line for line in README.splitlines() if line.startswith(f"| {row} |"))
    millions, megabytes, image = (cell.strip() for cell in line.split("|")[2:5])
    assert millions == ", ".join(ROWS[name][0].removesuffix(" million") for name in names) + " M"
    assert re.search(r"\d+", image)[0] == ROWS[names[0]][1]
    for name, stated in zip(names, re.findall(r"\d+", megabytes), strict=True):
        assert abs(int(stated) - megabytes_of(name)) < 1


def megabytes_of(name):
    """The size of the weights: in the package that of their files, of others in fp32."""
    if files := list((ROOT / "sam2fast" / name).glob("*.safetensors")):
        return sum(file.stat().st_size for file in files) / 1e6
    with torch.device("meta"):
        model = build_from_config(load_config(CONFIGS[name]).model)
    return sum(x.nbytes for x in model.state_dict().values()) / 1e6


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in ROWS])
def test_work(name):
    (costs,) = frame_costs(name, [1]).values()
    flops = Part(*map(sum, zip(*costs.values(), strict=True))).flops / 1e9
    assert ROWS[name][2] == (f"{flops:.0f}" if flops >= 10 else f"{flops:.1f}")
