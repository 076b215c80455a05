"""MedSAM2: SAM 2.1 tiny at 512 pixels, beside the official package at this size; names, choice and a training step."""

import hashlib
import json

import numpy as np
import oracle  # noqa: F401  (makes the official package importable)
import pytest
import sam2.build_sam
import tame_weights
import torch
from parity import NothingDrawn, official_image_predictor, random_image
from video import Session, clip, compare, jpeg_folder, run, run_official

from sam2fast import SAM2ImagePredictor
from sam2fast._official_names import MEDSAM2
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.checkpoints import choose_config
from sam2fast.checkpoints.transformers_config import transformers_config
from sam2fast.checkpoints.writing import write_transformers
from sam2fast.downloads.catalog import published, simplest_name
from sam2fast.utils.testing import relative_error

CONFIG = "configs/medsam2/sam2.1_hiera_t512.yaml"
TINY = "configs/sam2.1/sam2.1_hiera_t.yaml"
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def pair():
    """The official SAM 2.1 tiny at 512 pixels and MedSAM2 with identical weights."""
    attentions = [f"++model.memory_attention.layer.{name}_attention.feat_sizes=[32,32]" for name in ("self", "cross")]
    with NothingDrawn():
        official = sam2.build_sam.build_sam2_video_predictor(
            TINY, None, device="cpu", hydra_overrides_extra=["++model.image_size=512", *attentions]
        )
        ours = build_sam2_video_predictor(CONFIG, None, device="cpu")
    tame_weights.fill(official, 0)
    ours.load_state_dict(official.state_dict(), strict=True)
    return official, ours


def test_names_and_shapes_are_the_published_ones(pair):
    lines = sorted(f"{name} {list(x.shape)}" for name, x in pair[1].state_dict().items())
    assert len(lines) == 471 and sum(p.numel() for p in pair[1].parameters()) == 38_962_498
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "aa97d3d723e3d9a274fafe9acc485268e11cfbd8f8906f147bd0966ea5a67ec9"


@pytest.fixture(scope="module")
def predictors(pair):
    """Both with one image."""
    official, ours = official_image_predictor(pair[0]), SAM2ImagePredictor(pair[1])
    for predictor in (official, ours):
        predictor.set_image(random_image())
    return official, ours


@pytest.mark.parametrize(
    "prompt",
    [
        {"point_coords": np.array([[310.0, 240.0], [90.0, 500.0]]), "point_labels": np.array([1, 0])},
        {"box": np.array([120.0, 80.0, 560.0, 420.0]), "multimask_output": False},
        {"mask_input": np.random.default_rng(2).standard_normal((1, 128, 128)).astype(np.float32)},
    ],
    ids=["points", "box", "mask"],
)
def test_images(predictors, prompt):
    official, ours = predictors
    assert relative_error(official._features["image_embed"], ours._features["image_embed"]) <= TOLERANCE
    answers = (predictor.predict(**prompt, return_logits=True) for predictor in predictors)
    assert all(relative_error(a, b) <= TOLERANCE for a, b in zip(*answers, strict=True))


def box_on_a_slice(s: Session) -> None:
    s.points(1, 1, box=[20, 20, 70, 60])
    s.points(1, 2, (60, 40, 1))
    s.propagate(start_frame_idx=1)
    s.propagate(start_frame_idx=1, reverse=True)


def test_a_volume_as_a_folder_of_slices(pair, tmp_path):
    official, ours = pair
    slices = jpeg_folder(tmp_path / "slices", clip(4))
    compare(run_official(official, slices, box_on_a_slice, check_itself=False), run(ours, slices, box_on_a_slice))


def test_names():
    assert simplest_name(published("wanglab/MedSAM2")) == "medsam2"
    for name in ("medsam2", "MedSAM2_latest", "MedSAM2_latest.pt", "sam2.1_hiera_t512", CONFIG):
        assert published(name).release.checkpoint == "MedSAM2_latest.pt"
    assert published("MedSAM2_CTLesion").release.url.endswith("/wanglab/MedSAM2/resolve/main/MedSAM2_CTLesion.pt")
    assert all("not a medical device" in release.licence for release in MEDSAM2.values())
    for size, variant in (("small", "s"), ("tiny", "ti")):
        small = published(f"eff_medsam2_{size}_FLARE25_RECIST_baseline").release
        assert small.config == f"configs/efficienttam/efficienttam_{variant}_512x512.yaml"


def test_the_files_name_chooses(pair, tmp_path):
    """The weights of SAM 2.1 tiny have the same names and shapes."""
    file = tmp_path / "first.pt"
    torch.save({"model": pair[1].state_dict()}, file)
    for name, config in (("MedSAM2_2411", CONFIG), ("medsam2_FLARE25_RECIST_baseline", CONFIG), ("renamed", TINY)):
        file = file.rename(tmp_path / f"{name}.pt")
        assert choose_config(file) == (config, ())


def test_the_image_size_of_transformers_chooses(pair, tmp_path):
    folder = tmp_path / "converted"
    write_transformers(pair[1].state_dict(), transformers_config(CONFIG), folder)
    assert choose_config(folder) == (CONFIG, ())
    (folder / "config.json").write_text(json.dumps(transformers_config(TINY)))
    assert choose_config(folder) == (TINY, ())
