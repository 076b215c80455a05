"""Models of another stride than 16: sizes of maps, masks and memories, and their own mean and deviation."""

import copy
import pickle
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from graph_sessions import assert_same
from mini_model import mini_predictor
from parity import random_image, random_map
from planned import away_from_the_cpu
from planned_memory import by_modules, tracked
from small_sam3 import CLICK, MAP, SIDE, prompts, small_sam3
from video import clip, jpeg_folder, run

from sam2fast.config import ConfigError
from sam2fast.deploy import exported
from sam2fast.image_features import Features
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.tracking.features import difference, summary_of
from sam2fast.utils.testing import relative_error


@pytest.fixture(scope="module")
def predictor():
    return small_sam3()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return jpeg_folder(tmp_path_factory.mktemp("video"), clip(6))


@pytest.mark.parametrize(("size", "nearest"), [(100, 112), (1024, 1036), (14, 28)])
def test_image_sizes_are_multiples_of_twice_the_stride(size, nearest):
    with pytest.raises(ConfigError, match=f"a multiple of 28, such as {nearest}; got {size}"):
        small_sam3(size)


def test_memory_encoders_read_masks_at_16_times_the_map(predictor):
    masks = random_map(2, 1, 4 * MAP, 4 * MAP)
    large = F.interpolate(masks, (SIDE, SIDE), mode="bilinear")
    expected = F.interpolate(large, (16 * MAP, 16 * MAP), mode="bilinear")
    assert predictor.memory_mask_size == (16 * MAP, 16 * MAP) != (SIDE, SIDE)
    for given in (masks, large, expected):
        assert torch.equal(predictor.masks_for_memory(given), expected)
    usual = mini_predictor()
    assert torch.equal(usual.masks_for_memory(masks), F.interpolate(masks, (128, 128), mode="bilinear"))


@pytest.mark.parametrize("from_prompt", [False, True])
@pytest.mark.parametrize("on", ["cpu", "static"])
def test_plans(predictor, on, from_prompt):
    expected = by_modules(predictor, from_prompt=from_prompt)
    with away_from_the_cpu() if on == "static" else nullcontext():
        found = tracked(predictor, from_prompt=from_prompt)
    for a, b in zip(expected, found, strict=True):
        assert a.shape == b.shape and relative_error(a, b) <= 1e-5


def test_the_original_flow(predictor, video, monkeypatch):
    expected = run(predictor, video, prompts)
    monkeypatch.setattr(predictor, "_run_memory_encoder", predictor._run_memory_encoder, raising=False)
    assert_same(expected, run(predictor, video, prompts))


def test_normalisation(predictor, video):
    image = random_image(60, 80)
    images = SAM2ImagePredictor(predictor)
    white = images._transforms(np.full((9, 9, 3), 255, np.uint8))
    assert torch.equal(white, torch.ones_like(white))
    frames = predictor.init_state(video).frames
    pixels = frames.pixels(0).permute(2, 0, 1)
    for each in (frames, pickle.loads(pickle.dumps(frames))):
        torch.testing.assert_close(each[0], pixels / 127.5 - 1)
    images.set_image(image)
    changed = copy.copy(predictor)
    changed.pixel_mean = (0.4, 0.4, 0.4)
    others = SAM2ImagePredictor(changed)
    others.set_image(image)
    assert not torch.equal(images.get_image_embedding(), others.get_image_embedding())


def test_given_masks_have_the_size_of_the_decoders(predictor, video):
    state = predictor.init_state(video)
    mask = np.zeros((90, 120), bool)
    mask[:45] = True
    predictor.add_new_mask(state, 0, 1, mask)
    (_, _, logits), *_ = predictor.propagate_in_video(state, max_frame_num_to_track=0, output="low_res")
    assert logits.shape == (1, 1, 4 * MAP, 4 * MAP)
    assert torch.equal(logits[0, 0] > 0, (torch.arange(4 * MAP) < 2 * MAP)[:, None].expand(4 * MAP, 4 * MAP))
    of_all = predictor._consolidate_temp_output_across_obj(state, 0, True)["pred_masks"]
    assert torch.equal(of_all, logits)


@pytest.mark.parametrize("side", [SIDE, 1008, 1024])
def test_differences_of_frames(side):
    frame = torch.zeros(side, side, 3, dtype=torch.uint8)
    changed = frame.clone()
    changed[-28:, -28:] = 255
    summaries = summary_of(frame), summary_of(changed)
    share = 1 if side % 32 else (28 / 32) ** 2
    assert difference(*summaries) == pytest.approx(share, abs=0.01)


def test_features_in_files(predictor, tmp_path):
    images = SAM2ImagePredictor(predictor)
    features = images.encode(random_image(60, 80))
    features.save(tmp_path / "image")
    given = features, Features.load(tmp_path / "image")
    expected, found = (images.predict(**CLICK, features=each, return_logits=True)[0] for each in given)
    assert np.array_equal(expected, found)


def test_exported_programs(predictor, tmp_path):
    exported.write_artifact(predictor, tmp_path / "artefact")
    expected, found = SAM2ImagePredictor(predictor), exported.load_predictor(tmp_path / "artefact")
    for images in (expected, found):
        images.set_image(random_image(60, 80))
    for a, b in zip(*(x.predict(**CLICK, return_logits=True) for x in (expected, found)), strict=True):
        assert a.shape == b.shape and relative_error(a, b) <= 1e-5
    assert exported.export_decoder(predictor, mask_input=True)
