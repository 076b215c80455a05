"""Implements CVAT's auto-annotation functions for ``cvat-cli`` and ``cvat_sdk``: detection, interaction, tracking."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps

from sam2fast.amg.parameters import thresholds_of
from sam2fast.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2fast.image_features import Features
from sam2fast.integrations.models import best_mask
from sam2fast.io.overlay import area_of
from sam2fast.io.rle import decode_rle, encode_rle, rasterise_polygons
from sam2fast.results import largest_ring
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.tracking.features import EncodedFrame
from sam2fast.tracking.stream import VideoStream
from sam2fast.utils.embedded import EMBEDDED
from sam2fast.utils.errors import requires
from sam2fast.video_io.sources import to_rgb_image

with requires("CVAT's functions need cvat-sdk: pip install 'sam2fast[cvat]'"):
    import cvat_sdk.auto_annotation as cvataa
    from cvat_sdk import masks, models

SHAPES = ("mask", "polygon", "rectangle")
TOLERANCE = 1.0  # maximum distance in pixels of a polygon from the outline of its mask
FRAMES_KEPT = 4  # number of encoded frames in memory, since CVAT prepares a frame again for each request
# Function that returns masks in an image: for each mask ``(H, W)`` bool, the number of the label, and the score.
FindObjects: TypeAlias = Callable[[Image.Image], Iterable[tuple[np.ndarray, int, float]]]


def create(
    kind: str, model: str = "sam2fast/mini", device: str = "auto", label: str = "object", shape: str = "mask"
) -> Any:
    """Creates a function for ``cvat-cli --function-module sam2fast.integrations.cvat -p kind=str:tracker``.

    Args:
        kind: "detector" for everything in an image, "interactor" for points and boxes, or "tracker".
        model: Model id or folder, an argument of ``from_pretrained``.
        device: Device of the model.
        label: Label of detected objects, a label of the CVAT task.
        shape: Shape of detected objects: "mask", "polygon" or "rectangle".
    """
    if kind not in ("detector", "interactor", "tracker"):
        raise ValueError(f"kind is {kind!r}; expected detector, interactor or tracker")
    if kind == "tracker":
        return CvatTracker(SAM2VideoPredictor.from_pretrained(model, device=device))
    predictor = SAM2ImagePredictor.from_pretrained(model, device=device)
    if kind == "interactor":
        return CvatInteractor(predictor)
    config = EMBEDDED[model].config if model in EMBEDDED else ""
    generator = SAM2AutomaticMaskGenerator(predictor.model, **thresholds_of(config))
    return CvatDetector(everything(generator), [label], shape)


def everything(generator: SAM2AutomaticMaskGenerator) -> FindObjects:
    """Returns a function that finds all masks in an image by a mask generator. Labels are 0, scores predicted IoUs."""
    return lambda image: [(one["segmentation"], 0, one["predicted_iou"]) for one in generator.generate(image)]


def in_boxes(predictor: SAM2ImagePredictor, detect: Callable[[Image.Image], tuple[Any, Any, Any]]) -> FindObjects:
    """Returns a function that predicts masks in boxes ``(N, 4)`` XYXY of ``detect``, with N labels and N scores."""

    def find(image: Image.Image) -> Iterable[tuple[np.ndarray, int, float]]:
        (boxes, labels, scores), features = detect(image), predictor.encode(image)
        options: dict[str, Any] = {"multimask_output": False, "features": features, "output_mode": "bool"}
        return zip((predictor.predict(box=box, **options)[0][0] for box in boxes), labels, scores, strict=True)

    return find


class CvatDetector:
    """A ``cvat_sdk.auto_annotation.DetectionFunction`` that calls ``find``.

    ``find`` comes from :func:`everything` or :func:`in_boxes`. ``labels`` are the task's names of the label numbers.
    ``shape`` is one of :data:`SHAPES`.
    """

    def __init__(self, find: FindObjects, labels: Sequence[str], shape: str = "mask") -> None:
        if shape not in SHAPES:
            raise ValueError(f"shape is {shape!r}; expected one of {', '.join(SHAPES)}")
        self._find, self._shape = find, shape
        named = [cvataa.label_spec(name, number, type=shape) for number, name in enumerate(labels)]
        self.spec = cvataa.DetectionFunctionSpec(labels=named)

    def detect(self, context: Any, image: Image.Image) -> list[Any]:
        """Returns shapes and scores of the objects with a score of at least ``context.conf_threshold``.

        A polygon outlines the largest part of the mask.
        """
        shape = "polygon" if self._shape == "mask" and context.conv_mask_to_poly else self._shape
        least = context.conf_threshold or 0
        with _as_bad_function():
            objects = [
                (int(label), points_of(mask, shape), float(np.clip(score, 0, 1)))
                for mask, label, score in self._find(upright(image))
                if score >= least
            ]
        return [
            cvataa.shape(label, type=shape, points=points, score=score)
            for label, points, score in objects
            if points is not None
        ]


class CvatInteractor:
    """A ``cvat_sdk.auto_annotation.InteractionFunction`` that predicts a mask from points and a box."""

    spec = cvataa.InteractionFunctionSpec(min_pos_points=0, min_neg_points=0, min_bounding_boxes=0)

    def __init__(self, predictor: SAM2ImagePredictor) -> None:
        self._predictor = predictor

    def preprocess_image(self, context: Any, image: Image.Image) -> Features:
        """Returns the embedding of an image. CVAT keeps the embedding between clicks."""
        with _as_bad_function():
            return self._predictor.encode(upright(image))

    def detect(self, context: Any, pp_image: Features, prompts: Any) -> list[Any]:
        """Returns the best-scored mask with its confidence, or an empty list if the mask is empty."""
        clicks = [*prompts.pos_points, *prompts.neg_points]
        box = None if prompts.bounding_box is None else np.ravel(prompts.bounding_box)
        if not clicks and box is None:
            raise cvataa.BadFunctionError("there is no prompt; give a point or a box")
        labels = [1] * len(prompts.pos_points) + [0] * len(prompts.neg_points)
        with _as_bad_function():
            mask, score = best_mask(self._predictor, clicks, labels, box, features=pp_image, output_mode="bool")
        points = points_of(mask, "mask")
        if points is None:
            return []
        spec_id = int(cvataa.InteractionResultAttributes.CONFIDENCE)
        confidence = models.AttributeValRequest(spec_id=spec_id, value=str(min(max(score, 0.0), 1.0)))
        return [cvataa.InteractionResultShape(type="mask", points=points, attributes=[confidence])]


class CvatTracker:
    """A ``cvat_sdk.auto_annotation.TrackingFunction`` with a stream for each shape. Streams share features."""

    spec = cvataa.TrackingFunctionSpec(supported_shape_types=SHAPES)

    def __init__(self, predictor: SAM2VideoPredictor) -> None:
        self._predictor = predictor
        self._encoded = lru_cache(FRAMES_KEPT)(
            lambda size, pixels: predictor.encode_frame(Image.frombytes("RGB", size, pixels))
        )

    def preprocess_image(self, context: Any, image: Image.Image) -> EncodedFrame:
        """Returns the frame with features. The last four frames are cached."""
        with _as_bad_function():
            pixels = to_rgb_image(upright(image), 0)
            return self._encoded(pixels.size, pixels.tobytes())

    def init_tracking_state(self, context: Any, pp_image: EncodedFrame, shape: Any) -> VideoStream:
        """Returns a stream with the shape as prompt on the stream's first frame."""
        with _as_bad_function():
            stream = self._predictor.open_stream()
            stream.step(pp_image)
            if shape.type == "rectangle":
                stream.add_new_points_or_box(0, box=shape.points)
            else:
                stream.add_new_mask(0, mask_of(shape.type, shape.points, (pp_image.height, pp_image.width)))
            return stream

    def track(self, context: Any, pp_image: EncodedFrame, state: VideoStream) -> Any:
        """Returns the shape on the next frame, or None if it is not visible. A failed call keeps the state."""
        with _as_bad_function():
            result = state.step(pp_image)
        shape_type = context.original_shape_type
        points = points_of((result.masks[0, 0] > 0).cpu().numpy(), shape_type)
        return None if points is None else cvataa.TrackableShape(type=shape_type, points=points)


