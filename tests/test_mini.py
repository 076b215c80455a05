"""mini: its image path from SAM 2 tiny's weights, its files, and its architecture beside the official modules."""

import hashlib
import json
import sys
from unittest import mock

import pytest
import torch
from parity import NothingDrawn, config_name
from tame_weights import fill
from video import build_video_pair, clip, compare, jpeg_folder, run, run_official

from sam2fast import build_sam2, build_sam2_video_predictor, mini
from sam2fast.checkpoints import CheckpointError, guess_config, read_checkpoint
from sam2fast.checkpoints.loading import is_video_only
from sam2fast.mini import derive, split

# Of the official tiny model's configuration, what mini has otherwise.
CHANGED = (
    "++model.image_encoder.scalp=0",
    "++model.image_encoder.trunk.stages=[1,2,7]",
    "++model.image_encoder.trunk.q_pool=2",
    "++model.image_encoder.trunk.window_spec=[8,4,16]",
    "++model.image_encoder.neck.backbone_channel_list=[384,192,96]",
    "++model.image_encoder.neck.fpn_top_down_levels=[]",
    "++model.memory_attention.layer.dim_feedforward=1024",
    "++model.memory_attention.layer.dropout=0.0",
    "++model.memory_attention.layer.self_attention.dropout=0.0",
    "++model.memory_attention.layer.cross_attention.dropout=0.0",
)


@pytest.fixture(scope="module")
def tiny():
    """Tame weights of SAM 2 tiny."""
    with NothingDrawn():
        model = build_sam2(config_name("sam2_t"), None, device="cpu")
    return fill(model, 0).state_dict()


def test_its_image_path_is_tinys_without_the_fourth_stage(tiny, tmp_path):
    """The recipe's first step: the file fits mini, lacks only what video needs, and gives tiny's finer maps."""
    torch.save({"model": tiny}, tmp_path / "tiny.pt")
    files = [str(tmp_path / name) for name in ("tiny.pt", "image.pt")]
    with mock.patch.object(sys, "argv", ["derive", *files]):
        derive.main()
    found = read_checkpoint(files[1])
    small, large = (
        build_sam2(mini.CONFIG, files[1], device="cpu"),
        build_sam2(config_name("sam2_t"), files[0], device="cpu"),
    )
    missing = small.state_dict().keys() - found.keys()
    assert missing and all(is_video_only(name) for name in missing)
    image = torch.randn(1, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours, theirs = (model.image_encoder(image)["backbone_fpn"] for model in (small, large))
    assert [x.shape for x in ours] == [x.shape for x in theirs]
    # Levels of which tiny's neck adds nothing coarser.
    for level in (0, 1):
        torch.testing.assert_close(ours[level], theirs[level], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours[2], theirs[2], atol=0.1)
    with pytest.raises(CheckpointError, match="a trunk of twelve blocks"):
        derive.derive(found)


@pytest.fixture(scope="module")
def trained():
    """Tame weights of mini."""
    with NothingDrawn():
        model = build_sam2(mini.CONFIG, None, device="cpu")
    return fill(model, 0).state_dict()


class TestFiles:
    """Int8 and fp16 files that one index joins."""

    def test_the_packages_own(self):
        index = json.loads(mini.WEIGHTS.read_text())
        for name, digest in index["metadata"]["sha256"].items():
            content = mini.WEIGHTS.with_name(name).read_bytes()
            assert hashlib.sha256(content).hexdigest() == digest and len(content) < 18e6
        weights = read_checkpoint(mini.WEIGHTS)
        assert guess_config(weights) == index["metadata"]["config"] == mini.CONFIG
        assert all(weight.isfinite().all() for weight in weights.values())

    def test_split(self, trained, tmp_path, capsys):
        """Weights come back nearly as they were; another memory leaves the file of the image path as it was."""
        contents = []
        for step in (0.0, 0.25):
            weights = {name: weight + step * is_video_only(name) for name, weight in trained.items()}
            torch.save({"model": weights}, tmp_path / "averaged.pt")
            with mock.patch.object(sys, "argv", ["split", str(tmp_path / "averaged.pt"), "--out", str(tmp_path)]):
                split.main()
            found = read_checkpoint(tmp_path / mini.WEIGHTS.name)
            assert found.keys() == weights.keys()
            for name, weight in weights.items():
                most = weight.abs().max() * (2**-10 if is_video_only(name) else 1 / 253)
                assert (found[name].float() - weight).abs().max() <= most, name
            contents.append([file.read_bytes() for file in sorted(tmp_path.glob("*.*s*"))])
        (image, memory, index), (same, other_memory, other_index) = contents
        assert image == same and memory != other_memory and index != other_index
        assert "image.safetensors: 17.9 MB" in capsys.readouterr().out

    @pytest.mark.parametrize("name", ["memory_attention.layers.0.linear1.weight", "no_obj_ptr"])
    def test_weights_too_large_for_fp16_are_refused(self, trained, tmp_path, name):
        torch.save({"model": {**trained, name: trained[name].clone().fill_(1e6)}}, tmp_path / "averaged.pt")
        with pytest.raises(CheckpointError, match=f"{name} has numbers that are not finite"):
            split.split(tmp_path / "averaged.pt", tmp_path)
        assert [file.name for file in tmp_path.iterdir()] == ["averaged.pt"]


def scenario(session):
    session.points(0, 1, (60, 40, 1))
    session.points(0, 2, box=[20, 20, 70, 60])
    session.propagate()
    session.points(2, 1, (50, 50, 0))
    session.propagate()


@pytest.mark.long
def test_parity(tmp_path):
    """Mini's configuration is the official tiny one with these changes: the official modules give the same masks."""
    official, _ = build_video_pair("sam2.1_t", CHANGED, image_size=256)
    ours = build_sam2_video_predictor(mini.CONFIG, None, device="cpu", hydra_overrides_extra=["++model.image_size=256"])
    ours.load_state_dict(official.state_dict(), strict=True)
    video = jpeg_folder(tmp_path / "video", clip(4))
    compare(run_official(official, video, scenario, check_itself=False), run(ours, video, scenario))
