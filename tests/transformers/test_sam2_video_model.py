"""The video predictor beside transformers' ``Sam2VideoModel``: same weights, clip and prompts, fp32 on the CPU.

The processor of transformers is not used: frames and prompts already have the model's input size. A box is passed as
two points with the labels 2 and 3, as by the processor.

Differences of transformers' model (``modeling_sam2_video.py`` of the pinned version) from the official package, and how
they are handled here:

- ``_encode_new_memory`` stores memories as bfloat16 in every dtype, as the official predictor does. Ours keeps the
  dtype that it computes in. Here both store fp32.
- Masks of prompted frames are always binarised for the memory, and an unstable single mask is always replaced by the
  best of three. In the official predictor this is postprocessing; it is enabled in ours. Holes are filled by the
  processor alone, so ours fills none.
- ``_use_mask_as_output`` takes the object pointer of a given mask from the best of three masks, the official one from
  the single mask. Here transformers' model does the latter.
- A given mask enters the memory unchanged. The official ``propagate_in_video_preflight`` reduces it to a quarter of the
  size, which rounds off corners. The mask here is a stripe, which this does not change.
- ``forward`` on a prompted frame also tracks the other objects, and encodes their binarised masks. Propagation
  overwrites both if it reaches the frame. Of the answer to a prompt, only the prompted object is compared.
- ``prev_sam_mask_logits`` is never passed: new clicks do not see the frame's mask. Here no frame is prompted twice, and
  no tracked frame is prompted.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partialmethod
from typing import NamedTuple

import numpy as np
import pytest
import tame_weights
import torch
import torch.nn.functional as F
from counterpart import vision_config
from float32_memory import Float32Memory
from PIL import Image
from torch import Tensor
from transformers import Sam2VideoConfig, Sam2VideoMaskDecoderConfig, Sam2VideoModel, Sam2VideoPromptEncoderConfig
from transformers.models.sam2_video import modeling_sam2_video
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.checkpoints.transformers_layout import to_transformers
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.utils.testing import mask_iou, relative_error

TOLERANCE = 1e-4
# Their model must agree with itself this well, under another order of sums, for a case to count.
SELF_TOLERANCE = TOLERANCE / 3
SEED = 0
SIZE = 256
# All 7 memories are in use on the last frame.
FRAMES = 9
# So are all 16 pointers, and one frame is left out.
LONG = 18
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Postprocessing as transformers has it always.
OVERRIDES = (
    f"++model.image_size={SIZE}",
    "++model.binarize_mask_from_pts_for_mem_enc=true",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_via_stability=true",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_delta=0.05",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_thresh=0.98",
)
GENERATIONS: dict[str, dict[str, bool]] = {
    "sam2.1_hiera_t": {},
    "sam2_hiera_t": {
        "enable_occlusion_spatial_embedding": False,
        "enable_temporal_pos_encoding_for_object_pointers": False,
    },
}


class Prompt(NamedTuple):
    """Clicks (x, y, label) and perhaps a box, XYXY, in pixels."""

    frame: int
    obj: int
    clicks: Sequence[tuple[float, float, int]] = ()
    box: Sequence[float] | None = None


class Stripe(NamedTuple):
    """A mask of these columns, all multiples of 4."""

    frame: int
    obj: int
    first: int
    last: int

    def mask(self) -> Tensor:
        """``(S, S)`` fp32."""
        mask = torch.zeros(SIZE, SIZE)
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


CLICKS = ((140, 110, 1), (30.5, 40, 0), (150, 128.25, 1))
BOX = (90, 70, 190, 160.5)
LONG_CLICKS = Scenario(LONG, [Prompt(0, 1, CLICKS), Propagate()])
SCENARIOS = {
    "clicks": LONG_CLICKS,
    "one click": Scenario(FRAMES, [Prompt(0, 1, CLICKS[:1]), Propagate()]),
    "box": Scenario(FRAMES, [Prompt(0, 1, box=BOX), Propagate()]),
    "mask": Scenario(FRAMES, [Stripe(0, 1, 100, 180), Propagate()]),
    "two frames": Scenario(FRAMES, [Prompt(0, 1, CLICKS[:2], BOX), Prompt(5, 1, CLICKS[1:]), Propagate()]),
    "two objects": Scenario(FRAMES, [Prompt(0, 1, CLICKS), Prompt(3, 2, box=(20, 100, 120, 240)), Propagate()]),
    "there and back": Scenario(FRAMES, [Prompt(4, 1, CLICKS), Propagate(), Propagate(reverse=True)]),
}
# Added to the object score, so that it is negative on some frames, the prompted one among them, and positive on others.
ABSENCE = {"sam2.1_hiera_t": -2.98, "sam2_hiera_t": -2.92}


class Pair(NamedTuple):
    name: str
    ours: SAM2VideoPredictor
    theirs: Sam2VideoModel
    eager: Sam2VideoModel  # theirs with another implementation of attention


def clip(frames: int) -> list[np.ndarray]:
    """A disc that moves over a drifting smooth random image, as ``(S, S, 3)`` uint8."""
    coarse = np.random.default_rng(SEED).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((2 * SIZE, 2 * SIZE), Image.Resampling.BICUBIC))
    y, x = np.mgrid[:SIZE, :SIZE]
    images = []
    for t in range(frames):
        frame = image[3 * t : 3 * t + SIZE, 5 * t : 5 * t + SIZE].copy()
        frame[np.hypot(x - 140 - 4 * t, y - 115 + 3 * t) < 40] = (220, 60, 40)
        images.append(frame)
    return images


def build(name: str, seed: int) -> Pair:
    generation = name.split("_")[0]
    ours = build_sam2_video_predictor(
        f"configs/{generation}/{name}.yaml",
        None,
        device="cpu",
        hydra_overrides_extra=OVERRIDES,
        apply_postprocessing=False,
    )
    tame_weights.fill(ours, seed)
    weights = to_transformers(ours.state_dict())
    theirs = []
    for attention in ("sdpa", "eager"):
        config = Sam2VideoConfig(
            vision_config=vision_config(name, SIZE),
            prompt_encoder_config=Sam2VideoPromptEncoderConfig(image_size=SIZE),
            mask_decoder_config=Sam2VideoMaskDecoderConfig(),
            image_size=SIZE,
            memory_attention_rope_feat_sizes=[SIZE // 16, SIZE // 16],
            attn_implementation=attention,
            **GENERATIONS[name],
        )
        model = Sam2VideoModel(config).eval()
        model.load_state_dict(weights, strict=True)  # every tensor of theirs is filled, and none of ours is left
        theirs.append(model)
    return Pair(name, ours, *theirs)


@pytest.fixture(scope="module", params=GENERATIONS)
def pair(request: pytest.FixtureRequest) -> Pair:
    return build(request.param, SEED)


@pytest.fixture(autouse=True)
def official_behaviour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their model stores fp32 memories, and takes the object pointer of a given mask from the single mask."""
    monkeypatch.setattr(modeling_sam2_video, "torch", Float32Memory())
    forward = partialmethod(Sam2VideoModel._single_frame_forward, multimask_output=False)
    monkeypatch.setattr(Sam2VideoModel, "_single_frame_forward", forward)  # the other caller says what it wants


