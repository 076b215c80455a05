"""nano: the packaged weights, and loading without a network."""

import json
import socket
import sys

import numpy as np
import pytest
import torch
from parity import random_image
from safetensors import safe_open

from sam2fast import SAM2ImagePredictor, SAM2VideoPredictor, nano
from sam2fast.build_sam import HF_MODEL_ID_TO_FILENAMES, build_sam2_hf, build_sam2_video_predictor_hf
from sam2fast.checkpoints import guess_config, read_checkpoint


@pytest.fixture
def no_network(monkeypatch):
    """Blocks network connections and the packages that make them."""

    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


def test_images(no_network):
    predictor = SAM2ImagePredictor.from_pretrained("sam2fast/nano", device="cpu", mask_threshold=0.25)
    assert predictor.model.image_size == 256 and predictor.mask_threshold == 0.25
    predictor.set_image(random_image(60, 80))
    masks, scores, logits = predictor.predict(point_coords=[[20, 30]], point_labels=[1])
    assert masks.shape == (3, 60, 80) and scores.shape == (3,) and logits.shape == (3, 64, 64)
    assert np.isfinite(logits).all()


def test_video(no_network):
    predictor = SAM2VideoPredictor.from_pretrained("sam2fast/nano", device="cpu")
    state = predictor.init_state(np.stack([random_image(60, 80, seed) for seed in range(3)]))
    predictor.add_new_points_or_box(state, frame_idx=0, obj_id=1, points=[[20, 30]], labels=[1])
    tracked = list(predictor.propagate_in_video(state, progress=False))
    assert [frame for frame, _, _ in tracked] == [0, 1, 2]
    assert all(logits.shape == (1, 1, 60, 80) and logits.isfinite().all() for _, _, logits in tracked)


def test_weights_are_those_of_the_file_in_single_precision():
    stored = read_checkpoint(nano.WEIGHTS)
    for build in (build_sam2_hf, build_sam2_video_predictor_hf):
        model = build("sam2fast/nano", device="cpu")
        state = model.state_dict()
        assert state.keys() == stored.keys() and not model.training
        for name, tensor in state.items():
            assert tensor.dtype == torch.float32 and torch.equal(tensor, stored[name].float()), name


def test_the_originals_table_is_unchanged():
    assert len(HF_MODEL_ID_TO_FILENAMES) == 8
    assert all(name.startswith("facebook/sam2") for name in HF_MODEL_ID_TO_FILENAMES)


def test_the_file_is_small_and_finite_and_has_its_configuration():
    tensors = read_checkpoint(nano.WEIGHTS)
    assert nano.WEIGHTS.stat().st_size <= 12e6
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert guess_config(tensors) == nano.CONFIG
    with safe_open(nano.WEIGHTS, "pt") as file:
        assert json.loads(file.metadata()["sam2fast"])["config"] == nano.CONFIG
