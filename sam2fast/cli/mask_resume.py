"""What an earlier run of ``sam2fast masks`` has found already."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sam2fast import __version__
from sam2fast.cli.errors import UserError
from sam2fast.cli.model_choice import ModelChoice

ADVICE = "choose another --out, or leave --resume out to begin anew"


class KeptMasks(NamedTuple):
    """The entries of one image in a results file, with the ids that they have there."""

    image: dict[str, Any]
    annotations: list[dict[str, Any]]


def masks_before(
    results: Path,
    choice: ModelChoice,
    dtype: str,
    options: Mapping[str, Any],
    images: Sequence[Path],
    pictures_of: Callable[[Path], Mapping[str, Path]],
) -> dict[str, KeptMasks]:
    """The entries of a results file by the images' names, those of ``images`` only where their pictures lie beside it.

    Args:
        results: a file by :class:`~sam2fast.cli.coco.CocoFile`; there may be none.
        options: of the mask generator.
        pictures_of: the pictures that are written for an image.

    Raises:
        UserError: the file cannot be read, or is by another model, other options or another version.
    """
    if not results.exists():
        return {}
    try:
        content = json.loads(results.read_text(encoding="utf-8"))
        info, model = content["info"], content["info"]["model"]
        made_by = {"version": info["version"], **{name: model[name] for name in ("config", "checkpoint", "dtype")}}
        made_by |= info["options"]
        annotations = defaultdict(list)
        for annotation in content["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
        found = {image["file_name"]: KeptMasks(image, annotations[image["id"]]) for image in content["images"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{results} is no file of results to go on with ({error}); {ADVICE}") from error
    asked = {"version": __version__, "config": choice.config, "checkpoint": str(choice.checkpoint), "dtype": dtype}
    asked |= options
    other = [f"{name} {made_by.get(name)}, now {value}" for name, value in asked.items() if made_by.get(name) != value]
    if other:
        raise UserError(f"{results} was made in another way ({'; '.join(other)}); {ADVICE}")
    for image in images:
        if not all(file.is_file() for file in pictures_of(image).values()):
            found.pop(str(image), None)
    return found
