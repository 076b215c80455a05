"""EfficientTAM: what it computes itself; beside its published code it is compared in tests/family."""

import copy
import hashlib

import pytest
import tame_weights
import torch

from sam2fast.build_sam import build_sam2, build_sam2_video_predictor
from sam2fast.checkpoints import choose_config
from sam2fast.config import build_from_config, load_config, official_to_ours
from sam2fast.downloads.catalog import published, simplest_name
from sam2fast.modeling.vit import ViT
from sam2fast.research import attention_maps
from sam2fast.tracking.strategies import STRATEGIES

SIZE = 256
TOLERANCE = 1e-4
OVERRIDES = [f"++model.image_size={SIZE}"]
NAMES = [name + suffix for name in ("s", "ti") for suffix in ("", "_512x512", "_1", "_2")]


def config_of(name):
    return f"configs/efficienttam/efficienttam_{name}.yaml"


@pytest.fixture(scope="module", params=["ti", "ti_1", "ti_2"])
def model(request):
    given = {"device": "cpu", "hydra_overrides_extra": OVERRIDES}
    return tame_weights.built(build_sam2_video_predictor, config_of(request.param), **given)


@pytest.fixture
def predictor(model):
    return copy.deepcopy(model)


@pytest.fixture
def is_pooled(model):
    return model.memory_attention.layers[0].cross_attn_image.pooling is not None


@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_are_the_published_ones(name):
    with torch.device("meta"):
        model = build_from_config(load_config(config_of(name)).model)
    lines = sorted(f"{name} {list(x.shape)}" for name, x in model.state_dict().items())
    digest, parameters = {
        "s": ("b7ce1ad21f3dd52d733609f3963a621bad86e657785c03fd39810c655a8dd74a", 34_055_842),
        "ti": ("8c7c0bf63ce6b5abdd8529c05b7642da962ee1e274c58a1dc509a5d172db967a", 17_866_018),
    }[name.partition("_")[0]]
    assert len(lines) == 455 and sum(p.numel() for p in model.parameters()) == parameters
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == digest
    assert model.image_size == (512 if "512" in name else 1024)


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    model = published(f"efficienttam_{name}")
    assert simplest_name(model) == f"efficienttam_{name}" and model.release.config == config_of(name)
    assert model.release.url.endswith(f"yunyangx/efficient-track-anything/resolve/main/efficienttam_{name}.pt")


def test_the_files_name_chooses(tmp_path, caplog):
    """All variants have the same names and shapes."""
    trunk = {f"image_encoder.trunk.{name}": x for name, x in ViT(embed_dim=192, num_heads=3).state_dict().items()}
    neck = {"image_encoder.neck.convs.0.conv_1x1.weight": torch.zeros(256, 192, 1, 1)}
    weights = build_sam2(config_of("ti"), device="cpu").state_dict()
    assert not {*trunk, *neck} - weights.keys()
    path, chosen = tmp_path / "first.pt", {}
    torch.save({"model": weights}, path)
    with caplog.at_level("INFO"):
        for file in (
            *("efficienttam_ti", "efficienttam_ti_1", "efficienttam_ti_512x512", "efficienttam_s_1", "renamed"),
            "eff_medsam2_tiny_FLARE25_RECIST_baseline",
        ):
            path = path.rename(tmp_path / f"{file}.pt")
            chosen[file] = choose_config(path).config
    assert chosen == {
        "eff_medsam2_tiny_FLARE25_RECIST_baseline": config_of("ti_512x512"),
        "efficienttam_ti": config_of("ti"),
        "efficienttam_ti_1": config_of("ti_1"),
        "efficienttam_ti_512x512": config_of("ti_512x512"),
        "efficienttam_s_1": config_of("ti"),
        "renamed": config_of("ti"),
    }
    assert caplog.text.count("by the file name") == len(chosen)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("efficient_track_anything.modeling.efficienttam_base.EfficientTAMBase", "sam2_base.SAM2Base"),
        ("efficient_track_anything.modeling.backbones.vitdet.ViT", "vit.ViT"),
        ("efficient_track_anything.modeling.backbones.image_encoder.ViTDetNeck", "image_encoder.ViTDetNeck"),
        (
            "efficient_track_anything.modeling.sam.transformer.EfficientRoPEAttention2",
            "attention.EfficientRoPEAttention2",
        ),
    ],
)
def test_their_configurations_are_read(theirs, ours):
    assert official_to_ours(theirs) == f"sam2fast.modeling.{ours}"


def test_trunks_that_are_not_available():
    with pytest.raises(ValueError, match="qkv_bias=true and use_rel_pos=false"):
        ViT(use_rel_pos=True)


def test_samurai_takes_it_for_no_large_model(model):
    assert STRATEGIES["samurai"]().for_model(model).weight == 0.25


def test_what_means_exclude(predictor, is_pooled):
    if is_pooled:
        with pytest.raises(ValueError, match="this model attends to means of tokens"), attention_maps(predictor):
            pass
