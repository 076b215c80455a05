"""The video predictor beside transformers' ``Sam2VideoModel``: same weights, clip and prompts, fp32 on the CPU.

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
from collections.abc import Iterator
from functools import partialmethod

import pytest
import tame_weights
import torch
from counterpart import vision_config
from float32_memory import Float32Memory
from scenarios import Pair, Prompt, Propagate, Scenario, Stripe, compare
from transformers import Sam2VideoConfig, Sam2VideoMaskDecoderConfig, Sam2VideoModel, Sam2VideoPromptEncoderConfig
from transformers.models.sam2_video import modeling_sam2_video
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.checkpoints.transformers_layout import to_transformers

SEED = 0
SIZE = 256
# All 7 memories are in use on the last frame.
FRAMES = 9
# So are all 16 pointers, and one frame is left out.
LONG = 18

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
    return Pair(ours, *theirs, Sam2VideoInferenceSession)


@pytest.fixture(scope="module", params=GENERATIONS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def pair(name: str) -> Pair:
    return build(name, SEED)


@pytest.fixture(autouse=True)
def official_behaviour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their model stores fp32 memories, and takes the object pointer of a given mask from the single mask."""
    monkeypatch.setattr(modeling_sam2_video, "torch", Float32Memory())
    forward = partialmethod(Sam2VideoModel._single_frame_forward, multimask_output=False)
    monkeypatch.setattr(Sam2VideoModel, "_single_frame_forward", forward)  # the other caller says what it wants


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


def test_absent_objects(name: str, pair: Pair) -> None:
    """Frames without the object: their masks, pointers and, in SAM 2.1, memories are replaced."""
    with shifted_object_score(pair, ABSENCE[name]):
        (scores,) = compare(pair, LONG_CLICKS).scores.values()
    assert scores[0] < 0
    assert (scores[1:] < 0).any() and (scores[1:] > 0).any()
    assert scores.abs().min() > 1e-3  # no rounding changes the sign
