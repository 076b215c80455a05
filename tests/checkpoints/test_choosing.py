"""The checkpoint of a folder (``weight_files``), and models from files and folders in every layout."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sam2fast import SAM2AutomaticMaskGenerator, SAM2ImagePredictor, SAM2VideoPredictor, nano
from sam2fast.build_sam import build_sam2, build_sam2_hf, build_sam2_video_predictor_hf
from sam2fast.checkpoints import CheckpointError, choose_config, find_weights, read_checkpoint
from sam2fast.checkpoints.transformers_config import transformers_config
from sam2fast.checkpoints.transformers_layout import to_transformers


@pytest.fixture(scope="module")
def folder(nano_weights, tmp_path_factory):
    """A checkpoint in the layout of transformers."""
    path = tmp_path_factory.mktemp("hf")
    save_file(to_transformers(nano_weights), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(transformers_config(nano.CONFIG)))
    return path


def assert_same(state, weights):
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[name], weights[name]) for name in weights)


class TestWhichFile:
    def find(self, folder, *names):
        for name in names:
            (folder / name).touch()
        return find_weights(folder).name

    @pytest.mark.parametrize(
        ("names", "found"),
        [
            (("notes.txt", "config.yaml", ".hidden.pt", "best.pth"), "best.pth"),
            # An official name before others, and what transformers wrote before a trainer's files.
            (("a.pt", "sam2.1_hiera_tiny.pt", "model.safetensors", "config.json"), "sam2.1_hiera_tiny.pt"),
            (("optimizer.pt", "rng_state.pth", "model.safetensors", "config.json"), "model.safetensors"),
            (
                ("model-00001-of-00002.safetensors", "config.json", "model.safetensors.index.json"),
                "model.safetensors.index.json",
            ),
            (("image.safetensors", "memory.safetensors", "weights.index.json"), "weights.index.json"),
        ],
    )
    def test_one(self, tmp_path, names, found):
        assert self.find(tmp_path, *names) == found

    @pytest.mark.parametrize(
        ("names", "error", "word"),
        [
            (("a.pt", "b.safetensors"), CheckpointError, "2 checkpoints: a.pt, b.safetensors; name one"),
            (("sam2.1_hiera_tiny.pt", "sam2_hiera_tiny.pt"), CheckpointError, "sam2_hiera_tiny.pt, sam2.1_hiera_tiny"),
            (("config.json",), FileNotFoundError, "no checkpoint .* in the folder"),
        ],
    )
    def test_refusals(self, tmp_path, names, error, word):
        with pytest.raises(error, match=word):
            self.find(tmp_path, *names)


class TestShards:
    @pytest.fixture
    def shards(self, folder, nano_weights, tmp_path):
        shutil.copy(folder / "config.json", tmp_path)
        theirs = to_transformers(nano_weights)
        places = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(theirs)}
        for file in set(places.values()):
            save_file({name: x for name, x in theirs.items() if places[name] == file}, tmp_path / file)
        self.write(tmp_path, places)
        return tmp_path, places

    def write(self, folder, places):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))

    def test_are_one_checkpoint(self, shards, nano_weights):
        assert_same(read_checkpoint(shards[0]), nano_weights)
        (shards[0] / "model-00002-of-00002.safetensors").unlink()
        with pytest.raises(FileNotFoundError, match="00002-of-00002"):
            read_checkpoint(shards[0])

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"other": "model-00001-of-00002.safetensors"}, "places other in model-00001"),
            ({"no_memory_embedding": "../model.safetensors"}, "expected files beside it"),
            ({"no_memory_embedding": "/tmp/x.safetensors"}, "expected files beside it"),
            *(({"no_memory_embedding": name}, "expected files beside it") for name in ("a/b.safetensors", "")),
            ({"no_memory_embedding": "model.safetensors.index.json"}, "expected files beside it"),
            ("{", "no index"),
            ("[]", "no index"),
            ('{"weight_map": []}', "no index"),
        ],
    )
    def test_wrong_indices(self, shards, wrong, message):
        path, places = shards
        if isinstance(wrong, str):
            (path / "model.safetensors.index.json").write_text(wrong)
        else:
            self.write(path, places | wrong)
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(path)


class TestModels:
    def test_transformers_folder_and_file(self, folder, nano_weights):
        for path in (folder, folder / "model.safetensors"):
            assert_same(build_sam2_hf(path, device="cpu").state_dict(), nano_weights)
        predictor = build_sam2_video_predictor_hf(str(folder), device="cpu")
        assert_same(predictor.state_dict(), nano_weights)
        assert_same(build_sam2(nano.CONFIG, folder, device="cpu").state_dict(), nano_weights)

    def test_embedded_name_as_checkpoint(self, tmp_path, nano_weights, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert_same(build_sam2(nano.CONFIG, nano.MODEL_ID, device="cpu").state_dict(), nano_weights)
        (tmp_path / nano.MODEL_ID).mkdir(parents=True)
        with pytest.raises(FileNotFoundError, match="in the folder 'sam2fast/nano'"):
            find_weights(nano.MODEL_ID)

    def test_predictors(self, folder, monkeypatch):
        image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        expected = SAM2ImagePredictor.from_pretrained(nano.MODEL_ID, device="cpu")
        monkeypatch.chdir(folder.parent)
        actual = SAM2ImagePredictor.from_pretrained(f"./{folder.name}", device="cpu", mask_threshold=0.5)
        assert actual.mask_threshold == 0.5
        for predictor in (expected, actual):
            predictor.set_image(image)
        answers = [p.predict(point_coords=[[20, 20]], point_labels=[1])[2] for p in (expected, actual)]
        # The package's weights are rounded to fp16, and so are these.
        np.testing.assert_array_equal(*answers)
        generator = SAM2AutomaticMaskGenerator.from_pretrained(folder.name, device="cpu", points_per_side=4)
        assert generator.predictor.model.image_size == 256
        assert isinstance(SAM2VideoPredictor.from_pretrained(folder, device="cpu"), SAM2VideoPredictor)

    def test_config_json_is_obeyed_and_the_caller_before_it(self, folder, tmp_path):
        shutil.copy(folder / "model.safetensors", tmp_path)
        config = transformers_config(nano.CONFIG, ("++model.image_size=320",))
        (tmp_path / "config.json").write_text(json.dumps(config | {"max_cond_frame_num": 4}))
        model = build_sam2_hf(tmp_path, device="cpu")
        assert model.image_size == 320 and model.max_cond_frames_in_attn == 4
        model = build_sam2_hf(tmp_path, device="cpu", hydra_overrides_extra=["++model.image_size=192"])
        assert model.image_size == 192 and model.max_cond_frames_in_attn == 4
        model = build_sam2_hf(tmp_path, device="cpu", config_file=nano.CONFIG)  # named: config.json is not read
        assert model.image_size == 256 and model.max_cond_frames_in_attn == -1

    def test_config_json_beside_official_names_is_another_matter(self, nano_file, tmp_path):
        shutil.copy(nano_file, tmp_path)
        (tmp_path / "config.json").write_text('{"model_type": "sam2_train"}')
        assert choose_config(tmp_path) == (nano.CONFIG, ())

    @pytest.mark.parametrize("name", ["./nowhere", "~/nowhere.pt", "folder/nowhere.pt", "nowhere.safetensors"])
    def test_a_path_to_nothing(self, name):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            SAM2ImagePredictor.from_pretrained(name, device="cpu")
