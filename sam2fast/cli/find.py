"""``sam2fast find``: finds a labelled object in other images."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import click

from sam2fast.cli.command import command, option
from sam2fast.cli.command_files import RESULTS
from sam2fast.cli.left_out import LeftOut
from sam2fast.cli.masks import MaskingCommand
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.prompts import mask_file
from sam2fast.cli.reporting import output_options
from sam2fast.cli.sources import InputSource

if TYPE_CHECKING:
    from sam2fast.cli.found_objects import FindTask


class FindCommand(MaskingCommand):
    """Find an object in each IMAGE, from its mask in another image.

    IMAGE is a file, a folder, a pattern such as 'photos/*.jpg', a URL (https://...), or - for stdin. The results are
    proposals to review: a result looks like the object, but may be another object of the same type. Most images without
    the object get a result with a lower likeness.

    \b
    Writes to the output folder
      found.csv         image, likeness, score and box of each object, the highest likeness first
      masks.json        all masks in COCO's format, with run lengths, likenesses and scores
      STEM_masks.png    the masks' ids as pixels: 1 has the highest likeness
      STEM_overlay.png  the same in colour on the image
      FORMAT/           with --format yolo, yolo-seg, labelme, labelme-mask, label-studio,
                        npz, geojson

    Images that fail are skipped and listed at the end, and set the exit code to 1.
    """

    references: Sequence[Path] = option(
        "--reference",
        required=True,
        metavar="FILE",
        help="An image that shows the object. Repeatable, with one --mask for each image.",
    )
    reference_masks: Sequence[Path] = option(
        "--mask",
        required=True,
        metavar="FILE",
        help="The object's mask in the --reference at the same position, of the same size: an image, bright or opaque "
        "where the object is, or FILE:LABEL for a label of a palette or grey image.",
    )
    most: int = option(type=click.IntRange(1), default=1, help="Maximum number of objects in an image.")
    min_likeness: float = option(
        type=click.FloatRange(0, 1),
        default=0.0,
        help="Leave out objects with a lower likeness. Good values depend on the model; see the values in found.csv.",
    )
    TABLES: ClassVar[Sequence[str]] = (RESULTS, "found.csv")
    SCORE: ClassVar[str] = "likeness"

    def run(self) -> None:
        if len(self.references) != len(self.reference_masks):
            raise click.UsageError(
                f"{len(self.references)} --reference and {len(self.reference_masks)} --mask; give one --mask for each"
            )
        self.process(self._task, [*self.references, *(mask_file(mask)[0] for mask in self.reference_masks)])

    def note_none(self, image: InputSource, left_out: LeftOut) -> None:
        left_out.add("image", "no object reaches --min-likeness", image)

    def _task(self, choice: ModelChoice, formats: Sequence[str]) -> "FindTask":
        from sam2fast.cli.found_objects import FindTask, read_references

        references, digests = read_references(self.references, self.reference_masks)
        options = {"most": self.most, "min_likeness": self.min_likeness}
        dtype = self.choose_dtype()
        run = choice.made_from(dtype=dtype, tolerance=self.tolerance, **options, **digests)
        facts = choice, dtype, options, formats, self.out, run, self.tolerance
        return FindTask(*facts, references=references)


find = command(FindCommand, output_options(has_bar=True))
