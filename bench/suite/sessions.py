"""Sessions: the base class that every case gives the timer; sessions of the image predictor and of automatic masks; and
how results are compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from parity_rows import nan_last
from torch import Tensor

from sam2fast.utils.testing import relative_error
from suite.missing import MissingError
from suite.photographs import boxes, centre, image
from suite.subjects import Built, Setting, image_path, image_predictor, is_ours, timed

HEIGHT, WIDTH = 1200, 1800
BOXES_CHECKED = 16
POINTS_PER_SIDE = 16
MASKS_HEIGHT, MASKS_WIDTH = 480, 640
# nano has weights of its own, with which these leave some tens of masks; drawn ones give all points about one mask.
THRESHOLDS = {"pred_iou_thresh": 0.3, "stability_score_thresh": 0.7, "box_nms_thresh": 0.7}
DRAWN_THRESHOLDS = {"pred_iou_thresh": -1.0, "stability_score_thresh": 0.0, "box_nms_thresh": 0.7}


@dataclass
class Sample:
    """One call: its seconds, its result, and the processor time of the calling thread if the call was in it."""

    seconds: float
    result: Any
    host_s: float | None = None


class Session:
    """One subject of a case, with everything loaded.

    Attributes:
        notes: notes of its row.
        compile_s: seconds spent compiling before the first call; None if nothing is compiled then.
        earlier_s: seconds of calls before the timed ones; the first may have compiled something.
        peak_mib: peak memory, if the session measures it.
        checked: results by which it is judged before anything is timed; None for the first call's, and an empty list
            for none.
        path: path that its calls took; see :mod:`suite.subjects`.
        result_bytes: size of the latest call's result, if the host makes it.
        frames: frames of a video that a call tracks; 1 for images.
        encoded: images and frames that were encoded until now.
    """

    path = ""
    result_bytes = 0
    frames = 1
    encoded = 0

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.compile_s: float | None = None
        self.earlier_s: list[float] = []
        self.peak_mib: float | None = None
        self.checked: list[Tensor] | None = None

    def prepare(self, setting: Setting) -> None:
        """Gets ready for calls with these objects and this history."""

    def call(self) -> Sample:
        """Makes the call, and returns its seconds and the results that are compared."""
        raise NotImplementedError

    def timed_part(self) -> Sample:
        """Makes the part of the call that is timed, for profiles."""
        return self.call()

    def scores(self) -> list[list[float]]:
        """Returns the IoUs that the decoder predicts for its masks, on each image or frame that it chooses one for."""
        return []

    def close(self) -> None:
        """Frees everything."""


class PredictorSession(Session):
    """A session of a predictor in this process."""

    def __init__(self, built: Built) -> None:
        super().__init__()
        self.built, self.notes, self.compile_s = built, list(built.notes), built.compile_s

    def close(self) -> None:
        self.built.closing.close()


def in_context(built: Any, call: Any) -> Sample:
    """Times a call of a predictor in its own dtype."""

    def run() -> Any:
        with built.context():
            return call()

    return Sample(*timed(built.setting.device, run))


def object_ious(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> list[float]:
    """Returns the IoU of each object's masks in logits ``(objects, ...)``, in order; 1 if both are empty."""
    found = []
    for x, y in zip(expected, actual, strict=True):
        for a, b in zip(x > 0, y > 0, strict=True):
            union = int((a | b).sum())
            found.append(int((a & b).sum()) / union if union else 1.0)
    return found


