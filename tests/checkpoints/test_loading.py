"""Checkpoints that load, checkpoints that are refused and the messages, and that a failed load changes nothing."""

import logging
import os
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch
from parity import random_image
from safetensors.torch import save_file

from sam2fast import SAM2ImagePredictor, build_sam2
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.checkpoints import VIDEO_ONLY, CheckpointError, guess_config, load_checkpoint, read_checkpoint

TINY = "configs/sam2.1/sam2.1_hiera_t.yaml"
TINY_2 = "configs/sam2/sam2_hiera_t.yaml"
BASE = "configs/sam2.1/sam2.1_hiera_b+.yaml"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights():
    """A tiny model's state dict with every tensor distinct."""
    torch.manual_seed(0)
    return {name: torch.randn(p.shape) for name, p in build_sam2(TINY, None, device="cpu").state_dict().items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def official_file(weights, folder):
    path = folder / "official.pt"
    torch.save({"model": weights}, path)
    return path


def assert_loaded(model, weights):
    state = model.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[name], weights[name]) for name in weights)
    assert all(p.requires_grad and not p.is_meta for p in model.parameters())


class TestWhatLoads:
    def test_official_layout(self, official_file, weights):
        model = build_sam2(TINY, official_file, device="cpu")
        assert_loaded(model, weights)
        assert not model.training
        assert build_sam2(TINY, str(official_file), device="cpu", mode="train").training

    def test_bare_state_dict(self, folder, weights):
        torch.save(weights, folder / "bare.pt")
        assert_loaded(build_sam2(TINY, folder / "bare.pt", device="cpu"), weights)

    def test_old_pickle_format(self, folder, weights):
        torch.save({"model": weights}, folder / "old.pt", _use_new_zipfile_serialization=False)
        assert_loaded(build_sam2(TINY, folder / "old.pt", device="cpu"), weights)

    def test_safetensors(self, folder, weights):
        save_file(weights, folder / "model.safetensors")
        assert_loaded(build_sam2(TINY, folder / "model.safetensors", device="cpu"), weights)

    def test_half_precision_files_become_the_models_dtype(self, folder, weights):
        torch.save({"model": {k: v.half() for k, v in weights.items()}}, folder / "half.pt")
        model = build_sam2(TINY, folder / "half.pt", device="cpu")
        assert_loaded(model, {k: v.half().float() for k, v in weights.items()})

    def test_the_model_outlives_the_file(self, folder, weights):
        path = folder / "gone.pt"
        torch.save({"model": weights}, path)
        model = build_sam2(TINY, path, device="cpu")
        path.write_bytes(b"\0" * path.stat().st_size)
        os.truncate(path, 0)
        assert_loaded(model, weights)

    def test_cast_once(self, official_file, weights):
        model = build_sam2(TINY, official_file, device="cpu", dtype=torch.bfloat16)
        name = "image_encoder.trunk.blocks.0.attn.qkv.weight"
        assert torch.equal(model.state_dict()[name], weights[name].bfloat16())


def image_only(weights):
    return {k: v for k, v in weights.items() if not any(k == m or k.startswith(m + ".") for m in VIDEO_ONLY)}


