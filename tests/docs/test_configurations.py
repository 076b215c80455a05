"""The YAML of the documents: recipes or parts of them, which compose and whose classes accept the settings."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from document_blocks import Block, blocks_of
from omegaconf import OmegaConf

from sam2fast.config import build_from_config
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.training.config import TRAINING_TARGETS, load_training_config
from sam2fast.training.model import SAM2Train

# The base of partial recipes.
BASE = "sam2.1_training/sam2.1_hiera_b+_24GB"
OF_MODEL = {f"trainer.model.{name}" for cls in (SAM2Train, SAM2Base) for name in inspect.signature(cls).parameters}


@pytest.mark.parametrize("block", blocks_of("yaml"), ids=lambda block: block.where)
def test_recipe_composes(block: Block, tmp_path: Path) -> None:
    written = {"base_config": BASE, **yaml.safe_load(block.text)}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(written), encoding="utf-8")
    config, below = load_training_config(tmp_path / "mine.yaml"), load_training_config(written.pop("base_config"))
    for key, value in leaves(written):
        assert OmegaConf.select(config, key) == value, key
        is_of_model = ".".join(key.split(".")[:3]) in OF_MODEL
        assert is_of_model or OmegaConf.select(below, key) is not None, f"nothing reads {key}"
    for part in ("trainer.model.adapters", "trainer.model.encoder_cache"):
        if settings := OmegaConf.select(config, part):
            build_from_config(settings, targets=TRAINING_TARGETS)


def leaves(node: dict[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Every value by its dotted name."""
    found = []
    for key, value in node.items():
        found += leaves(value, f"{above}{key}.") if isinstance(value, dict) else [(f"{above}{key}", value)]
    return found
