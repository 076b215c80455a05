"""SAM 2's relatives and their published code: video predictors of both with the same drawn weights, in fp32 on the CPU.

Each of the packages has the name ``sam2``, so that an environment has one of them: the official one, EdgeTAM's
(``edgetam-dimos``) or EfficientTAM's (``efficient-track-anything``). Where their code departs from what is compared,
and what is made of it here:

- Building EdgeTAM downloads weights of the trunk; here it builds the trunk without.
- EdgeTAM's rotations of the cross-attention are for 1024 pixels, whatever the image; at another size they get its grid.
- EdgeTAM's ``forward_2d`` of its perceiver fails for several objects; it gets one object after the other.
- EfficientTAM's package has no configurations; it is built from ours, under its names.
- It has no ``add_new_points_or_box``, which ``add_new_points`` becomes; a box is its corners.
- All store memories as bfloat16; they are made to store fp32.
"""

import importlib
from importlib.util import find_spec
from typing import Any

import importable_torchvision  # noqa: F401  (before torchvision)
import numpy as np
import pytest
import tame_weights
import torch
import torchvision
from float32_memory import Float32Memory
from hydra.utils import instantiate
from omegaconf import OmegaConf

from sam2fast._official_names import MODULES
from sam2fast.build_sam import VIDEO_POSTPROCESSING, build_sam2_video_predictor
from sam2fast.config import load_config

torchvision.extension._has_ops = lambda: True
torchvision.ops.boxes._assert_has_ops = lambda: None

EDGETAM = "configs/edgetam/edgetam.yaml"
TINY, MEDSAM2 = "configs/sam2.1/sam2.1_hiera_t.yaml", "configs/medsam2/sam2.1_hiera_t512.yaml"
THEIRS = {ours: theirs for theirs, ours in MODULES.items()} | {
    "sam2fast.modeling.vit": "sam2.modeling.backbones.vitdet",
    "sam2fast.modeling.attention": "sam2.modeling.sam.transformer",
}
Pair = tuple[Any, Any]  # ours, and theirs


def package() -> str:
    """Whose package is named ``sam2`` here: "edgetam", "efficienttam" or "official"."""
    found = {"edgetam": "sam2.modeling.perceiver", "efficienttam": "sam2.modeling.backbones.vitdet"}
    return next((name for name, module in found.items() if find_spec(module)), "official")


def grids(size: int, *kinds: str) -> list[str]:
    """Overrides for the rotations of memory attention's ``kinds`` and images of a size."""
    side = size // 16
    sides = [f"++model.memory_attention.layer.{kind}_attention.feat_sizes=[{side},{side}]" for kind in kinds]
    return [f"++model.image_size={size}", *sides]


def edgetam(size: int) -> Pair:
    import timm
    from sam2.build_sam import build_sam2_video_predictor as build_theirs
    from sam2.modeling.backbones import timm as backbones

    side = size // 16
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "create_model", lambda name, pretrained, **kw: timm.create_model(name, **kw))
        cross = f"++model.memory_attention.layer.cross_attention.q_sizes=[{side},{side}]"
        theirs = build_theirs("configs/edgetam.yaml", None, "cpu", hydra_overrides_extra=[*grids(size), cross])
    ours = build_sam2_video_predictor(EDGETAM, device="cpu", hydra_overrides_extra=grids(size))
    return same_weights(ours, theirs)


def efficienttam(name: str, size: int, seed: int = 0) -> Pair:
    overrides = grids(size, "self", "cross")
    ours = build_sam2_video_predictor(name, device="cpu", hydra_overrides_extra=overrides)
    predictor = "++model._target_=sam2fast.sam2_video_predictor.SAM2VideoPredictor"
    text = OmegaConf.to_yaml(load_config(name, [predictor, *overrides, *VIDEO_POSTPROCESSING]))
    for module, official in THEIRS.items():
        text = text.replace(f"_target_: {module}.", f"_target_: {official}.")
    assert "sam2fast" not in text
    return same_weights(ours, instantiate(OmegaConf.create(text).model).eval(), seed)


def hiera(config: str, size: int) -> Pair:
    """SAM 2.1 tiny, or MedSAM2, beside the official package."""
    import sam2.build_sam

    overrides = grids(size, *(() if size == 1024 else ("self", "cross")))
    theirs = sam2.build_sam.build_sam2_video_predictor(TINY, None, "cpu", hydra_overrides_extra=overrides)
    return same_weights(build_sam2_video_predictor(config, device="cpu", hydra_overrides_extra=overrides), theirs)


def same_weights(ours: Any, theirs: Any, seed: int = 0) -> Pair:
    ours.load_state_dict(tame_weights.fill(theirs, seed).state_dict(), strict=True)
    return ours, theirs


def repair(patch: pytest.MonkeyPatch) -> None:
    """Makes what is published compute what is compared."""
    predictors = importlib.import_module("sam2.sam2_video_predictor")
    patch.setattr(predictors, "torch", Float32Memory())
    if package() == "edgetam":
        resampler = importlib.import_module("sam2.modeling.perceiver").PerceiverResampler
        patch.setattr(resampler, "forward_2d", _each_object(resampler.forward_2d))
    if package() == "efficienttam":
        patch.setattr(predictors.SAM2VideoPredictor, "add_new_points_or_box", _add_new_points_or_box, raising=False)


def _each_object(forward_2d: Any) -> Any:
    def each_object(self: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts = [forward_2d(self, one) for one in x.split(1)]
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    return each_object


def _add_new_points_or_box(
    self: Any, state: Any, frame: int, obj: int, points: Any = None, labels: Any = None, box: Any = None
) -> Any:
    corners = None if box is None else (box.reshape(2, 2), np.array([2, 3], np.int32))
    return self.add_new_points(state, frame, obj, *(corners or (points, labels)))


def image_predictor(theirs: Any) -> Any:
    """Their image predictor, told the sizes of its features."""
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    predictor, side = SAM2ImagePredictor(theirs), theirs.image_size // 16
    predictor._bb_feat_sizes = [(scale * side, scale * side) for scale in (4, 2, 1)]
    return predictor