class TestImageOnlyFiles:
    @pytest.fixture
    def path(self, weights, folder):
        path = folder / "image.pt"
        if not path.exists():
            torch.save({"model": image_only(weights)}, path)
        return path

    def test_load_for_images_with_a_note(self, path, caplog):
        with caplog.at_level(logging.WARNING, "sam2fast"):
            model = build_sam2(TINY, path, device="cpu", hydra_overrides_extra=["++model.image_size=256"])
        assert "memory_attention, memory_encoder, mask_downsample" in caplog.text
        assert "not for video" in caplog.text
        predictor = SAM2ImagePredictor(model)
        predictor.set_image(random_image(60, 80))
        masks, scores, _ = predictor.predict(point_coords=[[20, 30]], point_labels=[1])
        assert not torch.tensor(scores).isnan().any() and masks.shape == (3, 60, 80)

    def test_what_is_missing_cannot_pass_for_weights(self, path):
        assert build_sam2(TINY, path, device="cpu").memory_attention.norm.weight.isnan().all()

    def test_the_note_reaches_a_user_who_configured_nothing(self, path):
        script = f"import sam2fast; sam2fast.build_sam2({TINY!r}, {str(path)!r}, device='cpu')"
        assert "not for video" in subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stderr

    def test_are_refused_for_video_by_module(self, path):
        with pytest.raises(CheckpointError, match="no weights for memory_attention, .*which video needs"):
            build_sam2_video_predictor(TINY, path, device="cpu")

    def test_a_file_that_lacks_more_is_refused(self, weights, folder):
        kept = image_only(weights)
        del kept["no_mem_embed"]
        torch.save({"model": kept}, folder / "lacking.pt")
        with pytest.raises(CheckpointError, match="missing: .*no_mem_embed"):
            build_sam2(TINY, folder / "lacking.pt", device="cpu")


def test_a_video_predictor_loads_the_official_file(official_file, weights):
    predictor = build_sam2_video_predictor(TINY, official_file, device="cpu")
    for name, tensor in predictor.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


