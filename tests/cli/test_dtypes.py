"""The dtype that commands and builders choose for each device."""

import json

import pytest
import torch
from commands import invoke, ok

from sam2fast import nano
from sam2fast.build_sam import build_sam2, build_sam2_video_predictor
from sam2fast.cli import main
from sam2fast.cli.options import choose_dtype
from sam2fast.io.made_from import recorded_dtype

WITH_AUTO = [
    "segment",
    "masks",
    "track",
    "vos",
    "compare",
    "find",
    "evaluate-images",
    "profile",
    "mcp",
    "label-studio",
    "demo",
]
NOTE = "computing in {}, which is usual on this device; --dtype chooses another dtype"


@pytest.fixture
def gpus(monkeypatch):
    """Simulates CUDA devices with the given compute capabilities."""

    def simulate(*capabilities):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device.index or 0])

    return simulate


@pytest.mark.parametrize(
    ("capabilities", "devices", "expected"),
    [
        ([(7, 0)], "auto", "float16"),
        ([(7, 5)], "cuda", "float16"),
        ([(8, 0)], "auto", "bfloat16"),
        ([(9, 0)], "cuda:0", "bfloat16"),
        ([(9, 0)], "cpu", "float32"),
        ([(9, 0), (7, 5)], "cuda:1", "float16"),
        ([(9, 0), (7, 5)], "cuda:0,cuda:1", "float16"),
        ([(9, 0), (8, 6)], "all", "bfloat16"),
    ],
)
def test_cuda(gpus, capsys, capabilities, devices, expected):
    gpus(*capabilities)
    assert choose_dtype(devices) == expected
    notes = capsys.readouterr().err
    assert notes.count("computing") == (expected != "float32") == notes.count(NOTE.format(expected))


def test_amd(gpus, monkeypatch):
    gpus((9, 4))
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert choose_dtype("auto") == "bfloat16"


@pytest.mark.parametrize("has_mps", [False, True])
def test_other_devices(monkeypatch, capsys, has_mps):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)
    assert choose_dtype("auto") == "float32" and capsys.readouterr().err == ""


@pytest.mark.parametrize(("devices", "expected"), [("cuda", "bfloat16"), ("auto", "float32"), ("cpu", "float32")])
def test_workers_of_a_cluster(devices, expected):
    assert choose_dtype(devices, in_cluster=True) == expected


def test_earlier_results_count(tmp_path, gpus, capsys):
    gpus((9, 0))
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"made_from": {"options": {"dtype": "float32"}}}))
    assert choose_dtype("cuda", [tmp_path / "none.json", file]) == "float32"
    assert "computing in float32, as for the earlier results" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"made_from": null}', '{"results": []}', '{"made_from": {"options": {"dtype": 3}}}']
)
def test_files_without_a_dtype(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    assert recorded_dtype(tmp_path / "run.json") is None


@pytest.mark.parametrize("name", sorted(main.list_commands(None)))
def test_the_commands_with_auto(name):
    options = {option.name: option for option in main.get_command(None, name).params}
    assert ("dtype" in options and options["dtype"].default == "auto") == (name in WITH_AUTO)


def test_a_result_names_the_chosen_dtype(tmp_path, monkeypatch, make_image):
    """On the CPU, as if its usual dtype were bfloat16."""
    monkeypatch.setattr("sam2fast.utils.devices.usual_dtype", lambda device: torch.bfloat16)
    command = (
        "segment",
        make_image(),
        "--point",
        "20,30",
        "--model",
        "nano",
        "--device",
        "cpu",
        "--out",
        tmp_path / "out",
    )
    result = ok(invoke(*command))
    assert result.stderr.count(NOTE.format("bfloat16")) == 1
    content = json.loads((tmp_path / "out/image.json").read_text())
    assert content["model"]["dtype"] == content["made_from"]["options"]["dtype"] == "bfloat16"


@pytest.mark.parametrize("build", [build_sam2, build_sam2_video_predictor])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_builders(monkeypatch, build, dtype):
    monkeypatch.setattr("sam2fast.build_sam.usual_dtype", lambda device: dtype)
    model = build(nano.CONFIG, nano.WEIGHTS, device="cpu", dtype="auto")
    assert model.image_encoder.neck.convs[0].conv.weight.dtype == dtype
