"""A user's own trunk, in images and videos: as the official package computes it, without a change of either package."""

import copy

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from own_trunk import ConvTrunk
from parity import official_image_predictor, random_image
from planned import parts_of, without
from small_training import build, reports
from video import NARROW, SMALL, build_video_pair, clip, compare, jpeg_folder, run, run_official

from sam2fast import nano
from sam2fast.build_sam import build_sam2
from sam2fast.checkpoints import NoConfigError
from sam2fast.config import ConfigError, load_config
from sam2fast.deploy.compilation import compile_model
from sam2fast.deploy.exported import load_predictor, write_artifact
from sam2fast.modeling.image_encoder import FpnNeck, ImageEncoder
from sam2fast.research import stage_features
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.utils.testing import relative_error

WIDTHS = [16, 24, 32, 48]
CONFIG = "configs/sam2.1/sam2.1_hiera_t.yaml"
TRUNK = (
    "~model.image_encoder.trunk",
    f"+model.image_encoder.trunk={{_target_: own_trunk.ConvTrunk, widths: {WIDTHS}}}",
    f"model.image_encoder.neck.backbone_channel_list={WIDTHS[::-1]}",
)
# All but the trunk's, which is not there.
OTHERS = [override for override in NARROW if not override.startswith("++model.image_encoder")]
OVERRIDES = [f"++model.image_size={SMALL}", *OTHERS, *TRUNK]
IMAGES = [random_image(90, 120), random_image(80, 60, seed=1)]
CLICK = {"point_coords": np.array([[50, 40]]), "point_labels": np.array([1])}


def mask_of(predictor):
    """Logits of one image."""
    predictor.set_image(IMAGES[0])
    return torch.from_numpy(predictor.predict(**CLICK, return_logits=True)[0])


def masks_of(predictor):
    """Logits of one image, and of a batch of two."""
    found = mask_of(predictor)
    predictor.set_image_batch(IMAGES)
    batch = {f"{name}_batch": [value] * 2 for name, value in CLICK.items()}
    return [found, *map(torch.from_numpy, predictor.predict_batch(**batch, return_logits=True)[0])]


def assert_near(expected, found, tolerance=1e-4):
    assert max(relative_error(a, b) for a, b in zip(expected, found, strict=True)) <= tolerance


@pytest.fixture(scope="module")
def pair():
    return build_video_pair(overrides=[*OTHERS, *TRUNK], image_size=SMALL, allow_targets=["own_trunk"])


@pytest.fixture
def model(pair):
    return copy.deepcopy(pair[1])


@torch.no_grad()
def test_images_are_those_of_the_official_package(pair):
    official, ours = masks_of(official_image_predictor(pair[0])), masks_of(SAM2ImagePredictor(pair[1]))
    assert_near(official, ours)


def two_objects(session):
    session.points(0, 1, (60, 40, 1))
    session.points(1, 2, box=[20, 20, 70, 60])
    session.propagate()


def test_videos_are_those_of_the_official_package(pair, tmp_path):
    folder = jpeg_folder(tmp_path / "video", clip(5))
    compare(run_official(pair[0], folder, two_objects), run(pair[1], folder, two_objects))
    assert parts_of(pair[1]) == without("image")


@torch.no_grad()
def test_an_encoder_that_is_constructed(model):
    """In the place of a built model's, as one that is configured."""
    other, trunk = build_sam2(CONFIG, None, "cpu", hydra_overrides_extra=OVERRIDES[:1] + OTHERS), ConvTrunk(WIDTHS)
    position = other.image_encoder.neck.position_encoding
    neck = FpnNeck(position, 256, trunk.channel_list, fpn_interp_model="nearest", fpn_top_down_levels=[2, 3])
    other.image_encoder = ImageEncoder(trunk, neck, scalp=1).eval()
    other.load_state_dict(model.state_dict())
    assert_near(*(masks_of(SAM2ImagePredictor(each)) for each in (model, other)), tolerance=1e-5)


def test_a_trunk_of_other_channels_than_the_neck_is_refused(model):
    with pytest.raises(ValueError, match="backbone_channel_list"):
        ImageEncoder(ConvTrunk(WIDTHS[:3]), model.image_encoder.neck)


BUILT = {"config_file": CONFIG, "device": "cpu", "hydra_overrides_extra": OVERRIDES}


