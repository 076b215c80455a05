"""Prompts in a video, and the answers of our predictor and of transformers' models, which are compared.

The processor of transformers is not used: frames and prompts already have the model's input size. A box is passed as
two points with the labels 2 and 3, as by the processor.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.utils.testing import mask_iou, relative_error

TOLERANCE = 1e-4
# Their model must agree with itself this well, under another order of sums, for a case to count.
SELF_TOLERANCE = TOLERANCE / 3


class Prompt(NamedTuple):
    """Clicks (x, y, label) and perhaps a box, XYXY, in pixels."""

    frame: int
    obj: int
    clicks: Sequence[tuple[float, float, int]] = ()
    box: Sequence[float] | None = None


class Stripe(NamedTuple):
    """A mask of these columns, where low-resolution masks have pixels too."""

    frame: int
    obj: int
    first: int
    last: int

    def mask(self, size: int) -> Tensor:
        """``(S, S)`` fp32."""
        mask = torch.zeros(size, size)
        mask[:, self.first : self.last] = 1
        return mask


class Propagate(NamedTuple):
    reverse: bool = False


class Scenario(NamedTuple):
    frames: int
    steps: Sequence[Prompt | Stripe | Propagate]


class Answers(NamedTuple):
    """The results of a predictor in a scenario."""

    masks: dict[str, Tensor]  # (S, S) logits
    scores: dict[str, Tensor]  # of each propagation, (frames, objects) logits of presence


class Pair(NamedTuple):
    """Models with the same weights."""

    ours: SAM2VideoPredictor
    theirs: Any
    eager: Any  # theirs with another implementation of attention
    session: type  # of their inference sessions


def clip(size: int, frames: int) -> list[np.ndarray]:
    """A disc that moves over a drifting smooth random image, as ``(S, S, 3)`` uint8."""
    coarse = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((2 * size, 2 * size), Image.Resampling.BICUBIC))
    y, x = np.mgrid[:size, :size]
    cx, cy, radius = (share * size / 256 for share in (140, 115, 40))
    images = []
    for t in range(frames):
        frame = image[3 * t : 3 * t + size, 5 * t : 5 * t + size].copy()
        frame[np.hypot(x - cx - 4 * t, y - cy + 3 * t) < radius] = (220, 60, 40)
        images.append(frame)
    return images


def our_answers(predictor: SAM2VideoPredictor, scenario: Scenario) -> Answers:
    state = predictor.init_state(clip(predictor.image_size, scenario.frames))
    answers = Answers({}, {})
    for step in scenario.steps:
        if isinstance(step, Propagate):
            scores = []
            for frame, ids, masks, extra in predictor.propagate_in_video(
                state, reverse=step.reverse, return_scores=True, progress=False
            ):
                for obj, mask in zip(ids, masks[:, 0], strict=True):
                    answers.masks[f"{step}, frame {frame}, object {obj}"] = mask
                scores.append(extra.object_score)
            answers.scores[f"{step}, scores"] = torch.stack(scores)
            continue
        if isinstance(step, Stripe):
            _, ids, masks = predictor.add_new_mask(state, step.frame, step.obj, step.mask(predictor.image_size))
        else:
            points = [click[:2] for click in step.clicks] or None
            labels = [click[2] for click in step.clicks] or None
            _, ids, masks = predictor.add_new_points_or_box(state, step.frame, step.obj, points, labels, box=step.box)
        answers.masks[f"{step}"] = masks[ids.index(step.obj), 0]
    return answers


@torch.inference_mode()
def their_answers(pair: Pair, model: Any, scenario: Scenario) -> Answers:
    """As :func:`our_answers`, by a model of transformers."""
    size = pair.ours.image_size
    pixels = np.stack(clip(size, scenario.frames)) / 255
    normalised = ((pixels - pair.ours.pixel_mean) / pair.ours.pixel_std).astype(np.float32)
    video = torch.from_numpy(normalised).permute(0, 3, 1, 2).contiguous()
    session = pair.session(video, video_height=size, video_width=size, dtype=torch.float32)
    answers = Answers({}, {})
    for step in scenario.steps:
        if isinstance(step, Propagate):
            scores = []
            for out in model.propagate_in_video_iterator(session, reverse=step.reverse):
                for obj, mask in zip(out.object_ids, _full_size(out.pred_masks, size), strict=True):
                    answers.masks[f"{step}, frame {out.frame_idx}, object {obj}"] = mask
                scores.append(out.object_score_logits[:, 0])
            answers.scores[f"{step}, scores"] = torch.stack(scores)
            continue
        index = session.obj_id_to_idx(step.obj)
        if isinstance(step, Stripe):
            session.add_mask_inputs(index, step.frame, step.mask(size)[None, None])
        else:
            corners = [] if step.box is None else [(*step.box[:2], 2), (*step.box[2:], 3)]
            points = torch.tensor([*corners, *step.clicks], dtype=torch.float32)[None, None]
            inputs = {"point_coords": points[..., :2], "point_labels": points[..., 2].int()}
            session.add_point_inputs(index, step.frame, inputs)
        session.obj_with_new_inputs = [step.obj]
        out = model(session, frame_idx=step.frame)
        answers.masks[f"{step}"] = _full_size(out.pred_masks, size)[out.object_ids.index(step.obj)]
    return answers


def _full_size(masks: Tensor, size: int) -> Tensor:
    """``(N, 1, h, w)`` logits as ``(N, S, S)``, as by their processor's ``post_process_masks``."""
    return F.interpolate(masks, (size, size), mode="bilinear", align_corners=False)[:, 0]


def errors(expected: Answers, actual: Answers) -> dict[str, float]:
    found = {}
    for a, b in zip(expected, actual, strict=True):
        assert list(a) == list(b)  # the same answers in the same order
        found.update({where: relative_error(a[where], b[where]) for where in a})
    return found


def compare(pair: Pair, scenario: Scenario) -> Answers:
    """Asserts that the results agree, after showing that transformers' do not depend on the order of sums."""
    expected = their_answers(pair, pair.theirs, scenario)
    themselves = errors(expected, their_answers(pair, pair.eager, scenario))
    assert max(themselves.values()) > 0, "attention was computed in the same way twice"
    for where, error in themselves.items():
        assert error < SELF_TOLERANCE, f"{where}: theirs differs from itself by {error:.1e}; draw another seed"

    actual = our_answers(pair.ours, scenario)
    for where, error in errors(expected, actual).items():
        assert error <= TOLERANCE, f"{where}: logits differ by {error:.1e}"
    for where, mask in expected.masks.items():
        iou = mask_iou(mask, actual.masks[where])
        assert iou >= 0.999, f"{where}: IoU {iou:.4f}"
    return expected
