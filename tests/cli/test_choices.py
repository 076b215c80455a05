"""Commands say themselves what may be chosen, so that ``--help`` need not load what does the work."""

import click

from sam2fast.checkpoints import converting
from sam2fast.cli.convert import convert as convert_checkpoint
from sam2fast.cli.dataset_convert import convert as convert_data_set
from sam2fast.cli.evaluate_images import evaluate_images
from sam2fast.datasets import conversion, layout, layouts, palette_masks
from sam2fast.evaluation.clicks import sources


def choices_of(command: click.Command) -> dict[str, tuple[str, ...]]:
    return {str(p.name): tuple(p.type.choices) for p in command.params if isinstance(p.type, click.Choice)}


def test_what_may_be_chosen_is_what_there_is():
    assert choices_of(convert_data_set) == {
        "to": tuple(layouts.BY_NAME),
        "layout": tuple(layouts.BY_NAME),
        "masklets": layout.MASKLETS,
        "pictures": conversion.PICTURES,
        "overlaps": palette_masks.OVERLAPS,
    }
    assert choices_of(convert_checkpoint)["layout"] == converting.LAYOUTS
    assert choices_of(evaluate_images)["format"] == ("auto", *sources.FORMATS)
