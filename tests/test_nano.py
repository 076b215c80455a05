"""nano: the packaged weights, loading without a network, and their export."""

import json
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from parity import random_image
from safetensors import safe_open
from tame_weights import fill

from sam2fast import SAM2ImagePredictor, SAM2VideoPredictor, build_sam2, nano
from sam2fast.build_sam import HF_MODEL_ID_TO_FILENAMES, build_sam2_hf, build_sam2_video_predictor_hf
from sam2fast.checkpoints import VIDEO_ONLY, CheckpointError, guess_config, read_checkpoint
from sam2fast.training.export_nano import LEAST_HALF, ROUNDING, export, to_half


@pytest.fixture
def no_network(monkeypatch):
    """Blocks network connections and the packages that make them."""

    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


@pytest.fixture(scope="module")
def tame():
    """An untrained nano with tame weights."""
    return fill(build_sam2(nano.CONFIG, None, device="cpu"), seed=0)


@pytest.fixture(scope="module")
def checkpoint(tame, tmp_path_factory):
    """As training writes it."""
    path = tmp_path_factory.mktemp("training") / "averaged.pt"
    torch.save({"model": tame.state_dict()}, path)
    return path


class TestLoading:
    def test_images(self, no_network):
        predictor = SAM2ImagePredictor.from_pretrained("sam2fast/nano", device="cpu", mask_threshold=0.25)
        assert predictor.model.image_size == 256 and predictor.mask_threshold == 0.25
        predictor.set_image(random_image(60, 80))
        masks, scores, logits = predictor.predict(point_coords=[[20, 30]], point_labels=[1])
        assert masks.shape == (3, 60, 80) and scores.shape == (3,) and logits.shape == (3, 64, 64)
        assert np.isfinite(logits).all()

    def test_video(self, no_network):
        predictor = SAM2VideoPredictor.from_pretrained("sam2fast/nano", device="cpu")
        state = predictor.init_state(np.stack([random_image(60, 80, seed) for seed in range(3)]))
        predictor.add_new_points_or_box(state, frame_idx=0, obj_id=1, points=[[20, 30]], labels=[1])
        tracked = list(predictor.propagate_in_video(state, progress=False))
        assert [frame for frame, _, _ in tracked] == [0, 1, 2]
        assert all(logits.shape == (1, 1, 60, 80) and logits.isfinite().all() for _, _, logits in tracked)

    def test_weights_are_those_of_the_file_in_single_precision(self):
        stored = read_checkpoint(nano.WEIGHTS)
        for model in (
            build_sam2_hf("sam2fast/nano", device="cpu"),
            build_sam2_video_predictor_hf("sam2fast/nano", device="cpu"),
        ):
            state = model.state_dict()
            assert state.keys() == stored.keys() and not model.training
            for name, tensor in state.items():
                assert tensor.dtype == torch.float32 and torch.equal(tensor, stored[name].float()), name

    def test_the_originals_table_is_unchanged(self):
        assert len(HF_MODEL_ID_TO_FILENAMES) == 8
        assert all(name.startswith("facebook/sam2") for name in HF_MODEL_ID_TO_FILENAMES)


class TestFile:
    def test_is_small(self):
        assert nano.WEIGHTS.stat().st_size <= 12e6

    def test_is_finite_and_has_its_configuration(self):
        tensors = read_checkpoint(nano.WEIGHTS)
        assert all(tensor.isfinite().all() for tensor in tensors.values())
        assert guess_config(tensors) == nano.CONFIG
        with safe_open(nano.WEIGHTS, "pt") as file:
            assert json.loads(file.metadata()["sam2fast"])["config"] == nano.CONFIG

    def test_is_as_precise_as_export_makes_it(self):
        """fp32 tensors could not be fp16."""
        for name, tensor in read_checkpoint(nano.WEIGHTS).items():
            assert tensor.dtype == to_half(name, tensor.float()).dtype, name


class TestExport:
    def test_rounds_large_tensors_and_keeps_small_ones(self, checkpoint, tame, tmp_path):
        export(checkpoint, tmp_path / "nano.safetensors")
        stored, halves = read_checkpoint(tmp_path / "nano.safetensors"), 0
        assert stored.keys() == tame.state_dict().keys()
        for name, tensor in tame.state_dict().items():
            assert (stored[name].float() - tensor).norm() <= ROUNDING * tensor.norm(), name
            if tensor.numel() < LEAST_HALF:
                assert torch.equal(stored[name], tensor), name
            else:
                halves += tensor.numel()
                assert stored[name].dtype == torch.float16, name
        assert halves > 0.95 * sum(tensor.numel() for tensor in stored.values())

    def test_equal_weights_give_equal_bytes(self, checkpoint, tmp_path):
        """Also in another process, where string hashes differ."""
        here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
        export(checkpoint, here, steps=7)
        command = [sys.executable, "-m", "sam2fast.training.export_nano", checkpoint, "--out", there, "--steps", "7"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and "5.03 million parameters" in done.stdout, done.stderr
        assert here.read_bytes() == there.read_bytes()
        with safe_open(here, "pt") as file:
            assert json.loads(file.metadata()["sam2fast"]) == {"config": nano.CONFIG, "steps": 7}

    def test_values_beyond_fp16_stay_fp32(self):
        large = torch.randn(LEAST_HALF, generator=torch.Generator().manual_seed(0))
        assert to_half("a", large).dtype == torch.float16
        for other in (large * 1e6, large * 1e-7, large[1:]):
            assert to_half("a", other) is other
        assert to_half("a", large.zero_()).dtype == torch.float16

    @pytest.mark.parametrize("damage", ["not finite", "images only", "another model"])
    def test_other_checkpoints_are_refused_and_change_nothing(self, tame, tmp_path, damage):
        weights, out = dict(tame.state_dict()), tmp_path / "nano.safetensors"
        if damage == "not finite":
            weights["no_mem_embed"] = torch.full_like(weights["no_mem_embed"], torch.inf)
        elif damage == "images only":
            weights = {k: v for k, v in weights.items() if not k.startswith(VIDEO_ONLY)}
        else:
            weights["no_mem_embed"] = torch.zeros(1, 1, 256)
        torch.save({"model": weights}, tmp_path / "wrong.pt")
        out.write_bytes(b"as it was")
        with pytest.raises((ValueError, CheckpointError), match="no_mem_embed|weights for images only"):
            export(tmp_path / "wrong.pt", out)
        assert out.read_bytes() == b"as it was"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["nano.safetensors", "wrong.pt"]
