"""``sam2fast segment``: the choice of the model; unusable models, weights and devices."""

import json
import os
import re
import socket

import pytest
import torch
from checkpoint_server import CheckpointServer, make_checkpoint
from commands import assert_one_line, ends, invoke
from small_nano import write_small_nano

from sam2fast import mini, nano
from sam2fast._official_names import RELEASES
from sam2fast.cli.model_choice import ModelChoice, choose_model
from sam2fast.cli.user_errors import MissingCheckpointError
from sam2fast.downloads import transfer
from sam2fast.utils.embedded import EMBEDDED, NANO


def test_a_file_with_the_name_of_a_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_small_nano(tmp_path / "small.yaml", 64)
    assert choose_model("small.yaml", nano.WEIGHTS).config == "small.yaml"


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


def test_default_that_cannot_be_had_is_mini_with_a_warning(run, make_image, tmp_path):
    """In every record, too."""
    small = ["--device", "cpu", "--image-size", 256]
    result = run("segment", make_image(), "--point", "20,30", "--json", *small)
    (line,) = result.stderr.splitlines()
    assert line.startswith("sam2fast: THIS IS NOT SAM 2: mini") and "SAM2FAST_OFFLINE is set" in line
    assert line.endswith("sam2fast download tiny. To hide this line: --model mini") and "ckpt_path" not in line
    (record,) = json.loads(result.stdout)["results"]
    assert record["model"]["name"] == "mini" and record["model"]["fallback"] is True
    assert json.loads((tmp_path / "out/image.json").read_text()) == {**record, "image": "image.png"}
    found = ["--points-per-side", 1, "--pred-iou-thresh", 0, "--stability-score-thresh", 0]
    before = run("masks", "image.png", *found, *small)
    assert "THIS IS NOT SAM 2:" in before.stderr
    assert json.loads((tmp_path / "out/masks.json").read_text())["info"]["model"]["fallback"] is True