def our_answers(predictor: SAM2VideoPredictor, scenario: Scenario) -> Answers:
    state = predictor.init_state(clip(scenario.frames))
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
            _, ids, masks = predictor.add_new_mask(state, step.frame, step.obj, step.mask())
        else:
            points = [click[:2] for click in step.clicks] or None
            labels = [click[2] for click in step.clicks] or None
            _, ids, masks = predictor.add_new_points_or_box(state, step.frame, step.obj, points, labels, box=step.box)
        answers.masks[f"{step}"] = masks[ids.index(step.obj), 0]
    return answers


@torch.inference_mode()
def their_answers(model: Sam2VideoModel, scenario: Scenario) -> Answers:
    """As :func:`our_answers`, by transformers."""
    pixels = ((np.stack(clip(scenario.frames)) / 255 - MEAN) / STD).astype(np.float32)
    video = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    session = Sam2VideoInferenceSession(video, video_height=SIZE, video_width=SIZE, dtype=torch.float32)
    answers = Answers({}, {})
    for step in scenario.steps:
        if isinstance(step, Propagate):
            scores = []
            for out in model.propagate_in_video_iterator(session, reverse=step.reverse):
                for obj, mask in zip(out.object_ids, _full_size(out.pred_masks), strict=True):
                    answers.masks[f"{step}, frame {out.frame_idx}, object {obj}"] = mask
                scores.append(out.object_score_logits[:, 0])
            answers.scores[f"{step}, scores"] = torch.stack(scores)
            continue
        index = session.obj_id_to_idx(step.obj)
        if isinstance(step, Stripe):
            session.add_mask_inputs(index, step.frame, step.mask()[None, None])
        else:
            corners = [] if step.box is None else [(*step.box[:2], 2), (*step.box[2:], 3)]
            points = torch.tensor([*corners, *step.clicks], dtype=torch.float32)[None, None]
            inputs = {"point_coords": points[..., :2], "point_labels": points[..., 2].int()}
            session.add_point_inputs(index, step.frame, inputs)
        session.obj_with_new_inputs = [step.obj]
        out = model(session, frame_idx=step.frame)
        answers.masks[f"{step}"] = _full_size(out.pred_masks)[out.object_ids.index(step.obj)]
    return answers


