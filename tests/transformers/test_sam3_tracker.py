"""SAM 3's tracker beside transformers' ``Sam3TrackerVideoModel`` and ``Sam3TrackerModel``, with a small trunk, in fp32.

Differences of transformers' video model (``modeling_sam3_tracker_video.py`` of the pinned version), and how they are
handled here. Ours does what it does for SAM 2, except where it says so:

- ``_encode_new_memory`` stores memories as bfloat16 in every dtype. Here both store fp32.
- Logits are resized to the image's size, then to the size of the memory encoder's masks, and only then become
  probabilities. Ours does the same.
- ``_use_mask_as_output`` takes the object pointer of a given mask from the best of three masks. Here it takes the
  pointer from the single mask.
- A given mask enters the memory unchanged. Ours reduces it to the size of low-resolution masks first, which rounds off
  corners. The mask here is a stripe, which this does not change.
- ``prev_sam_mask_logits`` is never passed: new clicks do not see the frame's mask. Here it is passed.
- With more prompted frames than the limit, pointers of all are attended to. In ours, pointers of frames that are not
  selected count as tracked ones, of which those of the last 15 frames are attended to. Videos here are shorter.
- ``forward`` on a prompted frame also tracks the other objects, and encodes their binarised masks. Propagation
  overwrites both if it reaches the frame. Of the answer to a prompt, only the prompted object is compared.
"""

from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tame_weights
import torch
from float32_memory import Float32Memory
from image_prompts import ImagePair, difference, our_answer, their_answer
from scenarios import Pair, Prompt, Propagate, Scenario, Stripe, clip, compare
from transformers import Sam3TrackerConfig, Sam3TrackerModel, Sam3TrackerVideoConfig, Sam3TrackerVideoModel
from transformers.models.sam3_tracker_video import modeling_sam3_tracker_video
from transformers.models.sam3_tracker_video.modeling_sam3_tracker_video import Sam3TrackerVideoInferenceSession

from sam2fast.build_sam import build_sam2_hf, build_sam2_video_predictor
from sam2fast.checkpoints.loading import is_video_only
from sam2fast.checkpoints.transformers_config import transformers_config
from sam2fast.checkpoints.transformers_layout import to_transformers
from sam2fast.checkpoints.writing import write_transformers
from sam2fast.config import build_from_config, load_config
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.utils.testing import relative_error

TOLERANCE = 1e-4
CONFIG = str(Path(__file__).parents[1] / "support" / "sam3_small.yaml")
SEED = 0
SIZE, PADDED, FULL = 168, 140, 1008
FRAMES = 8
# Written out rather than read from our configuration, which is thereby checked too.
BACKBONE = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "window_size": 6,
    "global_attn_indexes": [1, 3],
    "pretrain_image_size": 112,
}


CLICKS = ((92, 72, 1), (20.5, 26, 0), (98, 84.25, 1))
BOX = (59, 46, 125, 105.5)
SCENARIOS = {
    "clicks": Scenario(FRAMES, [Prompt(0, 1, CLICKS), Propagate()]),
    "one click": Scenario(FRAMES, [Prompt(0, 1, CLICKS[:1]), Propagate()]),
    "box": Scenario(FRAMES, [Prompt(0, 1, box=BOX), Propagate()]),
    "mask": Scenario(FRAMES, [Stripe(0, 1, 63, 119), Propagate()]),
    "corrections": Scenario(
        FRAMES,
        [
            *(Prompt(0, 1, CLICKS[:1]), Prompt(0, 1, CLICKS[1:]), Propagate()),
            *(Prompt(4, 1, ((110, 90, 1), (20, 140, 0))), Propagate()),
        ],
    ),
    "there and back": Scenario(FRAMES, [Prompt(4, 1, CLICKS), Propagate(), Propagate(reverse=True)]),
    "five prompted frames": Scenario(
        FRAMES, [*(Prompt(t, 1, ((92 + 4 * t, 72 - 3 * t, 1), (20, 26, 0))) for t in (0, 1, 3, 4, 6)), Propagate()]
    ),
    "two objects": Scenario(FRAMES, [Prompt(0, 1, CLICKS), Prompt(3, 2, box=(13, 65, 79, 157)), Propagate()]),
}