def upright(image: Image.Image) -> Image.Image:
    """Returns the image as CVAT shows it, rotated by its EXIF orientation."""
    return ImageOps.exif_transpose(image)


def points_of(mask: np.ndarray, shape: str) -> list[float] | None:
    """Returns CVAT's points of a bool mask ``(H, W)``, None if empty. A polygon has the largest part without holes."""
    area = area_of(mask)
    if area is None:
        return None
    if shape == "mask":
        return masks.encode_mask(mask)
    if shape == "rectangle":
        return [float(side) for side in (area[1].start, area[0].start, area[1].stop, area[0].stop)]
    return largest_ring(encode_rle(mask), TOLERANCE).astype(float).ravel().tolist()


def mask_of(shape: str, points: list[float], size: tuple[int, int]) -> np.ndarray:
    """Returns the bool mask ``(H, W)`` of a "mask" or "polygon". Raises ValueError if no pixel is in the image."""
    height, width = size
    if shape == "mask":
        mask = masks.decode_mask(points, image_width=width, image_height=height)
    else:
        mask = decode_rle(rasterise_polygons([points], size))
    if not mask.any():
        raise ValueError(f"the {shape} has no pixel of the image of {width}x{height}")
    return mask


@contextmanager
def _as_bad_function() -> Iterator[None]:
    """Raises errors of prompts and images as BadFunctionError, since CVAT shows the text of this error."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, LookupError) as error:
        raise cvataa.BadFunctionError(str(error)) from error
