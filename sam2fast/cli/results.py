"""Writes masks as images and JSON, and prints a table of the masks."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import click
import numpy as np

from sam2fast.cli.command_files import files_of_object, mask_key, output_files, remove_encoded_masks, write_atomically
from sam2fast.cli.prompts import Prompts
from sam2fast.cli.reporting import say, say_table
from sam2fast.cli.segmenter import Prediction, mask_box
from sam2fast.io.overlay import draw_overlay
from sam2fast.io.png import encode_image, encode_png
from sam2fast.io.rle import encode_rle

DIGITS = 6  # decimal digits of a score


class SegmentedObject(NamedTuple):
    """An object in an image. The name may be None for the only object of the image."""

    name: str | None
    prompts: Prompts  # coordinates in pixels of the image
    prediction: Prediction


def write_results(
    out: Path,
    stem: str,
    image: str,
    pixels: np.ndarray,
    objects: Sequence[SegmentedObject],
    model: Mapping[str, Any],
    made_from: Sequence[Mapping[str, Any] | None],
    choices: Mapping[str, Any] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Writes a mask for each object, one overlay and one JSON file. Returns the records of the objects.

    The JSON file is the record of an object without a name, or ``{"results": [...]}`` for named objects.

    Args:
        image: Name of the image in the JSON file.
        pixels: ``(H, W, 3)`` uint8, or fp32 in [0, 1].
        made_from: Record of each object, see :mod:`sam2fast.io.made_from`, or None.
        choices: Page, bands and scale that were chosen for the image, as JSON.
    """
    files = output_files(out, stem, [one.name for one in objects])
    clicks = [click for one in objects for click in one.prompts.clicks]
    overlay = draw_overlay(
        to_uint8(pixels),
        np.array([one.prediction.mask for one in objects]),
        [(c.x, c.y) for c in clicks],
        [c.label for c in clicks],
        [one.prompts.box for one in objects if one.prompts.box is not None],
    )
    records = []
    for (name, prompts, prediction), made in zip(objects, made_from, strict=True):
        mask, candidates = prediction.mask, prediction.candidate_scores
        record = {
            "image": image,
            **({} if name is None else {"object": name}),
            "size": {"width": mask.shape[1], "height": mask.shape[0]},
            **choices,
            "prompts": prompts.as_json(),
            "score": round(prediction.score, DIGITS),
            "candidate_scores": candidates and [round(score, DIGITS) for score in candidates],
            "area": int(mask.sum()),
            "box": mask_box(mask),
            "rle": encode_rle(mask),
            "model": dict(model),
            **({} if made is None else {"made_from": made}),
            "files": files_of_object(files, name),
        }
        records.append(record)
        write_atomically(files[mask_key(name)], encode_png(mask.astype(np.uint8) * np.uint8(255)))
    write_atomically(files["overlay"], encode_image(overlay))
    remove_encoded_masks(out, stem, [one.name for one in objects])
    # The JSON is written last: if it exists, the images exist.
    content = records[0] if objects[0].name is None else {"results": records}
    write_atomically(files["json"], (json.dumps(content, indent=2) + "\n").encode())
    return records


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Converts pixels from uint8 or fp32 in [0, 1] to uint8."""
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels * 255).astype(np.uint8)


def print_results(records: Mapping[str, Mapping[str, Any]], seconds: Mapping[str, float], out: Path) -> None:
    """Prints a line for each mask with its name, then the time per stage."""
    rows = [("image", "score", "area", "box")]
    for name, record in records.items():
        box = "empty" if record["box"] is None else ",".join(map(str, record["box"]))
        rows.append((click.format_filename(name), f"{record['score']:.3f}", str(record["area"]), box))
    print_table(rows, seconds, out)


def print_table(rows: Sequence[Sequence[str]], seconds: Mapping[str, float], out: Path) -> None:
    """Prints rows of four entries, then the time per stage and the output folder."""
    say_table(rows, (1, 2))
    if seconds:
        say("time: " + ", ".join(f"{stage} {value:.2f} s" for stage, value in seconds.items()))
    say(f"written to {click.format_filename(out)}")