def build(size: int) -> Pair:
    """At the full size, the models are SAM 3's."""
    config, backbone = ("sam3/sam3", {}) if size == FULL else (CONFIG, BACKBONE)
    ours = build_sam2_video_predictor(config, None, device="cpu", image_size=size)
    tame_weights.fill(ours, SEED)
    theirs = []
    for attention in ("sdpa", "eager"):
        vision = {"model_type": "sam3_vision_model", "backbone_config": {"model_type": "sam3_vit_model", **backbone}}
        config = Sam3TrackerVideoConfig(vision_config=vision, image_size=size, attn_implementation=attention)
        model = Sam3TrackerVideoModel(config).eval()
        model.load_state_dict(to_transformers(ours.state_dict()), strict=True, assign=True)
        theirs.append(model)
    return Pair(ours, *theirs, Sam3TrackerVideoInferenceSession)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return build(SIZE)


@pytest.fixture(autouse=True)
def as_for_sam2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes their model do what ours does for SAM 2."""
    model = Sam3TrackerVideoModel
    monkeypatch.setattr(modeling_sam3_tracker_video, "torch", Float32Memory())
    forward = partialmethod(model._single_frame_forward, multimask_output=False)
    monkeypatch.setattr(model, "_single_frame_forward", forward)  # the other caller says what it wants
    run = model._run_single_frame_inference

    def run_with_previous_mask(self: Any, inference_session: Any, obj_idx: int, frame_idx: int, **kwargs: Any) -> Any:
        before = None
        if kwargs["point_inputs"] is not None:
            for results in inference_session.output_dict_per_obj[obj_idx].values():
                before = results[frame_idx]["pred_masks"].clamp(-32, 32) if frame_idx in results else before
        arguments = {"obj_idx": obj_idx, "frame_idx": frame_idx, "prev_sam_mask_logits": before, **kwargs}
        return run(self, inference_session, **arguments)

    monkeypatch.setattr(model, "_run_single_frame_inference", run_with_previous_mask)


@pytest.mark.parametrize("size", [SIZE, PADDED, 336, pytest.param(FULL, marks=pytest.mark.slow)])
@torch.no_grad()
def test_features(size: int) -> None:
    """At 140 and 336 pixels, windows are padded or positions are tiled."""
    pair = build(size)
    images = torch.from_numpy(np.random.default_rng(1).standard_normal((1 + (size < FULL), 3, size, size))).float()
    theirs = pair.theirs.get_image_features(images, return_dict=True)
    actual = pair.ours.forward_image(images)["backbone_fpn"]
    for expected, ours in zip(theirs.fpn_hidden_states, actual, strict=True):
        error = relative_error(expected.permute(1, 2, 0).reshape(ours.shape), ours)
        assert error <= (TOLERANCE if size < FULL else 1e-5)


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_tracking(pair: Pair, scenario: Scenario) -> None:
    answers = compare(pair, scenario)
    assert all(0.03 < (mask > 0).float().mean() < 0.97 for mask in answers.masks.values())  # nothing else is a mask


@pytest.mark.parametrize("name", ["clicks", "box"])
def test_tracking_with_padded_windows(name: str) -> None:
    compare(build(PADDED), SCENARIOS[name])


# ---- images ----


def mask_logits() -> np.ndarray:
    """A disc with a blurred outline, as ``(1, h, w)`` logits."""
    y, x = np.mgrid[: SIZE // 14 * 4, : SIZE // 14 * 4]
    return (0.6 * (11 - np.hypot(x - 24, y - 20)))[None].astype(np.float32).clip(-10, 10)


# Arguments of SAM2ImagePredictor.predict.
PROMPTS: dict[str, dict[str, Any]] = {
    "point": {"point_coords": [[92, 72]], "point_labels": [1]},
    "points": {"point_coords": [[92, 72], [20.5, 160], [124, 50.25]], "point_labels": [1, 0, 1]},
    "box": {"box": [16, 36, 105, 147.5]},
    "box and points": {"box": [16, 36, 105, 147.5], "point_coords": [[50, 66], [98, 140]], "point_labels": [1, 0]},
    "mask and point": {"point_coords": [[92, 72]], "point_labels": [1], "mask_input": mask_logits()},
}


@pytest.fixture(scope="module", params=[0, 5])
def image_pair(request: pytest.FixtureRequest, pair: Pair) -> ImagePair:
    """Both models with a frame of the clip encoded.

    Features are those of the video model: ``Sam3TrackerModel.get_image_embeddings`` adds the embedding of no memory to
    the neck's last level, which nothing reads, and not to the level before it as the video model does.
    """
    weights = {
        name: tensor
        for name, tensor in pair.ours.state_dict().items()
        if not is_video_only(name) or "pred_obj_score" in name
    }
    config = {"vision_config": pair.theirs.config.vision_config, "prompt_encoder_config": {"image_size": SIZE}}
    theirs = Sam3TrackerModel(Sam3TrackerConfig(**config)).eval()
    theirs.load_state_dict(to_transformers(weights), strict=True)
    image = clip(SIZE, FRAMES)[request.param]
    ours = SAM2ImagePredictor(pair.ours)
    ours.set_image(image)
    pixels = torch.from_numpy(((image / 255 - 0.5) / 0.5).astype(np.float32)).permute(2, 0, 1)[None]
    return ImagePair(ours, theirs, pair.theirs.get_image_embeddings(pixels))


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_masks(image_pair: ImagePair, prompt: dict[str, Any], multimask: bool) -> None:
    expected = their_answer(image_pair, prompt, multimask)
    actual = our_answer(image_pair.ours, prompt, multimask)
    assert actual[0].shape[1:] == (3 if multimask else 1, SIZE // 14 * 4, SIZE // 14 * 4)
    for name, a, b in zip(("mask logits", "IoUs", "object scores"), expected, actual, strict=True):
        assert difference(a, b) <= TOLERANCE, name


# ---- checkpoints ----


@pytest.mark.parametrize("config", [CONFIG, "sam3/sam3"])
def test_names_and_shapes(config: str) -> None:
    with torch.device("meta"):
        ours = build_from_config(load_config(config).model).state_dict()
        video = Sam3TrackerVideoModel(Sam3TrackerVideoConfig(**transformers_config(config)))
        image = Sam3TrackerModel(Sam3TrackerConfig(**transformers_config(config, video=False)))
    converted = {name: tuple(x.shape) for name, x in to_transformers(ours).items()}
    assert len(converted) == (845 if config == "sam3/sam3" else 397)
    assert converted == {name: tuple(x.shape) for name, x in video.state_dict().items()}
    expected = {name: tuple(x.shape) for name, x in image.state_dict().items()}
    assert {name: shape for name, shape in converted.items() if name in expected} == expected


def test_what_they_leave_out_is_as_in_our_configuration() -> None:
    defaults = Sam3TrackerVideoConfig().to_dict()

    def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
        for name, value in ours.items():
            if isinstance(value, dict):
                compare(value, theirs[name])
            elif name not in ("architectures", "model_type"):
                assert theirs[name] == value, name

    compare(transformers_config("sam3/sam3"), defaults)


def test_there_and_back(pair: Pair, tmp_path: Path) -> None:
    """What a conversion writes is loaded by transformers without a missing weight, and comes back the same."""
    folder, again, weights = tmp_path / "converted", tmp_path / "again", pair.ours.state_dict()
    write_transformers(weights, transformers_config(CONFIG), folder)
    theirs, info = Sam3TrackerVideoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    theirs.save_pretrained(again)
    state = build_sam2_hf(again, config_file=CONFIG, device="cpu").state_dict()
    assert state.keys() == weights.keys() and all(torch.equal(state[name], weights[name]) for name in weights)
