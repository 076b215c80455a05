"""SAM 3's tracker: names in every layout, and where its weights come from. tests/transformers compares its results."""

import hashlib
import json
from pathlib import Path

import pytest
import tame_weights
import torch
from commands import invoke
from safetensors.torch import save_file
from torch import nn

from sam2fast import SAM2VideoPredictor
from sam2fast._official_names import SAM3_NAMES
from sam2fast.build_sam import build_sam2, build_sam2_hf, build_sam2_video_predictor
from sam2fast.checkpoints import CheckpointError, NoConfigError, choose_config, read_checkpoint
from sam2fast.checkpoints.choosing import guess_config
from sam2fast.checkpoints.sam3_files import tracker_of
from sam2fast.checkpoints.transformers_config import transformers_config
from sam2fast.checkpoints.transformers_layout import to_transformers
from sam2fast.config import build_from_config, load_config
from sam2fast.downloads import DownloadError
from sam2fast.modeling.image_encoder import ScaledNeck
from sam2fast.modeling.position_encoding import WindowRotations
from sam2fast.modeling.vit import RoPEViT
from sam2fast.utils.testing import relative_error

SMALL = Path(__file__).parents[1] / "support" / "sam3_small.yaml"
CONFIG = "configs/sam3/sam3.yaml"
# Beginnings of the names of detector and tracker in Meta's file: those that transformers' conversion knows, and others.
PREFIXES = [("sam3_model.", "sam2_predictor.model."), ("detector.", "tracker.")]


@pytest.fixture(scope="module")
def weights():
    """Of the small model."""
    return tame_weights.built(build_sam2, SMALL, device="cpu").state_dict()


@pytest.fixture(scope="module")
def published():
    """Names and shapes of the published model."""
    with torch.device("meta"):
        return build_from_config(load_config(CONFIG).model).state_dict()


def as_meta_names_it(weights, detector, tracker):
    """Weights as in Meta's file, with a class token, stored rotations, and some of the detector."""
    vision, out = f"{detector}backbone.vision_backbone", {}
    for name, x in weights.items():
        if name == "image_encoder.trunk.pos_embed":
            x = torch.cat([torch.ones_like(x[:, :1]), x], dim=1)
        for ours, theirs in (
            ("image_encoder.trunk.", f"{vision}.trunk."),
            ("image_encoder.neck.convs.", f"{vision}.sam2_convs."),
            ("memory_attention.", f"{tracker}transformer.encoder."),
            ("memory_encoder.", f"{tracker}maskmem_backbone."),
            ("", tracker),
        ):
            if name.startswith(ours):
                name = theirs + name.removeprefix(ours)
                break
        layer, there = ("fc", "trunk.blocks") if ".trunk." in name else ("lin", "transformer.layers")
        for i in range(2) if there in name else ():
            name = name.replace(f".mlp.layers.{i}.", f".mlp.{layer}{i + 1}.")
        out[name] = x
    others = "trunk.blocks.0.attn.freqs_cis", "convs.0.conv_1x1.weight"
    out |= {f"{vision}.{name}": torch.zeros(1) for name in others}
    return out | {f"{detector}transformer.encoder.layers.0.linear1.weight": torch.zeros(1)}


def as_transformers_names_it(weights):
    """Weights as in ``Sam3VideoModel``, with some of the detector."""
    out = {}
    for name, x in to_transformers(weights).items():
        if name.startswith("vision_encoder.backbone."):
            name = f"detector_model.{name}"
        elif name.startswith("vision_encoder.neck."):
            name = name.replace("vision_encoder.neck.", "tracker_neck.")
        else:
            name = f"tracker_model.{name}"
        out[name] = x
    others = "detector_model.vision_encoder.neck.fpn_layers.0.proj1.weight", "detector_model.detr_encoder.a.weight"
    return out | {name: torch.zeros(1) for name in others}


def assert_same(found, weights):
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], x) for name, x in weights.items())


