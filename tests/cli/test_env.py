"""``sam2fast env``: what it says is so, what must not be said is not, and nothing breaks it."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sam2fast
from sam2fast import environment
from sam2fast.environment import describe, machine, secrets, selftest, software, variables
from sam2fast.kernels import _dispatch
from sam2fast.sam2_video_predictor import SAM2VideoPredictor

SECTIONS = [
    *("sam2fast", "system", "processor", "memory", "torch", "gpu"),
    *("triton", "ops", "packages", "variables", "checkpoints"),
]


def test_facts_are_those_of_this_machine():
    found = describe()
    assert list(found) == SECTIONS and not any("error" in facts for facts in found.values()), found
    assert json.loads(json.dumps(found)) == found
    assert found["sam2fast"]["version"] == sam2fast.__version__
    # A CUDA build from the index says "2.13.0+cu130" of itself, and its metadata "2.13.0".
    assert found["torch"]["version"] == torch.__version__
    assert found["packages"]["core"]["torch"] in (torch.__version__, torch.__version__.partition("+")[0])
    assert found["torch"]["threads"] == torch.get_num_threads()
    assert found["system"]["python"] == sys.version.split()[0]
    assert found["processor"]["logical cores"] >= found["processor"]["usable cores"] >= 1
    assert found["memory"]["total GiB"] > 0.5
    assert found["ops"]["with kernels"] == sorted(_dispatch.KERNELS)
    assert "nano" in found["checkpoints"]
    if sys.platform == "linux":
        assert found["processor"]["model"] in Path("/proc/cpuinfo").read_text()
        has_avx2 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
        assert ("avx2" in found["processor"]["instructions"]) == has_avx2


def test_the_command(run, monkeypatch):
    monkeypatch.setenv("SAM2FAST_BACKEND", "torch")
    shown = run("env")
    assert shown.exit_code == 0 and shown.stderr == ""
    assert [line for line in shown.stdout.splitlines() if not line.startswith(" ")] == SECTIONS
    assert f"  version: {torch.__version__}" in shown.stdout and "  SAM2FAST_BACKEND: torch" in shown.stdout
    assert "  backend in force: torch" in shown.stdout
    document = json.loads(run("env", "--json").stdout)
    assert list(document) == SECTIONS


def test_check(run, monkeypatch):
    """The model really runs; where its numbers are no numbers, that is said, and is the exit code."""
    load = functools.cache(SAM2VideoPredictor.from_pretrained)
    monkeypatch.setattr(SAM2VideoPredictor, "from_pretrained", load)
    document = json.loads(run("env", "--json", "--check", "--device", "cpu").stdout)
    assert document["check"]["device"] == "cpu" and document["check"]["result"] == "images and video work"
    nothing = torch.full((1, 1, 4, 4), float("nan"))
    monkeypatch.setattr(SAM2VideoPredictor, "propagate_in_video", lambda *args, **kwargs: [(0, [1], nothing)])
    broken = run("env", "--check", "--device", "cpu")
    assert broken.exit_code == 1 and "error: RuntimeError: tracking gives numbers that are not finite" in broken.stdout
    assert "selftest.py:" in broken.stdout
    refused = run("env", "--check", "--device", "nowhere")
    assert refused.exit_code == 1 and "nowhere" in refused.stdout


SECRETS = {
    "HF_TOKEN": "hf_abcdefghijklmnop",
    "HUGGING_FACE_HUB_TOKEN": "plainlookingvalue",
    "PYTHON_KEYRING_PASSWORD": "correct-horse",
    "SAM2FAST_API_KEY": "0123456789abcdef",
}


def test_secrets_are_not_shown(run, monkeypatch, tmp_path):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("HTTPS_PROXY", "http://user:pa%40ss@proxy:3128")
    monkeypatch.setenv("SAM2FAST_MIRROR", "https://mirror/models?access_token=quitesecret&v=2")
    monkeypatch.setenv("HF_ENDPOINT", "https://hub/hf_ABCDEFGHIJKLMN")
    monkeypatch.setenv("SAM2FAST_CHECKPOINTS", str(tmp_path / "me/checkpoints"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "meadow"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(software, "_version", lambda name: f"installed with {SECRETS['HUGGING_FACE_HUB_TOKEN']}")
    for shown in (run("env").stdout, run("env", "--json").stdout):
        for hidden in (*SECRETS.values(), "user:", "pa%40ss", "quitesecret", "hf_ABCDEFGHIJKLMN"):
            assert hidden not in shown
        assert "installed with ***" in shown
    found = describe()["variables"]
    assert all(found[name] == variables.IS_SET for name in SECRETS)
    assert found["HTTPS_PROXY"] == "http://***@proxy:3128"
    assert found["SAM2FAST_MIRROR"] == "https://mirror/models?access_token=***&v=2"
    assert found["SAM2FAST_CHECKPOINTS"] == "~/checkpoints"
    assert found["TORCH_HOME"] == str(tmp_path / "meadow")  # another folder, whose name begins alike
    assert found["OMP_NUM_THREADS"] == "1"
    assert "PATH" not in found and "HOME" not in found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, True) for name in SECRETS),
        *((name, True) for name in ("AWS_SECRET_ACCESS_KEY", "WANDB_APIKEY", "hf_token", "MY_AUTH")),
        *((name, False) for name in ("OMP_NUM_THREADS", "TRITON_CACHE_DIR", "KMP_AFFINITY", "MONKEY_PATCH")),
    ],
)
def test_names_of_secrets(name, expected):
    assert secrets.is_secret(name) == expected


def test_a_section_that_fails_has_its_error_in_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))

    def broken():
        raise OSError(f"cannot read {tmp_path}/file of hf_abcdefghijklmnop")

    monkeypatch.setitem(environment.SECTIONS, "memory", broken)
    found = describe()
    assert list(found) == SECTIONS
    assert (
        found["memory"]["error"] == "OSError: cannot read ~/file of ***" and "test_env.py" in found["memory"]["where"]
    )
    assert "error" not in found["torch"]


BROKEN = {
    "triton": "raise OSError('a library of triton is missing')",
    "torch": "raise ImportError('libtorch_cpu.so: cannot open shared object file')",
}


@pytest.mark.parametrize("package", BROKEN)
def test_packages_that_are_broken(package, tmp_path):
    """Found, and failing when they are imported; each in a process of its own."""
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(BROKEN[package])
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from sam2fast.cli import main
main(["env", "--json"], prog_name="sam2fast")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == SECTIONS and "error" not in found["system"] and "error" not in found["variables"]
    assert BROKEN[package].split("'")[1] in found[package]["error"]


def test_tools_that_are_not_there_or_fail(monkeypatch, tmp_path):
    """No git, no /proc, and an nvidia-smi that cannot reach its driver."""
    monkeypatch.setattr(machine, "_read", lambda path: "")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = describe()
    assert not any("error" in facts for facts in found.values())
    assert "exit status 9" in found["gpu"]["driver"][0]["error"]
    assert found["processor"]["instructions"] == [] and "commit" not in found["sam2fast"]
    tool.write_text("#!/bin/sh\necho '550.1, NVIDIA H200, GPU-1, 143771 MiB, 0 MiB, Enabled'\n")
    (gpu,) = describe()["gpu"]["driver"]
    assert gpu["driver_version"] == "550.1" and gpu["mig.mode.current"] == "Enabled"


def test_gpus(monkeypatch):
    """Two that torch would see, one of them too old for the kernels."""
    found = type("Properties", (), {"name": "GPU", "total_memory": 2**34, "multi_processor_count": 80})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0) if device.index else (7, 5))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: type("P", (found,), {"major": 7 + 2 * index, "minor": 5})
    )
    monkeypatch.setattr(_dispatch, "_triton_version", lambda: (3, 7))
    monkeypatch.setattr(_dispatch, "_build_obstacle", lambda: None)  # it asks the triton that is installed
    facts = describe()
    assert facts["gpu"]["cuda:1"] == {"name": "GPU", "capability": "9.5", "memory GiB": 16.0, "multiprocessors": 80}
    assert facts["ops"]["cuda:0"].startswith("torch: needs a GPU of compute capability 8.0")
    assert facts["ops"]["cuda:1"].startswith("triton")


def test_it_needs_no_torch_to_be_asked_for_help(tmp_path):
    code = "import sys; import sam2fast.environment; from sam2fast.cli import main\n"
    code += "try:\n    main(['env', '--help'])\nexcept SystemExit:\n    pass\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--check" in done.stdout, done.stderr


def test_the_picture_that_is_segmented():
    assert selftest._picture(0).shape == (128, 128, 3) and (selftest._picture(0) != selftest._picture(8)).any()
