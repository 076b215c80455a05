"""The choices of options are written in the commands, so that ``--help`` imports little; they match the libraries."""

import click

from sam2fast.checkpoints import converting
from sam2fast.cli.convert import convert as convert_checkpoint
from sam2fast.cli.dataset_convert import convert as convert_data_set
from sam2fast.cli.evaluate_images import evaluate_images
from sam2fast.datasets import conversion, layout, layout_registry, palette_masks
from sam2fast.evaluation.clicks import sources


def choices_of(command: click.Command) -> dict[str, tuple[str, ...]]:
    return {str(p.name): tuple(p.type.choices) for p in command.params if isinstance(p.type, click.Choice)}


def test_choices_match_the_libraries():
    assert choices_of(convert_data_set) == {
        "to": tuple(layout_registry.BY_NAME),
        "layout": tuple(layout_registry.BY_NAME),
        "masklets": layout.MASKLETS,
        "images": conversion.IMAGES,
        "overlaps": palette_masks.OVERLAPS,
    }
    assert choices_of(convert_checkpoint)["layout"] == converting.LAYOUTS
    assert choices_of(evaluate_images)["format"] == ("auto", *sources.FORMATS)
