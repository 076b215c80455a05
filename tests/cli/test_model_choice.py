"""``sam2fast segment``: the choice of the model; unusable models, weights and devices."""

import os
import re

import pytest
import torch
from commands import assert_one_line

from sam2fast import mini, nano
from sam2fast._official_names import RELEASES
from sam2fast.cli.model_choice import choose_model
from sam2fast.utils.embedded import EMBEDDED, NANO


@pytest.mark.parametrize(
    ("name", "config", "file"),
    [
        (None, "sam2.1/sam2.1_hiera_t", "sam2.1_hiera_tiny.pt"),
        ("tiny", "sam2.1/sam2.1_hiera_t", "sam2.1_hiera_tiny.pt"),
        ("sam2_hiera_b+.yaml", "sam2/sam2_hiera_b+", "sam2_hiera_base_plus.pt"),
        ("sam2/sam2_hiera_l", "sam2/sam2_hiera_l", "sam2_hiera_large.pt"),
        ("facebook/sam2-hiera-small", "sam2/sam2_hiera_s", "sam2_hiera_small.pt"),
    ],
)
def test_official_names(tmp_path, monkeypatch, name, config, file):
    monkeypatch.chdir(tmp_path)
    local, named = tmp_path / "checkpoints", tmp_path / "named"
    for folder in (local, named):
        folder.mkdir()
        for release in RELEASES.values():
            (folder / release.checkpoint).touch()
    choice = choose_model(name, None)
    assert choice.config == f"configs/{config}.yaml"
    assert choice.checkpoint.absolute() == local / file
    monkeypatch.setenv("SAM2FAST_CHECKPOINTS", str(named))
    assert choose_model(name, None).checkpoint == named / file
    (named / file).unlink()
    assert choose_model(name, None).checkpoint.absolute() == local / file


def test_default_without_a_checkpoint_is_mini_with_a_note(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert choose_model(None, None) == (mini.CONFIG, mini.WEIGHTS)
    (note,) = capfd.readouterr().err.splitlines()
    assert note.startswith("sam2fast: note: ") and "mini" in note and "derived from SAM 2 tiny" in note
    assert "sam2.1_hiera_tiny.pt" in note and "https://" in note and "--checkpoint FILE" in note


@pytest.mark.parametrize("embedded", [nano, mini])
@pytest.mark.parametrize("name", ["{}", "sam2fast/{}", "sam2fast_{}", "configs/{0}/sam2fast_{0}.yaml"])
def test_requested_models_of_the_package_need_no_note(name, embedded, model, nano_checkpoint, capfd, monkeypatch):
    """Also where the usual model is found."""
    monkeypatch.setenv("SAM2FAST_CHECKPOINTS", str(model.checkpoint.parent))
    asked = name.format(embedded.__name__.rpartition(".")[2])
    assert choose_model(asked, None) == (embedded.CONFIG, embedded.WEIGHTS)
    assert choose_model(asked, nano_checkpoint) == (embedded.CONFIG, nano_checkpoint)
    assert choose_model(None, nano_checkpoint) == (nano.CONFIG, nano_checkpoint)
    assert capfd.readouterr() == ("", "")


def test_an_installation_without_its_weights(run, make_image, tmp_path, monkeypatch):
    lacking = NANO._replace(weights=tmp_path / "weights.safetensors")
    monkeypatch.setitem(EMBEDDED, NANO.model_id, lacking)
    result = run("segment", make_image(), "--point", "20,30", "--model", "nano")
    assert "install sam2fast again" in assert_one_line(result, code=3)


def test_checkpoint_alone_gives_its_configuration(model, tmp_path):
    renamed = tmp_path / "renamed.pt"
    renamed.symlink_to(model.checkpoint)
    assert choose_model(None, renamed) == ("configs/sam2.1/sam2.1_hiera_t.yaml", renamed)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "huge"], 2, "no model or YAML file 'huge'"),
        (["--model", "own.yaml"], 2, "--checkpoint FILE"),
        (["--checkpoint", "nowhere.pt"], 3, "nowhere.pt"),
        (["--model", "large"], 3, r"sam2.1_hiera_large.pt in \$SAM2FAST_CHECKPOINTS \(not set\).* from https://dl.fb"),
        (["--checkpoint", "other.pt"], 1, "other.pt .*--model FILE.yaml"),
        (["--checkpoint", "tiny.pt", "--model", "broken.yaml"], 1, "broken.yaml"),
        (["--checkpoint", "tiny.pt", "--model", "foreign.yaml"], 1, "os.system"),
        (["--checkpoint", "broken.pt", "--model", "tiny"], 1, "broken.pt"),
        (["--checkpoint", "tiny.pt", "--model", "large"], 1, "sam2.1_hiera_t.yaml"),
        (["--checkpoint", "tiny.pt", "--device", "cpu", "--dtype", "float16"], 1, "float16"),
        (["--checkpoint", "tiny.pt", "--device", "toaster"], 1, "toaster"),
    ],
)
def test_refused(run, make_image, tmp_path, model, arguments, code, message):
    configurations = {"own": "model: {}", "broken": "[", "foreign": "model: {_target_: os.system}"}
    for name, content in configurations.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    torch.save({"model": {"weight": torch.zeros(3)}}, tmp_path / "other.pt")
    (tmp_path / "tiny.pt").symlink_to(model.checkpoint)
    with model.checkpoint.open("rb") as source:
        (tmp_path / "broken.pt").write_bytes(source.read(1_000_000))
    result = run("segment", make_image(), "--point", "1,1", *arguments)
    assert result.exit_code == code and re.search(message, result.stderr)
    if code != 2:
        assert_one_line(result, code)


@pytest.mark.parametrize("command", ["segment image.png --point 1,1", "masks image.png --points-per-side 2"])
def test_weights_that_are_not_finite(run, make_image, tmp_path, nano_checkpoint, command):
    make_image()
    weights = torch.load(nano_checkpoint, weights_only=True)["model"]
    name = "sam_mask_decoder.iou_prediction_head.layers.2.bias"
    weights[name] = torch.full_like(weights[name], float("nan"))
    torch.save({"model": weights}, tmp_path / "damaged.pt")
    result = run(*command.split(), "--model", "nano", "--checkpoint", "damaged.pt")
    assert result.exit_code == 1 and "not finite" in result.stderr
    assert os.listdir(tmp_path / "out") == []
