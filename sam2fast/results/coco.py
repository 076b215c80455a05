"""Converts masks to COCO's annotations, and tracked masks to COCO's format for videos, as in YouTube-VIS."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam2fast.io.overlay import area_of
from sam2fast.io.rle import encode_rle
from sam2fast.results.frame_masks import to_numpy
from sam2fast.results.object_numbers import object_numbers

CATEGORY = {"id": 1, "name": "object", "supercategory": "object"}  # category of objects without a name
DIGITS = 6  # decimal digits of a score


def to_coco_video(
    frames: Iterable[Any],
    size: tuple[int, int],
    length: int | None = None,
    name: str = "video",
    file_names: list[str] | None = None,
) -> dict[str, Any]:
    """Returns all tracked masks of a video as one document for ``json.dump``.

    Each object has one annotation and its own category, whose ids are the object's id if all ids are integers from 1,
    and otherwise positions. ``segmentations`` (compressed run lengths), ``areas`` and
    ``bboxes`` ([x, y, width, height]) have an entry for each frame, null if the object is not visible or was not
    tracked. Additional keys are ``object`` (the predictor's object id) and, if scores are known, ``score`` (the mean
    predicted IoU over the frames that show the object).

    Args:
        frames: Frames in any order. Each is an argument of :func:`to_numpy`, or a line of ``masks.jsonl`` as a dict.
        size: (H, W) of the video.
        length: Number of frames of the video. By default, the last of ``frames`` is the last frame of the video.
        name: Name of the video, for ``file_names``.
        file_names: File names of the frames. Defaults to ``name/00000.jpg`` and so on.

    Raises:
        ValueError: If a frame is beyond ``length``, a mask has another size, or the number of file names is wrong.
    """
    tracks: dict[Any, dict[int, tuple[Any, ...]]] = {}  # run lengths, area and box of a mask, by object and frame
    scores: dict[Any, list[float]] = {}
    last = -1
    for frame, obj_id, rle, area, box, score in _entries(frames):
        last = max(last, frame)
        if length is not None and frame >= length:
            raise ValueError(f"frame {frame} is beyond the end of a video of {length} frames")
        track = tracks.setdefault(obj_id, {})
        if rle is not None:
            if tuple(rle["size"]) != tuple(size):
                raise ValueError(f"a mask on frame {frame} has the size {tuple(rle['size'])}, the video {tuple(size)}")
            track[frame] = (rle, area, box)
            if score is not None:
                scores.setdefault(obj_id, []).append(score)
    count = last + 1 if length is None else length
    names = [f"{name}/{t:05d}.jpg" for t in range(count)] if file_names is None else file_names
    if len(names) != count:
        raise ValueError(f"{len(names)} file names for {count} frames")
    height, width = size
    video = {"id": 1, "height": height, "width": width, "length": count, "file_names": names}
    annotations = []
    numbers = object_numbers(tracks)
    for obj_id, track in tracks.items():
        number = numbers[obj_id]
        segmentations, areas, boxes = ([track.get(t, (None,) * 3)[i] for t in range(count)] for i in range(3))
        annotation = {
            "id": number,
            "video_id": 1,
            "category_id": number,
            "segmentations": segmentations,
            "areas": areas,
            "bboxes": boxes,
            "iscrowd": 0,
            "height": height,
            "width": width,
            "length": count,
            "object": obj_id,
        }
        if obj_id in scores:
            annotation["score"] = round(sum(scores[obj_id]) / len(scores[obj_id]), DIGITS)
        annotations.append(annotation)
    categories = [{**CATEGORY, "id": number, "name": str(obj_id)} for obj_id, number in numbers.items()]
    return {"videos": [video], "annotations": annotations, "categories": categories}


def _entries(frames: Iterable[Any]) -> Iterator[tuple[int, Any, Any, int, Any, float | None]]:
    """Yields frame, id, run lengths (None for an empty mask), area, box and score of every object in every frame."""
    for item in frames:
        if isinstance(item, Mapping):
            for entry in item["objects"]:
                rle = entry["rle"] if entry["area"] else None
                yield item["frame"], entry["id"], rle, entry["area"], entry["box"], entry["score"]
            continue
        arrays = to_numpy(item)
        for i, (obj_id, mask) in enumerate(zip(arrays.ids, arrays.masks, strict=True)):
            area = int(mask.sum())
            score = None if arrays.scores is None else float(arrays.scores[i])
            yield arrays.frame, obj_id, encode_rle(mask) if area else None, area, coco_box(mask), score


def coco_entry(category_id: Any, rle: Any, box: Any, area: int, **more: Any) -> dict[str, Any]:
    """Returns a COCO annotation of an image, without the ids."""
    return {"category_id": category_id, "segmentation": rle, "bbox": box, "area": area, "iscrowd": 0, **more}


def coco_box(mask: NDArray[np.bool_]) -> list[int] | None:
    """Returns the box [x, y, width, height] of a bool mask ``(H, W)``, or None for an empty mask."""
    area = area_of(mask)
    if area is None:
        return None
    rows, columns = area
    return [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