def worst_error(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> float:
    """Returns the largest relative error of any object in any result; infinite if shapes differ.

    Together, the large logits of one object would hide the others'.
    """
    if [x.shape for x in expected] != [x.shape for x in actual]:
        return float("inf")
    return max(nan_last(relative_error(a, b)) for x, y in zip(expected, actual, strict=True)
               for a, b in zip(x, y, strict=True))  # fmt: skip


class ImageSession(PredictorSession):
    """An image predictor; the subclass times its calls."""

    shape = (HEIGHT, WIDTH)

    def __init__(self, subject: str, setting: Setting) -> None:
        super().__init__(image_predictor(subject, setting))
        self.subject = subject
        self.image = image(*self.shape)

    @property
    def path(self) -> str:
        return image_path(self.subject, self.built.predictor.model)

    def set_image(self) -> Sample:
        self.encoded += 1
        return in_context(self.built, lambda: self.built.predictor.set_image(self.image))


class Encode(ImageSession):
    """``set_image``."""

    def call(self) -> Sample:
        sample = self.timed_part()
        sample.result = [self.built.predictor.get_image_embedding().float().cpu()]
        return sample

    def timed_part(self) -> Sample:
        return self.set_image()


class Predict(ImageSession):
    """``predict`` with one click on an image that is set."""

    def prepare(self, setting: Setting) -> None:
        self.earlier_s = [self.set_image().seconds]
        self.prompt: dict[str, Any] = {
            "point_coords": np.array([centre(HEIGHT, WIDTH, 0)]), "point_labels": np.array([1])
        }  # fmt: skip

    def call(self) -> Sample:
        sample = in_context(self.built, lambda: self.built.predictor.predict(**self.prompt))
        self.result_bytes = sum(x.nbytes for x in sample.result)
        self.ious = sample.result[1].reshape(-1).tolist()
        sample.result = [torch.from_numpy(sample.result[2])]  # low-resolution logits
        return sample

    def scores(self) -> list[list[float]]:
        return [self.ious]


class Boxes(Predict):
    """``predict`` with ``setting.objects`` boxes at once."""

    def prepare(self, setting: Setting) -> None:
        self.earlier_s = [self.set_image().seconds]
        box = boxes(HEIGHT, WIDTH, setting.objects or 1)
        self.prompt = {"box": box, "multimask_output": False}
        # All three masks of each box, since the stable one may depend on the dtype.
        few = box[:BOXES_CHECKED]
        found = in_context(self.built, lambda: self.built.predictor.predict(box=few, multimask_output=True))
        self.checked = [torch.from_numpy(found.result[2])]


class Masks(ImageSession):
    """Automatic masks of an image."""

    shape = (MASKS_HEIGHT, MASKS_WIDTH)

    def __init__(self, subject: str, setting: Setting) -> None:
        super().__init__(subject, setting)
        package = "sam2fast" if is_ours(subject) else "sam2"
        try:
            build = import_module(f"{package}.automatic_mask_generator").SAM2AutomaticMaskGenerator
        except (ImportError, RuntimeError) as error:
            raise MissingError(f"its generator cannot be imported here: {error}") from error

        predictor = self.built.predictor
        thresholds = _load_nano(predictor.model) if setting.size == "nano" else DRAWN_THRESHOLDS
        self.generator = build(predictor.model, points_per_side=POINTS_PER_SIDE, **thresholds)
        self.generator.predictor._bb_feat_sizes = predictor._bb_feat_sizes

    def call(self) -> Sample:
        sample = in_context(self.built, lambda: self.generator.generate(self.image))
        self.notes = [*self.built.notes, f"{len(sample.result)} masks"]
        return sample


def _load_nano(model: Any) -> dict[str, float]:
    """Gives the model nano's own weights; the thresholds that suit them."""
    from safetensors.torch import load_file

    from sam2fast.nano import WEIGHTS

    model.load_state_dict(load_file(WEIGHTS))
    return THRESHOLDS


def unlike_masks(expected: list[dict[str, Any]], actual: list[dict[str, Any]]) -> float:
    """Returns the share of masks without a counterpart, but for masks that rounding may carry across a threshold."""
    from mask_records import IOU, match, near_threshold

    matching = match(expected, actual, IOU)
    alone = [(expected[i], actual) for i in matching.left] + [(actual[j], expected) for j in matching.right]
    unlike = sum(
        all(near_threshold(record, others, thresholds) is None for thresholds in (THRESHOLDS, DRAWN_THRESHOLDS))
        for record, others in alone
    )
    return unlike / max(1, len(expected) + len(actual))