def test_published_models_are_downloaded_at_first_use(tmp_path, monkeypatch, capfd):
    """By the default, too, but not with --offline, which ends with its command."""
    data = make_checkpoint()
    with CheckpointServer().running() as server:
        monkeypatch.delenv("SAM2FAST_OFFLINE")
        monkeypatch.setenv("SAM2FAST_MIRROR", server.url)
        monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.setenv("SAM2FAST_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        for name in ("sam2.1_hiera_tiny.pt", "sam2_hiera_large.pt"):
            server.add(f"/{name}", data)
        refused = invoke("export", "--model", "tiny", "--offline")
        assert "--offline was given" in assert_one_line(refused, code=3) and server.asked == []
        for name, file in ((None, "sam2.1_hiera_tiny.pt"), ("sam2_hiera_l", "sam2_hiera_large.pt")):
            assert choose_model(name, None).checkpoint == tmp_path / "cache" / file
            shown = capfd.readouterr().err
            assert file.removesuffix(".pt") in shown and "100%" in shown and "NOT SAM 2" not in shown
        assert not choose_model(None, None).fallback and len(server.asked) == 2


def test_a_network_without_an_answer_costs_seconds(monkeypatch, tmp_path):
    """A server that takes connections and says nothing."""
    monkeypatch.delenv("SAM2FAST_OFFLINE")
    monkeypatch.setattr(transfer, "ANSWER_TIMEOUT", 0.1)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("SAM2FAST_CACHE", str(tmp_path))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/tiny.pt"
        for hub_id, release in list(RELEASES.items()):
            monkeypatch.setitem(RELEASES, hub_id, release._replace(url=url))
        assert choose_model(None, None).fallback
        with pytest.raises(MissingCheckpointError, match="no answer within"):
            choose_model("tiny", None)


@pytest.mark.parametrize("embedded", [nano, mini])
@pytest.mark.parametrize("name", ["{}", "sam2fast/{}", "sam2fast_{}", "configs/{0}/sam2fast_{0}.yaml"])
def test_requested_models_of_the_package_need_no_note(name, embedded, nano_checkpoint, tmp_path, capfd, monkeypatch):
    """Also where the usual model is found."""
    (tmp_path / "sam2.1_hiera_tiny.pt").touch()
    monkeypatch.setenv("SAM2FAST_CHECKPOINTS", str(tmp_path))
    asked = name.format(embedded.__name__.rpartition(".")[2])
    assert choose_model(asked, None) == ModelChoice(embedded.CONFIG, embedded.WEIGHTS)
    assert choose_model(asked, nano_checkpoint) == ModelChoice(embedded.CONFIG, nano_checkpoint)
    assert choose_model(None, nano_checkpoint) == ModelChoice(nano.CONFIG, nano_checkpoint)
    assert capfd.readouterr() == ("", "")


def test_an_installation_without_its_weights(run, make_image, tmp_path, monkeypatch):
    lacking = NANO._replace(weights=tmp_path / "weights.safetensors")
    monkeypatch.setitem(EMBEDDED, NANO.model_id, lacking)
    result = run("segment", make_image(), "--point", "20,30", "--model", "nano")
    assert "install sam2fast again" in assert_one_line(result, code=3)


@pytest.mark.parametrize(
    "command", ["segment", "masks", "track", "vos", "compare", "export", "profile", "serve", "download"]
)
def test_help_names_the_relatives_of_sam2(command):
    text = " ".join(invoke(command, "--help").output.split())
    assert "edgetam" in text and "--list" in text


def test_checkpoint_alone_gives_its_configuration(tiny_checkpoint, tmp_path):
    renamed = tmp_path / "renamed.pt"
    renamed.symlink_to(tiny_checkpoint)
    assert choose_model(None, renamed) == ModelChoice("configs/sam2.1/sam2.1_hiera_t.yaml", renamed)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "huge"], 2, "'huge'. `sam2fast download --list` shows"),
        (["--model", "TINY"], 2, "Did you mean tiny?"),
        (["--model", "sam2.1_hiera_larg"], 2, "Did you mean sam2.1_hiera_large?"),
        (["--model", "mni"], 2, "Did you mean mini"),
        (["--model", "own.yaml"], 2, "--checkpoint FILE"),
        (["--checkpoint", "nowhere.pt"], 3, "nowhere.pt"),
        (["--model", "someone/model"], 3, ""),
        (["--model", "facebook/sam3"], 3, "ask Meta for access at https://huggingface.co/facebook/sam3"),
        (["--model", "sam3"], 3, "ask Meta for access at https://huggingface.co/facebook/sam3"),
        (["--model", "large"], 3, "large.pt is not on .*OFFLINE is set.* from https://dl.fb.* with --checkpoint\n$"),
        (["--checkpoint", "other.pt"], 1, "other.pt .*--model FILE.yaml"),
        (["--checkpoint", "tiny.pt", "--model", "broken.yaml"], 1, "broken.yaml"),
        (["--checkpoint", "tiny.pt", "--model", "foreign.yaml"], 1, "os.system"),
        (["--checkpoint", "broken.pt", "--model", "tiny"], 1, "broken.pt"),
        (["--checkpoint", "tiny.pt", "--model", "large"], 1, "sam2.1_hiera_t.yaml"),
        (["--checkpoint", "tiny.pt", "--device", "cpu", "--dtype", "float16"], 1, "float16"),
        (["--device", "gpu"], 2, "'gpu' is not a device; expected cpu, cuda .*mps .* or auto$"),
        (["--device", "cpu,xpu"], 2, "'xpu' is not a device; expected cpu, cuda"),
    ],
)
def test_refused(run, make_image, tmp_path, tiny_checkpoint, arguments, code, message):
    configurations = {"own": "model: {}", "broken": "[", "foreign": "model: {_target_: os.system}"}
    for name, content in configurations.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    torch.save({"model": {"weight": torch.zeros(3)}}, tmp_path / "other.pt")
    (tmp_path / "tiny.pt").symlink_to(tiny_checkpoint)
    with tiny_checkpoint.open("rb") as source:
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
    ends(run(*command.split(), "--model", "nano", "--checkpoint", "damaged.pt"), 1, "not finite")
    assert os.listdir(tmp_path / "out") == []