def _full_size(masks: Tensor) -> Tensor:
    """``(N, 1, h, w)`` logits as ``(N, S, S)``, as by their processor's ``post_process_masks``."""
    return F.interpolate(masks, (SIZE, SIZE), mode="bilinear", align_corners=False)[:, 0]


def errors(expected: Answers, actual: Answers) -> dict[str, float]:
    found = {}
    for a, b in zip(expected, actual, strict=True):
        assert list(a) == list(b)  # the same answers in the same order
        found.update({where: relative_error(a[where], b[where]) for where in a})
    return found


def compare(pair: Pair, scenario: Scenario) -> Answers:
    """Asserts that the results agree, after showing that transformers' do not depend on the order of sums."""
    expected = their_answers(pair.theirs, scenario)
    themselves = errors(expected, their_answers(pair.eager, scenario))
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


@contextlib.contextmanager
def shifted_object_score(pair: Pair, by: float) -> Iterator[None]:
    """Within the block, all models give lower object scores."""
    biases = [pair.ours.sam_mask_decoder.pred_obj_score_head.layers[-1].bias]
    biases += [model.mask_decoder.pred_obj_score_head.proj_out.bias for model in (pair.theirs, pair.eager)]
    before = biases[0].detach().clone()
    try:
        with torch.no_grad():
            for bias in biases:
                bias += by
        yield
    finally:
        with torch.no_grad():
            for bias in biases:
                bias.copy_(before)


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_tracking(pair: Pair, scenario: Scenario) -> None:
    answers = compare(pair, scenario)
    assert all(0.05 < (mask > 0).float().mean() < 0.95 for mask in answers.masks.values())  # nothing else is a mask


def test_absent_objects(pair: Pair) -> None:
    """Frames without the object: their masks, pointers and, in SAM 2.1, memories are replaced."""
    with shifted_object_score(pair, ABSENCE[pair.name]):
        (scores,) = compare(pair, LONG_CLICKS).scores.values()
    assert scores[0] < 0
    assert (scores[1:] < 0).any() and (scores[1:] > 0).any()
    assert scores.abs().min() > 1e-3  # no rounding changes the sign