class Malicious:
    """Unpickling this touches a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class TestWhatIsRefused:
    def refuse(self, path, message, config=TINY):
        with pytest.raises(CheckpointError, match=message) as error:
            build_sam2(config, path, device="cpu")
        assert path.name in str(error.value)

    def test_no_file(self, folder):
        with pytest.raises(FileNotFoundError, match="nothing.pt"):
            build_sam2(TINY, folder / "nothing.pt", device="cpu")

    def test_another_size_names_the_right_configuration(self, official_file):
        self.refuse(official_file, r"another shape: .*those of configs/sam2.1/sam2.1_hiera_t.yaml", BASE)

    def test_another_generation(self, official_file):
        self.refuse(official_file, "3 unexpected: .*no_obj_embed_spatial.*sam2.1_hiera_t", TINY_2)

    def test_missing_keys_are_named(self, folder, weights):
        torch.save(
            {"model": {k: v for k, v in weights.items() if k != "sam_mask_decoder.iou_token.weight"}}, folder / "m.pt"
        )
        self.refuse(folder / "m.pt", "1 missing: sam_mask_decoder.iou_token.weight")

    def test_unexpected_keys_are_named(self, folder, weights):
        torch.save({"model": weights | {"head.weight": torch.zeros(2)}}, folder / "u.pt")
        self.refuse(folder / "u.pt", "1 unexpected: head.weight")

    def test_long_lists_are_cut(self, folder, weights):
        torch.save({"model": dict(list(weights.items())[:20])}, folder / "few.pt")
        self.refuse(folder / "few.pt", r"451 missing: .* and 443 more")

    @pytest.mark.parametrize("share", [0.5, 0.999, 0.0001])
    def test_truncated(self, official_file, folder, share):
        path = folder / f"cut{share}.pt"
        path.write_bytes(official_file.read_bytes()[: int(official_file.stat().st_size * share)])
        self.refuse(path, "truncated|damaged")

    def test_truncated_safetensors(self, weights, folder):
        save_file(weights, folder / "whole.safetensors")
        path = folder / "cut.safetensors"
        path.write_bytes((folder / "whole.safetensors").read_bytes()[:100000])
        self.refuse(path, "truncated|damaged")

    @pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04", b"PK\x03\x04", b"{}"], ids=repr)
    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    def test_not_a_checkpoint(self, folder, content, suffix):
        path = folder / f"nonsense{suffix}"
        path.write_bytes(content)
        self.refuse(path, "truncated|damaged|no checkpoint|no safetensors")

    def test_a_zip_of_something_else(self, folder):
        path = folder / "archive.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "hello")
        self.refuse(path, "no checkpoint")

    @pytest.mark.parametrize(
        "content", [[1, 2], {"model": {"a": 1}}, {"optimizer": {}}, {}, 5, torch.zeros(3)], ids=repr
    )
    def test_no_named_tensors(self, folder, content):
        torch.save(content, folder / "other.pt")
        self.refuse(folder / "other.pt", "no checkpoint: expected named tensors")

    @pytest.mark.parametrize("plain", [True, False], ids=["pickle", "torch.save"])
    def test_code_is_not_run(self, folder, tmp_path, plain):
        path, marker = folder / "evil.pt", tmp_path / "ran"
        if plain:
            path.write_bytes(pickle.dumps({"model": Malicious(marker)}))
        else:
            torch.save({"model": Malicious(marker)}, path)
        self.refuse(path, "could run code, and was not loaded")
        assert not marker.exists()

    def test_a_folder_of_many(self, folder):
        self.refuse(folder, "checkpoints: .*; name one of them")


def test_a_refused_file_leaves_the_model_as_it_was(folder, weights):
    model = build_sam2(TINY, None, device="cpu")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.save({"model": weights | {"head.weight": torch.zeros(2)}}, folder / "refused.pt")
    with pytest.raises(CheckpointError):
        load_checkpoint(model, folder / "refused.pt", CPU, allow_image_only=False)
    assert_loaded(model, before)


def test_safetensors_without_the_package(folder, weights, monkeypatch):
    (folder / "any.safetensors").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match="pip install safetensors"):
        read_checkpoint(folder / "any.safetensors")


@pytest.mark.parametrize("name", ["sam2_hiera_t", "sam2_hiera_l", "sam2.1_hiera_s", "sam2.1_hiera_b+"])
def test_the_configuration_is_told_from_the_weights(name):
    from sam2fast.config import build_from_config, load_config

    with torch.device("meta"):
        state = build_from_config(load_config(name).model).state_dict()
    assert guess_config(state) == f"configs/{name.split('_')[0]}/{name}.yaml"
    assert guess_config({"a": torch.zeros(1)}) is None


class TestDevicesAndDtypes:
    def test_no_cuda_is_said_plainly(self):
        if torch.cuda.is_available():
            pytest.skip("there is CUDA here")
        with pytest.raises(RuntimeError, match="no CUDA here.*device='cpu'"):
            build_sam2(TINY, None)
        assert build_sam2(TINY, None, device="auto").device.type in ("cpu", "mps")

    def test_float16_on_the_cpu_is_refused(self):
        with pytest.raises(ValueError, match="float16 on the CPU"):
            build_sam2(TINY, None, device="cpu", dtype=torch.float16)

    def test_other_dtypes_are_refused(self):
        with pytest.raises(ValueError, match="torch.float64"):
            build_sam2(TINY, None, device="cpu", dtype=torch.float64)


class TestHub:
    def test_a_cached_model_is_found_offline(self, official_file, tmp_path):
        """The cache layout of huggingface_hub, without network."""
        cache = tmp_path / "models--facebook--sam2.1-hiera-tiny"
        snapshot = cache / "snapshots" / "0123456789abcdef"
        snapshot.mkdir(parents=True)
        (snapshot / "sam2.1_hiera_tiny.pt").symlink_to(official_file)
        (cache / "refs").mkdir()
        (cache / "refs" / "main").write_text("0123456789abcdef")
        script = """
            from sam2fast import SAM2ImagePredictor
            p = SAM2ImagePredictor.from_pretrained("facebook/sam2.1-hiera-tiny", device="cpu", mask_threshold=0.25)
            print(p.mask_threshold, p.model.image_size)
        """
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(line.strip() for line in script.splitlines())],
            capture_output=True,
            text=True,
            env=os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        )
        assert done.stdout.split() == ["0.25", "1024"], done.stderr

    def test_unknown_ids(self, monkeypatch):
        monkeypatch.setenv("SAM2FAST_OFFLINE", "1")
        with pytest.raises(KeyError, match="facebook/sam2.1-hiera-large"):
            SAM2ImagePredictor.from_pretrained("facebook/sam9", device="cpu")
