"""Converted checkpoints of every model in transformers' own classes, and theirs here.

What a conversion writes is loaded by transformers without a missing or unexpected weight, answers there as ours does,
for images and in a video, and what transformers then writes is the same model here again.

As in the tests beside, frames and prompts already have the model's input size, and their memories are stored as fp32.
"""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tame_weights
import torch
import torch.nn.functional as F
from float32_memory import Float32Memory
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel
from transformers.models.sam2_video import modeling_sam2_video
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from sam2fast import nano
from sam2fast.build_sam import build_sam2_hf, build_sam2_video_predictor
from sam2fast.checkpoints.transformers_config import transformers_config
from sam2fast.checkpoints.transformers_layout import to_transformers
from sam2fast.checkpoints.writing import write_transformers
from sam2fast.config import build_from_config, load_config
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.utils.testing import relative_error

TOLERANCE = 1e-4
SIZE = 256
FRAMES = 3
POINT = (140, 110)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CONFIGS = [f"configs/{g}/{g}_hiera_{size}.yaml" for g in ("sam2", "sam2.1") for size in ("t", "s", "b+", "l")]
ALL = [*CONFIGS, nano.CONFIG]
# Postprocessing as transformers has it always.
OVERRIDES = (
    f"++model.image_size={SIZE}",
    "++model.binarize_mask_from_pts_for_mem_enc=true",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_via_stability=true",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_delta=0.05",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_thresh=0.98",
)


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("config", ALL)
def test_names_and_shapes_are_those_of_their_modules(config: str) -> None:
    with torch.device("meta"):
        ours = build_from_config(load_config(config).model).state_dict()
        video = Sam2VideoModel(Sam2VideoConfig(**transformers_config(config)))
        image = Sam2Model(Sam2Config(**transformers_config(config, video=False)))
    converted = shapes(to_transformers(ours))
    assert converted == shapes(video.state_dict())
    expected = shapes(image.state_dict())
    assert {name: shape for name, shape in converted.items() if name in expected} == expected


@pytest.mark.parametrize("video", [True, False], ids=["video", "images"])
def test_what_they_leave_out_is_as_in_our_tiny(video: bool) -> None:
    """The defaults of transformers' configurations are those by which a config.json is completed."""
    defaults = (Sam2VideoConfig if video else Sam2Config)().to_dict()
    defaults.pop("architectures")

    def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
        for name, value in ours.items():
            if isinstance(value, dict):
                compare(value, theirs[name])
            elif name != "architectures":
                assert theirs[name] == value, name

    compare(transformers_config("sam2.1_hiera_t", video=video), defaults)


@pytest.fixture(params=ALL)
def ours(request: pytest.FixtureRequest) -> Iterator[tuple[str, SAM2VideoPredictor]]:
    predictor = build_sam2_video_predictor(
        request.param, None, device="cpu", hydra_overrides_extra=OVERRIDES, apply_postprocessing=False
    )
    yield request.param, tame_weights.fill(predictor, 0)
    gc.collect()


def test_every_model(ours: tuple[str, SAM2VideoPredictor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling_sam2_video, "torch", Float32Memory())
    config, predictor = ours
    folder = tmp_path / "converted"
    weights = predictor.state_dict()
    write_transformers(weights, transformers_config(config, OVERRIDES[:1]), folder)

    theirs = load(Sam2Model, folder)
    assert_as_ours(masks_of_image(theirs), our_masks_of_image(predictor))
    theirs = load(Sam2VideoModel, folder)
    assert_as_ours(masks_of_video(theirs), our_masks_of_video(predictor))

    again = tmp_path / "again"
    theirs.save_pretrained(again)
    del theirs
    model = build_sam2_hf(again, device="cpu")
    assert model.image_size == SIZE
    state = model.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[name], weights[name]) for name in weights)


def load(cls: type[PreTrainedModel], folder: Path) -> Any:
    model, info = cls.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info  # missing, unexpected, of another shape, errors
    return model.eval()


def assert_as_ours(theirs: Tensor, ours: Tensor) -> None:
    assert 0.02 < (ours > 0).float().mean() < 0.98  # nothing else is a mask
    error = relative_error(theirs, ours)
    assert error <= TOLERANCE, f"logits differ by {error:.1e}"


def clip() -> list[np.ndarray]:
    """A disc that moves over a smooth random image, as ``(S, S, 3)`` uint8."""
    coarse = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    y, x = np.mgrid[:SIZE, :SIZE]
    frames = [image.copy() for _ in range(FRAMES)]
    for t, frame in enumerate(frames):
        frame[np.hypot(x - POINT[0] - 6 * t, y - POINT[1] + 4 * t) < 40] = (220, 60, 40)
    return frames


def pixels(frames: list[np.ndarray]) -> Tensor:
    """``(T, 3, S, S)``, the input of transformers' models."""
    normalised = ((np.stack(frames) / 255 - MEAN) / STD).astype(np.float32)
    return torch.from_numpy(normalised).permute(0, 3, 1, 2).contiguous()


def our_masks_of_image(predictor: SAM2VideoPredictor) -> Tensor:
    """Logits ``(3, S/4, S/4)`` of the three masks for a point."""
    decoded: list[Tensor] = []
    hook = predictor.sam_mask_decoder.register_forward_hook(lambda module, args, result: decoded.append(result[0][0]))
    image = SAM2ImagePredictor(predictor)
    image.set_image(clip()[0])
    image.predict(point_coords=[POINT], point_labels=[1])
    hook.remove()
    return decoded[0]


@torch.inference_mode()
def masks_of_image(model: Sam2Model) -> Tensor:
    points = torch.tensor(POINT, dtype=torch.float32).view(1, 1, 1, 2)
    out = model(pixel_values=pixels(clip()[:1]), input_points=points, input_labels=torch.ones(1, 1, 1).int())
    return out.pred_masks[0, 0]


def our_masks_of_video(predictor: SAM2VideoPredictor) -> Tensor:
    """Logits ``(T, S, S)`` of a disc that is clicked in the first frame."""
    state = predictor.init_state(clip())
    predictor.add_new_points_or_box(state, 0, 1, points=[POINT], labels=[1])
    return torch.cat([logits[0] for _, _, logits in predictor.propagate_in_video(state, progress=False)])


@torch.inference_mode()
def masks_of_video(model: Sam2VideoModel) -> Tensor:
    session = Sam2VideoInferenceSession(pixels(clip()), video_height=SIZE, video_width=SIZE, dtype=torch.float32)
    points = {"point_coords": torch.tensor([[[POINT]]], dtype=torch.float32), "point_labels": torch.ones(1, 1, 1).int()}
    session.add_point_inputs(session.obj_id_to_idx(1), 0, points)
    session.obj_with_new_inputs = [1]
    model(session, frame_idx=0)
    masks = torch.cat([out.pred_masks for out in model.propagate_in_video_iterator(session)])
    return F.interpolate(masks, (SIZE, SIZE), mode="bilinear", align_corners=False)[:, 0]