def test_names_and_shapes_are_the_published_ones(published):
    """All 845 of transformers."""
    lines = sorted(f"{name} {list(x.shape)}" for name, x in to_transformers(published).items())
    assert len(lines) == 845
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "e1febe1e29eade57322e19b5c7ba0509a4c91272caa03f208f3affc63598c178"


@pytest.mark.parametrize("prefixes", [None, *PREFIXES])
def test_every_name_is_found_in_files_of_the_whole(published, prefixes):
    theirs = as_transformers_names_it(published) if prefixes is None else as_meta_names_it(published, *prefixes)
    expected = to_transformers(published) if prefixes is None else published
    assert {name: x.shape for name, x in tracker_of(theirs).items()} == {name: x.shape for name, x in expected.items()}
    assert guess_config(published) == CONFIG


@pytest.mark.parametrize("prefixes", [None, *PREFIXES])
def test_only_the_trackers_weights_are_read(weights, prefixes, tmp_path, caplog):
    whole = as_transformers_names_it(weights) if prefixes is None else as_meta_names_it(weights, *prefixes)
    torch.save({"model": whole}, tmp_path / "sam3.pt")
    with caplog.at_level("INFO"):
        assert_same(read_checkpoint(tmp_path / "sam3.pt"), weights)
    assert f"left out {2 if prefixes is None else 3} weights of SAM 3's detector" in caplog.text
    model = SAM2VideoPredictor.from_pretrained(tmp_path / "sam3.pt", config_file=SMALL, device="cpu")
    assert_same(model.state_dict(), weights)


@pytest.mark.parametrize("prefixes", [None, PREFIXES[0]])
def test_a_file_of_the_whole_below_a_prefix(weights, prefixes, tmp_path):
    """Its tracker may share the detector's image encoder, whose weights are there twice then."""
    whole = as_transformers_names_it(weights) if prefixes is None else as_meta_names_it(weights, *prefixes)
    if prefixes is not None:
        detector, tracker = (f"{prefix}backbone." for prefix in prefixes)
        whole |= {name.replace(detector, tracker): x for name, x in whole.items() if name.startswith(detector)}
    torch.save({f"module.{name}": x for name, x in whole.items()}, tmp_path / "sam3.pt")
    assert_same(read_checkpoint(tmp_path / "sam3.pt"), weights)


def test_a_tracker_with_an_image_encoder_of_its_own(weights, tmp_path):
    """And with the detector's neck."""
    alone = as_meta_names_it(weights, "", "")
    name = "layers.0.linear1.weight"  # which the detector has, too
    alone[f"transformer.encoder.{name}"] = weights[f"memory_attention.{name}"]
    torch.save(alone, tmp_path / "sam3.pt")
    assert_same(read_checkpoint(tmp_path / "sam3.pt"), weights)


def test_a_weight_that_is_there_twice(weights, tmp_path):
    whole = as_meta_names_it(weights, *PREFIXES[0])
    name = "backbone.vision_backbone.trunk.ln_pre.bias"
    torch.save(whole | {f"other.{name}": torch.zeros(64)}, tmp_path / "sam3.pt")
    with pytest.raises(CheckpointError, match=rf"sam3.pt: .*ln_pre.bias occurs twice, .* as other.{name}; remove"):
        read_checkpoint(tmp_path / "sam3.pt")


def test_a_missing_position_table_is_refused(weights, tmp_path):
    name = "image_encoder.trunk.pos_embed"
    others = {other: x for other, x in weights.items() if other != name}
    torch.save(as_meta_names_it(others, *PREFIXES[0]), tmp_path / "sam3.pt")
    with pytest.raises(CheckpointError, match=f"1 missing: {name}"):
        build_sam2(SMALL, tmp_path / "sam3.pt", device="cpu")


