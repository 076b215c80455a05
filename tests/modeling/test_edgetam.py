"""EdgeTAM: what it computes itself; beside its published code it is compared in tests/family."""

import copy
import hashlib

import pytest
import tame_weights
import torch
from parity import random_map

from sam2fast.build_sam import build_sam2, build_sam2_video_predictor
from sam2fast.checkpoints import choose_config
from sam2fast.downloads.catalog import published, simplest_name
from sam2fast.modeling.repvit import RepViT
from sam2fast.utils.testing import relative_error

CONFIG = "configs/edgetam/edgetam.yaml"
SIZE = 256
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model():
    given = {"device": "cpu", "hydra_overrides_extra": [f"++model.image_size={SIZE}"]}
    return tame_weights.built(build_sam2_video_predictor, CONFIG, **given)


@pytest.fixture
def predictor(model):
    return copy.deepcopy(model)


def test_names_and_shapes_are_the_published_ones(model):
    lines = sorted(f"{name} {list(x.shape)}" for name, x in model.state_dict().items())
    assert len(lines) == 982 and sum(p.numel() for p in model.parameters()) == 13_895_794
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "3b8cf72f9c485ac79f28a5dd5978586a0ff40a1a670554dfbdd0a712f1d3f1a6"


def test_names():
    assert simplest_name(published("facebook/EdgeTAM")) == "edgetam"
    for name in ("edgetam", "edgetam.pt", CONFIG):
        assert published(name).release.url.endswith("/facebookresearch/EdgeTAM/raw/main/checkpoints/edgetam.pt")


def test_a_checkpoint_without_counts_of_batches(model, tmp_path):
    weights = {name: x for name, x in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save({"model": weights}, tmp_path / "edgetam.pt")
    assert choose_config(tmp_path / "edgetam.pt").config == CONFIG
    loaded = build_sam2(CONFIG, tmp_path / "edgetam.pt", device="cpu").state_dict()
    assert all(torch.equal(x, loaded[name]) for name, x in model.state_dict().items())


def test_folded_weights_compute_the_same():
    """Also after the weights have changed, and in training, where statistics are not updated."""
    trunk, image = tame_weights.fill(RepViT(), 0), random_map(2, 3, 64, 96)
    for _ in range(2):
        with torch.no_grad():
            folded = trunk(image)
        trunk.train()
        before = copy.deepcopy(trunk.state_dict())
        for a, b in zip(trunk(image), folded, strict=True):
            assert a.requires_grad and relative_error(a.detach(), b) < TOLERANCE
        assert all(torch.equal(x, before[name]) for name, x in trunk.state_dict().items())
        tame_weights.fill(trunk.eval(), 1)


def test_a_hooked_layer_is_called():
    trunk, image, seen = tame_weights.fill(RepViT(), 0), random_map(1, 3, 64, 64), []
    with torch.no_grad():
        folded = trunk(image)
        trunk.body.stages_2.blocks[3].token_mixer.register_forward_hook(lambda *_: seen.append(1))
        assert all(relative_error(a, b) < TOLERANCE for a, b in zip(folded, trunk(image), strict=True))
    assert seen


def test_other_trunks_and_sizes():
    with pytest.raises(ValueError, match="repvit_m3 with the levels layer0, layer1 is"):
        RepViT("repvit_m3", ["layer0", "layer1"])
    with pytest.raises(Exception, match="multiple of 256, such as 512; got 640"):
        build_sam2(CONFIG, device="cpu", hydra_overrides_extra=["++model.image_size=640"])
