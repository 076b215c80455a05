"""The YAML of the documents: recipes or parts of them, which compose and whose classes accept the settings."""

import inspect
from pathlib import Path

import pytest
from document_blocks import Block, blocks_of
from omegaconf import DictConfig, OmegaConf

from sam2fast.config import ConfigError, build_from_config
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.training.config import IMPLIED, TRAINING_TARGETS, load_training_config
from sam2fast.training.model import SAM2Train

BLOCKS = blocks_of("yaml")
# The base of partial recipes.
BASE = "sam2.1_training/sam2.1_hiera_b+_24GB"


def test_the_documents_have_recipes() -> None:
    assert len(BLOCKS) >= 3


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.where)
def test_recipe_composes(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    is_whole = "base_config:" in block.text
    file.write_text(block.text if is_whole else f"base_config: {BASE}\n{block.text}\n", encoding="utf-8")
    config, written = load_training_config(file), OmegaConf.create(block.text)
    below = load_training_config(str(written.get("base_config", BASE)))
    for key, value in leaves(written):
        if key == "base_config":
            continue
        assert OmegaConf.select(config, key) == value, f"{block.where}: {key}"
        part = next((name for name in IMPLIED if key.startswith(f"{name}.") and name.count(".") > 1), None)
        is_known = OmegaConf.select(below, key, default=None) is not None or is_of_model(key)
        assert is_known or part, f"{block.where}: nothing reads {key}"
        if part and OmegaConf.select(config, f"{part}._target_"):
            try:
                build_from_config(OmegaConf.select(config, part), targets=TRAINING_TARGETS)
            except ConfigError as error:
                pytest.fail(f"{block.where}: {error}", pytrace=False)


def is_of_model(key: str) -> bool:
    """Whether the training model accepts this argument or passes it to the predictor."""
    trainer, _, argument = key.partition("trainer.model.")
    taken = {*inspect.signature(SAM2Train).parameters, *inspect.signature(SAM2Base).parameters}
    return not trainer and argument.partition(".")[0] in taken


def leaves(node: DictConfig, above: str = "") -> list[tuple[str, object]]:
    """Every value by its dotted name."""
    found: list[tuple[str, object]] = []
    for key, value in node.items():
        name = f"{above}{key}"
        found += leaves(value, f"{name}.") if isinstance(value, DictConfig) else [(name, value)]
    return found