def test_a_folder_of_transformers(weights, tmp_path):
    save_file(as_transformers_names_it(weights), tmp_path / "model.safetensors")
    config = {"model_type": "sam3_video", "tracker_config": transformers_config(SMALL)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_same(build_sam2_hf(tmp_path, config_file=SMALL, device="cpu").state_dict(), weights)
    with pytest.raises(NoConfigError, match="name its configuration"):
        choose_config(tmp_path)


@pytest.mark.parametrize("name", SAM3_NAMES)
def test_names_without_a_path_say_how_to_get_the_weights(name, tmp_path):
    message = "ask Meta for access at https://huggingface.co/facebook/sam3, accept the SAM License"
    with pytest.raises(DownloadError, match=message):
        SAM2VideoPredictor.from_pretrained(name, device="cpu")
    for options in ((), ("--to", tmp_path)):
        done = invoke("download", name, *options)
        assert done.exit_code == 1 and message in done.stderr


def test_holes_are_not_filled():
    assert build_sam2_video_predictor(SMALL, device="cpu").fill_hole_area == 0
    assert build_sam2_video_predictor("configs/nano/sam2fast_nano.yaml", device="cpu").fill_hole_area == 8


def test_layers_of_the_trunk_for_learning_rates():
    trunk = build_sam2(SMALL, device="cpu").image_encoder.trunk
    layers = {name: trunk.get_layer_id(name) for name, _ in trunk.named_parameters()}
    assert {name.partition(".")[0] for name in layers if layers[name] == 0} == {"pos_embed", "patch_embed", "ln_pre"}
    assert set(layers.values()) == {0, 1, 2, 3, 4}


def test_scales_of_the_neck():
    with pytest.raises(ValueError, match="among 4, 2, 1 and 0.5, got 8"):
        ScaledNeck(nn.Identity(), 8, [16], (8, 4))


@torch.no_grad()
def test_positions_are_tiled():
    """A map of 5 x 5 repeats those of 3 x 3."""
    trunk = RoPEViT(patch_size=2, embed_dim=8, depth=1, num_heads=1, window_size=3, pretrained_size=3)
    rows = torch.arange(9.0)[None, :, None].expand(1, 9, 8)
    trunk.pos_embed.copy_(rows)
    expected = torch.tensor([[0, 1, 2, 0, 1], [3, 4, 5, 3, 4], [6, 7, 8, 6, 7], [0, 1, 2, 0, 1], [3, 4, 5, 3, 4]])
    assert torch.equal(trunk._get_pos_embed((5, 5))[0, :, :, 0], expected.float())


def test_positions_of_maps_are_scaled_to_a_window():
    """Of a map of 8 x 8, every second position is one of a window of 4 x 4."""
    rotations, cpu = WindowRotations(8, 4, 10000.0), torch.device("cpu")
    (cos, sin), (wide_cos, wide_sin) = rotations(4, cpu), rotations(8, cpu)
    assert cos.shape == (16, 4) and wide_cos.shape == (64, 4)
    even = torch.arange(64).view(8, 8)[::2, ::2].flatten()
    assert relative_error(cos, wide_cos[even]) < 1e-6 and relative_error(sin, wide_sin[even]) < 1e-6


# ---- commands ----


def test_converted_files_are_under_the_licence_of_the_weights(weights, tmp_path):
    torch.save({"model": as_meta_names_it(weights, *PREFIXES[0])}, tmp_path / "sam3.pt")
    for out in ("out.safetensors", "folder"):
        done = invoke("convert", tmp_path / "sam3.pt", tmp_path / out, "--model", SMALL)
        assert done.exit_code == 0 and "these weights are under the SAM License, and so is" in done.stderr
        assert_same(read_checkpoint(tmp_path / out), weights)
        assert "left out 3 weights of SAM 3's detector\n" in done.stdout
    done = invoke("convert", tmp_path / "sam3.pt", tmp_path / "out.safetensors", "--model", SMALL, "--jsonl")
    assert json.loads(done.stdout)["left_out"] == {"detector_weights": 3}
