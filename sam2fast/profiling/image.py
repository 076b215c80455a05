"""A picture, from its file or array to masks of its size."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sam2fast import sam2_image_predictor
from sam2fast.profiling import costs
from sam2fast.profiling.limits import Limits
from sam2fast.profiling.model_parts import model_parts
from sam2fast.profiling.passes import Whole, profile
from sam2fast.profiling.patches import Patches
from sam2fast.profiling.profile import Profile
from sam2fast.profiling.prompts import scattered_points
from sam2fast.profiling.recorder import Cost
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.transforms import ImageLike, to_pixels


def profile_image(
    predictor: SAM2ImagePredictor,
    image: ImageLike,
    *,
    point_coords: Any = None,
    point_labels: Any = None,
    box: Any = None,
    objects: int = 1,
    runs: int = 3,
    trace: Path | None = None,
    limits: Limits | None = None,
) -> Profile:
    """Sets a picture and predicts masks for prompts on it, and says where the time goes.

    Args:
        predictor: afterwards as it was, without a picture.
        image: what ``set_image`` takes; a path is read and decoded in each run.
        point_coords, point_labels, box: as ``predict`` takes them.
        objects: without them, so many clicks, each on an object of its own, are spread over the picture.
        runs: how often it is timed.
        trace: a file for Chrome's or Perfetto's trace viewer, written by one more run.
        limits: of the device, if they are known; else they are measured.

    Raises:
        ImageError, FileNotFoundError, TypeError: the picture cannot be used.
        ValueError: prompts, ``objects`` or ``runs`` are wrong, or parts cannot be timed on the model's device.
        OSError: the trace cannot be written.
    """
    height, width = to_pixels(image).shape[:2]
    if point_coords is None and box is None:
        if objects < 1:
            raise ValueError(f"objects is {objects}; expected 1 or more")
        point_coords = np.array(scattered_points(objects, height, width))[:, None]
        point_labels = np.ones((objects, 1), dtype=np.int64)
    clicks = 0 if point_coords is None else np.shape(point_coords)[-2]
    prompts = {
        "point_coords": point_coords,
        "point_labels": point_labels,
        "box": box,
        "multimask_output": clicks == 1 and box is None,
    }
    return profile(_Picture(predictor, image, (height, width), prompts), runs, trace, limits)


class _Picture:
    unit = "picture"
    has_fast_path = False
    is_warm = False

    def __init__(
        self, predictor: SAM2ImagePredictor, image: ImageLike, size: tuple[int, int], prompts: dict[str, Any]
    ) -> None:
        self.predictor = predictor
        self.model = predictor.model
        self.image = image
        self.prompts = prompts
        self.subject = {
            "kind": "image",
            "width": size[1],
            "height": size[0],
            "image_size": self.model.image_size,
            "objects": _count(prompts),
        }

    def run(self, instrument: Callable[[Any], None], whole: Whole) -> None:
        instrument(None)
        try:
            with whole():
                self.predictor.set_image(self.image)
                self.predictor.predict(**self.prompts)
        finally:
            self.predictor.reset_predictor()

    @contextmanager
    def plain_path(self) -> Iterator[None]:
        yield

    def parts(self, patches: Patches, state: Any) -> None:
        model_parts(patches, self.model)
        transforms = self.predictor._transforms
        patches.part(
            sam2_image_predictor, "to_pixels", "decode", then=lambda out, image: Cost(nbytes=costs.bytes_of(out))
        )
        patches.part(transforms, "from_pixels", "preprocess", weights=())
        patches.part(transforms, "postprocess_to_bool", "masks to image size", weights=())
        if transforms.max_hole_area > 0 or transforms.max_sprinkle_area > 0:
            patches.part(transforms, "cleaned", "hole filling", weights=())
        patches.part(sam2_image_predictor, "_to_numpy", "results to the CPU", weights=())


def _count(prompts: dict[str, Any]) -> int:
    """How many objects are asked for: a batch has a dimension more than one prompt."""
    for name, dimensions in (("point_coords", 3), ("box", 2)):
        shape: tuple[int, ...] = np.shape(prompts[name]) if prompts[name] is not None else ()
        if len(shape) == dimensions:
            return shape[0]
    return 1
