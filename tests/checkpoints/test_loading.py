"""``reading`` and ``loading`` of checkpoints in every layout, refusals, and that a failed load changes nothing."""

import argparse
import copy
import gzip
import io
import logging
import os
import sys
import warnings
import zipfile
from collections import defaultdict
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from checkpoint_files import numbered_weights
from omegaconf import OmegaConf
from parity import random_image
from safetensors.torch import save, save_file

from sam2fast import SAM2ImagePredictor, build_sam2, nano
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.checkpoints import VIDEO_ONLY, CheckpointError, guess_config, load_checkpoint, read_checkpoint
from sam2fast.downloads import DownloadError


@pytest.fixture(scope="module")
def image_file(nano_weights, tmp_path_factory):
    """Weights for images only."""
    path = tmp_path_factory.mktemp("images") / "image.pt"
    torch.save({"model": image_only(nano_weights)}, path)
    return path


@pytest.fixture(scope="module")
def empty_model():
    return build_sam2(nano.CONFIG, None, device="cpu")


@pytest.fixture
def model(empty_model):
    """The model that files are loaded into. No other test has loaded one into it."""
    return copy.deepcopy(empty_model)


def image_only(weights):
    return {k: v for k, v in weights.items() if not any(k == m or k.startswith(m + ".") for m in VIDEO_ONLY)}


def assert_loaded(model, weights):
    state = model.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[name], weights[name]) for name in weights)
    assert all(p.requires_grad and not p.is_meta for p in model.parameters())


def half(weights):
    return {name: x.half() for name, x in weights.items()}


LAYOUTS = {
    "official.pt": lambda weights, path: torch.save({"model": weights}, path),
    "model.safetensors": save_file,
    "half.pt": lambda weights, path: torch.save({"model": half(weights)}, path),
    # The content decides, not the name.
    "safetensors.pt": save_file,
    "zip.safetensors": torch.save,
    "old.safetensors": lambda weights, path: torch.save(weights, path, _use_new_zipfile_serialization=False),
    # As trainers name the weights, the first of several.
    "model_state_dict.pt": lambda weights, path: torch.save({"epoch": 1, "model_state_dict": weights}, path),
    "ema.pt": lambda weights, path: torch.save(
        {"ema": weights, "optimizer": {"state": {0: {"a": torch.ones(2)}}}}, path
    ),
    "nested.pt": lambda weights, path: torch.save({"model": {"state_dict": weights}}, path),
    "named.pt": lambda weights, path: torch.save({"model": {"name": "tiny"}, "state_dict": weights}, path),
    "several.pt": lambda weights, path: torch.save({"ema": half(weights), "model": weights}, path),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name, model, nano_weights, tmp_path):
    """Into memory of its own: the model outlives the file."""
    path = tmp_path / name
    LAYOUTS[name](nano_weights, path)
    with warnings.catch_warnings(record=True) as caught:
        load_checkpoint(model, path, torch.device("cpu"), allow_image_only=False)
    assert bool(caught) == (name == "several.pt")
    path.write_bytes(b"\0" * path.stat().st_size)
    os.truncate(path, 0)
    expected = {k: v.float() for k, v in half(nano_weights).items()} if name == "half.pt" else nano_weights
    assert_loaded(model, expected)


def test_a_file_of_several_weights_says_which_are_loaded(model, nano_weights, tmp_path):
    """The way that the warning names loads the others."""
    averaged = {name: tensor / 2 for name, tensor in nano_weights.items()}
    file, new = tmp_path / "several.pt", tmp_path / "averaged.pt"
    torch.save({"state_dict": nano_weights, "state_dict_ema": averaged, "epoch": 3}, file)
    with pytest.warns(UserWarning, match="'state_dict' is loaded, and 'state_dict_ema' is not") as caught:
        load_checkpoint(model, file, torch.device("cpu"), allow_image_only=False)
    assert_loaded(model, nano_weights)
    code = str(caught[0].message).partition("load the latter: ")[2]
    exec(code, {"torch": torch, "FILE": file, "NEW_FILE": new})  # noqa: S102  (the code of our own message)
    load_checkpoint(model, new, torch.device("cpu"), allow_image_only=False)
    assert_loaded(model, averaged)


def test_mode_and_dtype(nano_file, nano_weights):
    model = build_sam2(nano.CONFIG, str(nano_file), device="cpu", mode="train", dtype=torch.bfloat16)
    name = "image_encoder.trunk.blocks.0.attn.qkv.weight"
    assert torch.equal(model.state_dict()[name], nano_weights[name].bfloat16()) and model.training
    assert not build_sam2(nano.CONFIG, nano_file, device="cpu").training


