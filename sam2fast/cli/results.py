"""Writes masks as images and JSON, and prints them as a table."""

import colorsys
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from PIL import Image, ImageFilter

from sam2fast.cli.command_files import mask_key, output_files, write_atomically
from sam2fast.cli.prompt_options import Prompts
from sam2fast.cli.reporting import say
from sam2fast.cli.segmenter import Prediction, mask_box
from sam2fast.cli.terminal import aligned
from sam2fast.cli.user_errors import UserError
from sam2fast.io.overlay import OUTLINE_COLOUR, TINT, draw_overlay
from sam2fast.io.rle import decode_rle, encode_rle
from sam2fast.video_results.drawing import HUE_STEP

DIGITS = 6  # of a score
# Higher levels take longer and hardly shrink photographs.
OVERLAY_COMPRESSION = 1
NUMBERS = (1, 2)  # right-aligned columns of a table


class SegmentedObject(NamedTuple):
    """An object of an image, without a name if it is the only one."""

    name: str | None
    prompts: Prompts  # in pixels of the image
    prediction: Prediction


def write_results(
    out: Path, stem: str, image: object, pixels: np.ndarray, found: Sequence[SegmentedObject], model: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Writes a mask for each object, one overlay and one JSON file; returns the records of the objects.

    The JSON file is the record of an object without a name, else ``{"results": [...]}`` with all.

    Args:
        image: the name of ``pixels (H, W, 3)``, uint8 or fp32 in [0, 1].
        model: describes the model.

    Raises:
        UserError: a file cannot be written.
    """
    files = output_files(out, stem, [one.name for one in found])
    clicks = [click for one in found for click in one.prompts.clicks]
    overlay = draw_overlay(
        to_uint8(pixels),
        np.array([one.prediction.mask for one in found]),
        [(c.x, c.y) for c in clicks],
        [c.label for c in clicks],
        [one.prompts.box for one in found if one.prompts.box is not None],
    )
    records = [_record(image, one, files, model) for one in found]
    for one in found:
        write_atomically(files[mask_key(one.name)], png(Image.fromarray(one.prediction.mask.astype(np.uint8) * 255)))
    write_atomically(files["overlay"], png(overlay, OVERLAY_COMPRESSION))
    # Written last: if the JSON exists, its images exist too.
    content = records[0] if found[0].name is None else {"results": records}
    write_atomically(files["json"], (json.dumps(content, indent=2) + "\n").encode())
    return records


def _record(
    image: object, found: SegmentedObject, files: Mapping[str, Path], model: Mapping[str, Any]
) -> dict[str, Any]:
    name, prompts, prediction = found
    mask = prediction.mask
    return {
        "image": str(image),
        **({} if name is None else {"object": name}),
        "size": {"width": mask.shape[1], "height": mask.shape[0]},
        "prompts": prompts.as_json(),
        "score": round(prediction.score, DIGITS),
        "candidate_scores": prediction.candidate_scores and [round(s, DIGITS) for s in prediction.candidate_scores],
        "area": int(mask.sum()),
        "box": mask_box(mask),
        "rle": encode_rle(mask),
        "model": dict(model),
        "files": {"mask": str(files[mask_key(name)]), **{kind: str(files[kind]) for kind in ("overlay", "json")}},
    }


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Pixels as uint8, from uint8 or fp32 in [0, 1]."""
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels * 255).astype(np.uint8)


def png(image: Image.Image, compress_level: int = 6) -> bytes:
    """An image as the content of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=compress_level)
    return buffer.getvalue()


def print_results(records: Mapping[str, Mapping[str, Any]], seconds: Mapping[str, float], out: Path) -> None:
    """Prints a line per mask, by name, then the time per stage."""
    rows = [("image", "score", "area", "box")]
    for name, record in records.items():
        box = "empty" if record["box"] is None else ",".join(map(str, record["box"]))
        rows.append((click.format_filename(name), f"{record['score']:.3f}", str(record["area"]), box))
    print_table(rows, seconds, out)


def print_table(rows: Sequence[Sequence[str]], seconds: Mapping[str, float], out: Path) -> None:
    """Prints rows of four entries, then the time per stage and where the results are."""
    for line in aligned(rows, NUMBERS):
        say(line)
    if seconds:
        say("time: " + ", ".join(f"{stage} {value:.2f} s" for stage, value in seconds.items()))
    say(f"written to {click.format_filename(out)}")


PALETTE_IDS = 255  # more need 16 bits
MAX_IDS = 65535
SHADES = ((0.9, 0.95), (0.55, 1.0), (0.95, 0.7))  # saturation, value; ids cycle through them


def paint_labels(segmentations: Sequence[Mapping[str, Any]], height: int, width: int) -> np.ndarray:
    """Ids ``(H, W)`` uint16: the position, from 1, of the last mask that has the pixel; 0 for none.

    Args:
        segmentations: compressed run lengths, the largest mask first, so that no mask is hidden.

    Raises:
        UserError: more masks than 16 bits can number.
    """
    if len(segmentations) > MAX_IDS:
        raise UserError(
            f"{len(segmentations)} masks, but an image holds at most {MAX_IDS} ids; ask for --format json, or for "
            "fewer masks"
        )
    # Run lengths are column-major, so the array is too.
    ids = np.zeros((height, width), dtype=np.uint16, order="F")
    for number, segmentation in enumerate(segmentations, 1):
        np.copyto(ids, np.uint16(number), where=decode_rle(segmentation))
    return np.ascontiguousarray(ids)


def label_image(ids: np.ndarray, count: int) -> Image.Image:
    """Ids ``(H, W)`` as a label image: a palette image for up to 255 masks, else 16-bit grey.

    Args:
        count: the number of masks, of which some may be hidden.
    """
    if count > PALETTE_IDS:
        return Image.fromarray(ids.astype(np.uint16))
    image = Image.fromarray(ids.astype(np.uint8))
    image.putpalette(id_colours(PALETTE_IDS).tobytes())
    return image


def draw_layers(image: np.ndarray, ids: np.ndarray) -> Image.Image:
    """An image ``(H, W, 3)`` uint8 with each id's pixels in ``(H, W)`` tinted, and outlined where ids change.

    The colours are those of :func:`label_image`. The time does not depend on the number of masks.
    """
    colours = id_colours(int(ids.max(initial=0)))
    share = np.where(ids[..., None] > 0, np.float32(TINT), np.float32(0))
    tinted = np.rint(image * (1 - share) + colours[ids] * share).astype(np.uint8)
    overlay = Image.fromarray(tinted)
    edges = np.zeros(ids.shape, dtype=bool)
    across, down = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    width = max(image.shape[:2]) // 1000
    outline = Image.fromarray(edges.astype(np.uint8) * 255)
    if width:
        outline = outline.filter(ImageFilter.MaxFilter(2 * width + 1)).filter(ImageFilter.BoxBlur(width / 2))
    overlay.paste(OUTLINE_COLOUR, mask=outline)
    return overlay


def id_colours(count: int) -> np.ndarray:
    """Colours ``(count + 1, 3)`` uint8 of the ids from 0, which is black."""
    colours = [(0.0, 0.0, 0.0)]
    for number in range(count):
        saturation, value = SHADES[number % len(SHADES)]
        colours.append(colorsys.hsv_to_rgb(number * HUE_STEP % 1, saturation, value))
    return np.rint(np.array(colours) * 255).astype(np.uint8)
