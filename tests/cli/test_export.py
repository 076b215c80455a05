"""``sam2fast export``: its files, its output, and what it refuses."""

import json
from types import SimpleNamespace

import pytest
import torch
from commands import ok
from file_contents import names
from mini_model import OVERRIDES, mini_model
from omegaconf import OmegaConf

from sam2fast import nano
from sam2fast.config import load_config
from sam2fast.deploy import exported
from sam2fast.deploy.exported import artifact
from sam2fast.deploy.onnx import export as onnx_export


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    """Options for a small model's configuration and checkpoint."""
    folder = tmp_path_factory.mktemp("mini")
    OmegaConf.save(load_config(nano.CONFIG, OVERRIDES), folder / "mini.yaml")
    torch.save({"model": mini_model().state_dict()}, folder / "mini.pt")
    return ["--model", folder / "mini.yaml", "--checkpoint", folder / "mini.pt", "--device", "cpu"]


def test_exports(run, mini, tmp_path):
    out = tmp_path / "new" / "artefact"
    result = ok(run("export", *mini, "--dtype", "bfloat16", "--points", 1, "--out", out))
    encoder, decoder, facts_line, seconds, last = result.stdout.splitlines()
    assert encoder.split()[0] == "encoder.pt2" and decoder.split()[0] == "decoder.pt2" and encoder.endswith(" MB")
    assert facts_line == "artifact.json" and seconds.startswith("time: ") and last == f"written to {out}"
    metadata = exported.read_metadata(out)
    assert (metadata.kind, metadata.dtype, metadata.prompts, metadata.points) == ("exported", "bfloat16", 1, 1)
    assert metadata.config == str(mini[1])
    assert names(out) == ["artifact.json", "decoder.pt2", "encoder.pt2"]


def test_options_reach_the_export(run, mini, monkeypatch, tmp_path):
    asked = []

    def write(model, folder, config, aot, prompts, points, made_from):
        asked.append((model.image_size, folder, config, aot, prompts, points))
        return artifact.ArtifactMetadata(
            artifact.EXPORTED, *[""] * 10, sizes={"encoder.pt2": 2500000, "decoder.pt2": 0}
        )

    monkeypatch.setattr(artifact, "write_artifact", write)
    result = run("export", *mini, "--aot", "--prompts", 64, "--points", 3)
    assert result.exit_code == 0 and "encoder.pt2       2.5 MB" in result.stdout
    assert [(*row[:1], str(row[1]), *row[2:]) for row in asked] == [(128, "exported", str(mini[1]), True, 64, 3)]


def test_without_a_compiler(run, mini, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no working\nC++ compiler")

    monkeypatch.setattr(artifact, "write_artifact", fail)
    result = run("export", *mini, "--aot")
    assert result.exit_code == 1 and result.stderr == "sam2fast: no working C++ compiler\n"


def test_options_reach_the_export_to_onnx(run, mini, monkeypatch):
    asked = []

    def write(model, folder, config, dtype, progress, made_from):
        asked.append((model.image_size, str(folder), config, dtype))
        return SimpleNamespace(files={"encoder.onnx": {"size": 2500000}})

    monkeypatch.setattr(onnx_export, "write_onnx", write)
    result = run("export", *mini, "--format", "onnx", "--dtype", "int8", "--image-size", 192, "--out", "graphs")
    assert result.exit_code == 0 and "encoder.onnx       2.5 MB" in result.stdout
    assert asked == [(192, "graphs", str(mini[1]), "int8")]


@pytest.mark.usefixtures("copied_graphs")
def test_onnx(run, tmp_path):
    """What the graphs compute is in deploy/onnx."""
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    out = tmp_path / "graphs"
    result = ok(run("export", "--model", "nano", "--format", "onnx", "--dtype", "int8", "--out", out))
    assert "exporting encoder ..." in result.stderr.splitlines()[0] and result.stdout.splitlines()[-2].startswith(
        "time"
    )
    graphs = [f"{name}.onnx" for name in ("decoder", "encoder", "memory_attention", "memory_encoder")]
    assert names(out) == [*graphs, "model.json", "tracker.py"]
    assert [line.split()[0] for line in result.stdout.splitlines()[:6]] == [*graphs, "tracker.py", "model.json"]
    assert result.stdout.splitlines()[6].startswith("52 masks of int8 and float32: mean IoU 0.99")
    content = json.loads((out / "model.json").read_text())
    assert (content["image_size"], content["dtype"], content["config"]) == (256, "int8", nano.CONFIG)