class TestImageOnlyFiles:
    def test_load_for_images_with_a_note(self, image_file, caplog):
        with caplog.at_level(logging.WARNING, "sam2fast"):
            model = build_sam2(nano.CONFIG, image_file, device="cpu")
        assert "memory_attention, memory_encoder, mask_downsample" in caplog.text and "no_obj_ptr" in caplog.text
        assert "not for video" in caplog.text
        assert model.memory_attention.norm.weight.isnan().all()  # what is missing cannot pass for weights
        predictor = SAM2ImagePredictor(model)
        predictor.set_image(random_image(60, 80))
        masks, scores, _ = predictor.predict(point_coords=[[20, 30]], point_labels=[1])
        assert not torch.tensor(scores).isnan().any() and masks.shape == (3, 60, 80)

    def test_the_note_reaches_a_user_who_configured_nothing(self, image_file, monkeypatch, capsys):
        monkeypatch.setattr(logging.root, "handlers", [])
        build_sam2(nano.CONFIG, image_file, device="cpu")
        assert "not for video" in capsys.readouterr().err

    def test_are_refused_for_video_by_module(self, image_file):
        with pytest.raises(CheckpointError, match="^[^ ]+ has weights for images only: .* memory_attention, "):
            build_sam2_video_predictor(nano.CONFIG, image_file, device="cpu")


def without(weights, *names):
    return {name: x for name, x in weights.items() if name not in names}


def refuse(path, message, config=nano.CONFIG):
    with pytest.raises(CheckpointError, match=message) as error:
        build_sam2(config, path, device="cpu")
    assert path.name in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: without(w, "sam_mask_decoder.iou_token.weight"), "1 missing: sam_mask_decoder.iou_token.weight"),
        (lambda w: w | {"head.weight": torch.zeros(2)}, "1 unexpected: head.weight"),
        (lambda w: dict(list(w.items())[:20]), "401 missing: .* and 393 more"),
        (lambda w: without(image_only(w), "no_mem_embed"), "missing: .*no_mem_embed"),
    ],
    ids=["missing", "unexpected", "many missing", "more than those of video missing"],
)
def test_other_names_are_refused(change, message, model, nano_weights, tmp_path):
    """They leave the model as it was."""
    path = tmp_path / "other.pt"
    torch.save({"model": change(nano_weights)}, path)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"other.pt .*{message}"):
        load_checkpoint(model, path, torch.device("cpu"), allow_image_only=True)
    assert_loaded(model, before)


@pytest.mark.parametrize("name", ["sam2_hiera_t", "sam2_hiera_l", "sam2.1_hiera_s", "sam2.1_hiera_b+"])
def test_the_configuration_is_guessed_from_the_weights(name):
    assert guess_config(numbered_weights(name)) == f"configs/{name.split('_')[0]}/{name}.yaml"
    assert guess_config({"a": torch.zeros(1)}) is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("sam2.1_hiera_b+", r"sam2.1_hiera_t.yaml, .*\(150 missing, 6 unexpected, 152 of another shape\)$"),
        ("edgetam", r"sam2.1_hiera_t.yaml, .*\(614 missing, 209 unexpected, 4 of another shape\)$"),
        ("sam2_hiera_t", "3 unexpected: .*no_obj_embed_spatial.*sam2.1_hiera_t"),
    ],
)
def test_another_model_names_the_right_configuration(config, message, tmp_path):
    torch.save({"model": numbered_weights("sam2.1_hiera_t")}, tmp_path / "tiny.pt")
    refuse(tmp_path / "tiny.pt", message, config)


@pytest.mark.parametrize("share", [0.5, 0.999, 0.0001])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated(suffix, share, nano_file, nano_weights, tmp_path):
    content = nano_file.read_bytes() if suffix == ".pt" else save(nano_weights)
    (tmp_path / f"cut{suffix}").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=f"cut{suffix} .*(truncated|damaged)"):
        read_checkpoint(tmp_path / f"cut{suffix}")


def zipped(name):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, "hello")
    return content.getvalue()


