"""Masks that a page sends, for exports or as prompts."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sam2fast.demo.server.demo_errors import BadInputError, shortened
from sam2fast.demo.server.frame_masks import ObjectMask
from sam2fast.demo.server.prompt_limits import MAX_OBJECTS
from sam2fast.demo.server.source_masks import FrameMaskTable
from sam2fast.io.rle import RLE, decode_rle

EXAMPLE = '{"objects": [{"id": 1, "name": "Mug"}], "frames": [{"frame": 0, "masks": [{"object": 1, "size": ...}]}]}'


class PageMasks(NamedTuple):
    """The masks of a page by frame and object, in the page's order: where masks overlap, the later object is seen.

    Attributes:
        names, labels: of objects by id; not all have a label.
        limits: area limits of specks and small holes by object, as shares of the frame's area; not of all.
        masks: as the model and the user have made them, with specks and holes.
    """

    names: dict[int, str]
    labels: dict[int, str]
    limits: dict[int, float]
    masks: FrameMaskTable


def read_page_masks(body: Any, frames: int, size: tuple[int, int]) -> PageMasks:
    """Reads the body of an export.

    Args:
        frames: number of the video's frames.
        size: (H, W) of the video.

    Raises:
        BadInputError: the body has another form, or masks of another video.
    """
    try:
        names = {int(entry["id"]): str(entry["name"]) for entry in body["objects"]}
        labels = {int(entry["id"]): str(entry["label"]) for entry in body["objects"] if entry.get("label")}
        limits = {int(entry["id"]): float(entry["clean"]) for entry in body["objects"] if entry.get("clean")}
        found: dict[int, dict[int, ObjectMask]] = {}
        if len(names) > MAX_OBJECTS or len(body["frames"]) > frames:
            raise BadInputError(f"expected at most {MAX_OBJECTS} objects, and at most {frames} frames")
        for entry in body["frames"]:
            masks = {int(mask["object"]): mask for mask in entry["masks"]}
            # In the page's order, so that what is painted later covers what is painted earlier.
            found[int(entry["frame"])] = {i: _object_mask(masks[i], size) for i in names if i in masks}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadInputError(f"expected masks such as {EXAMPLE}") from error
    if not all(0 <= limit <= 1 for limit in limits.values()):
        raise BadInputError(f"expected shares of the frame's area, 0 to 1, for clean; got {limits}")
    outside = [frame for frame in found if not 0 <= frame < frames]
    if outside:
        raise BadInputError(f"there is no frame {outside[0]} in this video; its frames are 0 to {frames - 1}")
    return PageMasks(names, labels, limits, dict(sorted(found.items())))


def read_classes(body: Mapping[str, Any]) -> list[str]:
    """Returns the page's list of classes, in its order. Raises BadInputError if it is not a list of names."""
    classes = body.get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise BadInputError(f"classes are {shortened(classes)}; expected a list of names")
    return classes


def read_mask(rle: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask ``(H, W)`` of run lengths of a client. Raises BadInputError if it is damaged or of another size."""
    found = rle.get("size") if isinstance(rle, Mapping) else None
    if found != list(size):
        raise BadInputError(f"a mask has the size {shortened(found)}; the video has {list(size)}")
    try:
        return decode_rle(rle)
    except ValueError as error:
        raise BadInputError(str(error)) from error


def _object_mask(rle: Mapping[str, Any], size: tuple[int, int]) -> ObjectMask:
    mask = RLE(size=list(size), counts=str(rle["counts"]))
    read_mask({**rle, "counts": mask["counts"]}, size)
    return ObjectMask(mask, mask)