@pytest.fixture(scope="module")
def checkpoint(pair, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mine.pt"
    torch.save({"model": pair[1].state_dict()}, path)
    return path


def assert_same_weights(a, b):
    assert a.state_dict().keys() == b.state_dict().keys()
    assert all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


def test_checkpoints(pair, checkpoint):
    video = SAM2VideoPredictor.from_pretrained(checkpoint, **BUILT, allow_targets=["own_trunk"])
    images = SAM2ImagePredictor.from_pretrained(checkpoint, **BUILT, allow_targets=["own_trunk.ConvTrunk"])
    assert_same_weights(pair[1], video)
    assert_same_weights(pair[1], images.model)
    names = [name for name in video.state_dict() if name.startswith("image_encoder.trunk.")]
    assert names == [f"image_encoder.trunk.{name}" for name in ConvTrunk(WIDTHS).state_dict()]


def test_a_checkpoint_does_not_say_which_class_its_trunk_has(checkpoint):
    with pytest.raises(NoConfigError, match="name its configuration"):
        SAM2VideoPredictor.from_pretrained(checkpoint, device="cpu")
    with pytest.raises(ConfigError, match="allow_targets"):
        SAM2VideoPredictor.from_pretrained(checkpoint, **BUILT)


def test_the_rest_of_a_published_model(pair, tmp_path):
    """Its own trunk's weights are left out, and so are the neck's, whose channels are others."""
    hiera = build_sam2(CONFIG, None, "cpu", hydra_overrides_extra=OVERRIDES[:1] + OTHERS)
    torch.save({"model": hiera.state_dict()}, tmp_path / "hiera.pt")
    mine = build_sam2(ckpt_path=tmp_path / "hiera.pt", **BUILT, allow_targets=["own_trunk"], partial=True)
    for part in ("sam_mask_decoder", "memory_attention"):
        assert_same_weights(hiera.get_submodule(part), mine.get_submodule(part))


@torch.no_grad()
def test_a_configuration_in_a_file(pair, tmp_path):
    configured = load_config(CONFIG, OVERRIDES)
    OmegaConf.save(configured, tmp_path / "mine.yaml")
    found = build_sam2(tmp_path / "mine.yaml", None, "cpu", allow_targets=["own_trunk"])
    assert found.state_dict().keys() == pair[1].state_dict().keys()


@torch.no_grad()
def test_bfloat16(pair, checkpoint):
    rounded = build_sam2(ckpt_path=checkpoint, **BUILT, allow_targets=["own_trunk"], dtype=torch.bfloat16)
    assert {x.dtype for x in rounded.image_encoder.trunk.stages[0][0].parameters()} == {torch.bfloat16}
    expected, found = (masks_of(SAM2ImagePredictor(model)) for model in (pair[1], rounded))
    assert_near(expected, found, tolerance=0.1)


@torch.no_grad()
def test_compiled(pair, model):
    """The trunk's own forward; other parts from plans."""
    trunk = model.image_encoder.trunk
    compiled = compile_model(model, ["image_encoder"], backend="eager")
    masks = (mask_of(SAM2ImagePredictor(each)) for each in (pair[1], compiled))
    assert relative_error(*masks) < 1e-4
    assert compiled.image_encoder.trunk is trunk and parts_of(compiled) == without("image")


@pytest.mark.slow
def test_an_artefact(pair, tmp_path):
    write_artifact(pair[1], tmp_path / "mine")
    loaded = load_predictor(tmp_path / "mine")
    assert relative_error(mask_of(SAM2ImagePredictor(pair[1])), mask_of(loaded)) < 1e-4


@torch.no_grad()
def test_features_for_research(pair):
    found = stage_features(SAM2ImagePredictor(pair[1]), IMAGES)
    assert [x.shape[:2] for x in found.stages] == [(2, width) for width in WIDTHS]


def test_training(tmp_path):
    """A recipe names the configuration of a model in a file."""
    OmegaConf.save(load_config(nano.CONFIG, TRUNK), tmp_path / "mine.yaml")
    narrow = ["~trainer.model.image_encoder", f"model_config={tmp_path / 'mine.yaml'}"]
    trainer = build(tmp_path, *narrow, targets=["own_trunk"])
    trunk = trainer.model.image_encoder.trunk
    before = copy.deepcopy(trunk)
    trainer.run()
    assert all(row["loss"] < 1e4 for row in reports(tmp_path, "train") if "loss" in row)
    weights = zip(before.named_parameters(), trunk.parameters(), strict=True)
    assert [name for (name, x), y in weights if torch.equal(x, y)] == []


def test_steps_are_not_recorded(model, tmp_path):
    """Where they would be, as on NVIDIA GPUs; `fast` asks for it on the CPU, too."""
    model.fast, folder = True, jpeg_folder(tmp_path / "video", clip(3))
    run(model, folder, two_objects)
    assert "replaced" in model._tracker.steps.why_eager()