ARCHIVES = {
    "readme.txt": "is a ZIP archive without weights of PyTorch: unpack it",
    "weights.npy": "is an archive of NumPy arrays",
    "model.weights.h5": "is a model of Keras",
    "x/archive_format": "is a program of torch.export",
}


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 155000000\n", "`git lfs pull`"),
        (b"\n<!DOCTYPE html>\n<html>", "is a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "is a web page"),
        (
            {"sam2_net": {"a": torch.zeros(1)}, "epoch": 3},
            "under model, state_dict,.* got a dict with 'sam2_net', 'epo",
        ),
        ({"model": {"a": torch.zeros(1), "version": 2}}, "got a dict with 'model'"),
        ([torch.zeros(1)], "got list"),
        (b"", "is an empty file.*again"),
        (b"hello", "is a text file"),
        (b"GGUF\x03\0\0\0", "is a GGUF file"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (b"\x08\x07\x12\x07pytorch", "is an ONNX model"),
        (gzip.compress(b"x", mtime=0), "is a packed file, .*: unpack it"),
        *((zipped(name), word) for name, word in ARCHIVES.items()),
        *((content, "truncated|damaged") for content in (b"\x80\x04", b"PK\x03\x04")),
        *((content, "no checkpoint") for content in (5, torch.zeros(3), {"optimizer": {}}, {"model": {"a": 1}})),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_files_and_other_saved_objects(tmp_path, content, word, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(CheckpointError, match=rf"x\{suffix} .*({word})"):
        read_checkpoint(path)


BESIDE = {
    "scalars": {"loss": np.float64(0.5), "step": np.int64(3), "best": np.bool_(True), "half": np.float16(1)},
    "texts and times": [np.str_("run"), np.bytes_(b"run"), np.datetime64("2026-01-01")],
    "arrays": {"curve": np.arange(3.0), "kept": np.array(1), "columns": np.zeros(2, [("a", "f4")])},
    "objects": np.array([1, "a", None], dtype=object),
    "state of the random generator": np.random.get_state(),  # noqa: NPY002
    "options": argparse.Namespace(lr=0.1, folder=Path("runs"), more=SimpleNamespace(start=datetime.now(timezone.utc))),
    "omegaconf": OmegaConf.create({"lr": 0.1, "sizes": [1, None, True], "folder": "${lr}/x"}),
    "counts": defaultdict(list, {"a": [1]}),
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("is_zip", [True, False])
def test_harmless_objects_beside_the_weights(name, is_zip, tmp_path):
    """Reads the weights without the objects, and restores torch's list of safe globals."""
    weights, known = numbered_weights(nano.CONFIG), set(torch.serialization.get_safe_globals())
    content = {"metrics": BESIDE[name], "model": weights}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=is_zip)
    found = read_checkpoint(tmp_path / "x.pt")
    assert found.keys() == weights.keys() and all(torch.equal(found[key], weights[key]) for key in weights)
    assert set(torch.serialization.get_safe_globals()) == known


def test_safetensors_without_the_package(tmp_path, monkeypatch):
    save_file({"x": torch.zeros(1)}, tmp_path / "any.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match="pip install safetensors"):
        read_checkpoint(tmp_path / "any.safetensors")


def test_devices_and_dtypes():
    for dtype, message in ((torch.float16, "float16 on the CPU"), (torch.float64, "torch.float64")):
        with pytest.raises(ValueError, match=message):
            build_sam2(nano.CONFIG, None, device="cpu", dtype=dtype)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA is not available.*device='cpu'"):
            build_sam2(nano.CONFIG, None)
        assert build_sam2(nano.CONFIG, None, device="auto").device.type in ("cpu", "mps")


@pytest.mark.parametrize(
    ("name", "error", "word"),
    [
        ("facebook/sam9", DownloadError, "not in the cache .* SAM2FAST_OFFLINE"),
        ("medium", KeyError, "facebook/sam2.1-hiera-large"),
        ("edgetam", DownloadError, "edgetam.pt is not on this machine, .* SAM2FAST_OFFLINE"),
        ("tiny", DownloadError, "sam2.1_hiera_tiny.pt is not on this machine"),
        ("sam2.1_hiera_b+", DownloadError, "sam2.1_hiera_base_plus.pt is not on this machine"),
        ("sam2_hiera_large.pt", DownloadError, "sam2_hiera_large.pt is not on this machine"),
        ("sam2_hiera_largest.pt", FileNotFoundError, "sam2_hiera_largest.pt"),
        ("sam2fast/min", KeyError, "Did you mean sam2fast/mini?"),
        ("tinny", KeyError, "Did you mean tiny?"),
    ],
)
def test_unknown_ids(monkeypatch, name, error, word):
    monkeypatch.setenv("SAM2FAST_OFFLINE", "1")
    with pytest.raises(error, match=word):
        SAM2ImagePredictor.from_pretrained(name, device="cpu")
