"""The side of the model's input: chosen by ``image_size``, and mini's own for images and video."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from commands import invoke
from parity import random_image
from PIL import Image
from profiled import LIMITS

from sam2fast import SAM2AutomaticMaskGenerator, SAM2ImagePredictor, SAM2VideoPredictor, build_sam, build_sam2, nano
from sam2fast.build_sam import build_sam2_hf, build_sam2_video_predictor, build_sam2_video_predictor_hf
from sam2fast.config import ConfigError

SIZED_IN_CONFIG = {"hydra_overrides_extra": ["++model.image_size=320"]}


@pytest.mark.parametrize(("options", "size"), [({"image_size": 192}, 192), (SIZED_IN_CONFIG, 320)])
def test_every_way_to_a_model(options, size):
    options = {"device": "cpu", **options}
    built = [build_sam2_hf, build_sam2_video_predictor_hf, SAM2VideoPredictor.from_pretrained]
    models = [build("sam2fast/nano", **options) for build in built]
    models += [SAM2ImagePredictor.from_pretrained("sam2fast/nano", **options).model]
    models += [SAM2AutomaticMaskGenerator.from_pretrained("sam2fast/nano", **options).predictor.model]
    models += [build(nano.CONFIG, nano.WEIGHTS, **options) for build in (build_sam2, build_sam2_video_predictor)]
    assert {model.image_size for model in models} == {size}


def test_the_argument_wins_over_the_configuration():
    assert build_sam2_hf("sam2fast/nano", device="cpu", image_size=192, **SIZED_IN_CONFIG).image_size == 192


def test_sizes_of_mini():
    assert SAM2ImagePredictor.from_pretrained("sam2fast/mini", device="cpu").model.image_size == 768
    assert SAM2VideoPredictor.from_pretrained("sam2fast/mini", device="cpu").image_size == 512
    assert build_sam2("mini/sam2fast_mini", device="cpu", **SIZED_IN_CONFIG).image_size == 320
    assert build_sam2("configs/mini/sam2fast_mini.yaml", device="cpu", image_size=512).image_size == 512


@pytest.mark.parametrize(("size", "nearest"), [(500, 512), (0, 32), (-64, 32)])
def test_other_sizes_name_one_that_is_possible(size, nearest):
    with pytest.raises(ConfigError, match=f"a multiple of 32, such as {nearest}; got {size}"):
        build_sam2_hf("sam2fast/nano", device="cpu", image_size=size)


def test_mask_inputs_of_other_sizes_are_resized():
    predictor = SAM2ImagePredictor.from_pretrained("sam2fast/nano", device="cpu")
    predictor.set_image(random_image(60, 80))
    click = {"point_coords": [[20, 30]], "point_labels": [1]}
    without = predictor.predict(**click)
    for side in (32, 64, 96, 256):
        logits = np.random.default_rng(0).normal(size=(1, side, side)).astype(np.float32)
        resized = F.interpolate(torch.from_numpy(logits)[None], (64, 64), mode="bilinear", antialias=True)[0]
        found, expected = (predictor.predict(**click, mask_input=mask) for mask in (logits, resized))
        np.testing.assert_array_equal(found[2], expected[2])
        assert not np.array_equal(found[2], without[2])


@pytest.mark.parametrize("command", ["segment", "masks"])
def test_commands(command, tmp_path):
    Image.fromarray(random_image(60, 80)).save(tmp_path / "image.png")
    prompt = ["--point", "20,30"] if command == "segment" else ["--points-per-side", "2"]
    run = [command, tmp_path / "image.png", *prompt, "--model", "nano", "--out", tmp_path / "out"]
    assert invoke(*run, "--image-size", 64).exit_code == 0
    (file,) = (tmp_path / "out").glob("[!.]*.json")
    content = json.loads(file.read_text())
    assert (content if command == "segment" else content["info"])["model"]["image_size"] == 64
    wrong = invoke(*run, "--image-size", 65)
    assert wrong.exit_code != 0 and "a multiple of 32, such as 64; got 65" in wrong.stderr
    resumed = invoke(*run, "--resume")
    assert resumed.exit_code != 0 and f"{file} differs in --image-size (64, now None); " in resumed.stderr
    assert json.loads(file.read_text()) == content


VIDEO_COMMANDS = {
    "track": "frames --point 0,1,20,30 --format json --out out",
    "vos": "--videos . --masks masks --list list.txt --out out",
    "compare": "frames --point 0,1,20,30 --with image-size=96 --out out",
    "profile": "frames --frames 1 --depth 1",
}


@pytest.mark.parametrize("command", VIDEO_COMMANDS)
def test_commands_for_videos(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sam2fast.profiling.run.measure_limits", lambda device, dtypes: LIMITS)
    for folder, content in {"frames": random_image(60, 80), "masks/frames": np.ones((60, 80), np.uint8)}.items():
        Path(folder).mkdir(parents=True)
        for name in ("00000", "00001"):
            suffix = "jpg" if folder == "frames" else "png"
            Image.fromarray(content).save(f"{folder}/{name}.{suffix}")
    Path("list.txt").write_text("frames\n")
    run = [command, *VIDEO_COMMANDS[command].split(), "--model", "nano", "--jsonl"]
    built, build = [], build_sam.SAM2VideoPredictor.__init__

    def note(self, *args, **kwargs):
        build(self, *args, **kwargs)
        built.append(self.image_size)

    monkeypatch.setattr(build_sam.SAM2VideoPredictor, "__init__", note)
    wrong = invoke(*run, "--image-size", 65)
    assert wrong.exit_code != 0 and "a multiple of 32, such as 64; got 65" in wrong.stderr
    done = invoke(*run, "--image-size", 64)
    assert done.exit_code == 0, done.stderr
    assert built == ([64, 96] if command == "compare" else [64])
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["model"]["image_size"] for line in lines] == built
    if command in ("track", "vos"):
        other = invoke(*run)
        assert other.exit_code != 0 and "--overwrite" in other.stderr
