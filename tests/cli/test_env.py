"""``sam2fast env``: it is correct, shows no secrets, and never fails."""

import functools
import json
import subprocess
import sys
from importlib import metadata

import torch
from kernel_records import RECORDS
from torch.utils import collect_env

import sam2fast
from sam2fast.cli import env

SECTIONS = ["sam2fast", "torch", "ops", "packages", "variables"]


def test_facts_match_this_machine():
    found = env.describe()
    assert list(found) == SECTIONS and not any("error" in facts for facts in found.values()), found
    assert json.loads(json.dumps(found)) == found
    assert found["sam2fast"]["version"] == sam2fast.__version__
    # A CUDA build's version is "2.13.0+cu130", in its metadata "2.13.0".
    assert found["torch"]["version"] == found["torch"]["torch_version"] == torch.__version__
    assert found["packages"]["core"]["torch"] in (torch.__version__, torch.__version__.partition("+")[0])
    assert found["torch"]["CPU capability"] == torch.backends.cpu.get_cpu_capability()
    assert found["ops"]["with kernels"].split() == list(RECORDS)


def test_packages_under_another_name(monkeypatch):
    versions = {"opencv-python-headless": "4.12.0", "sam2": "1.1.0"}

    def version(name):
        if name not in versions:
            raise env.importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(env.importlib.metadata, "version", version)
    others = env.describe()["packages"]["others"]
    assert {name: found for name, found in others.items() if found != env.MISSING} == versions
    assert not {"opencv-python", "SAM-2"} & set(others)


def test_the_command(run, monkeypatch):
    monkeypatch.setenv("SAM2FAST_BACKEND", "torch")
    monkeypatch.setattr(collect_env, "get_env_info", functools.cache(collect_env.get_env_info))
    shown = run("env")
    assert shown.exit_code == 0 and shown.stderr == ""
    assert [line for line in shown.stdout.splitlines() if not line.startswith(" ")] == SECTIONS
    assert f"  version: {torch.__version__}" in shown.stdout and "  SAM2FAST_BACKEND: torch" in shown.stdout
    assert "  backend in force: torch" in shown.stdout and f"torch {metadata.version('torch')}, triton" in shown.stdout
    assert list(json.loads(run("env", "--json").stdout)) == SECTIONS


def test_secrets_are_not_shown(run, monkeypatch, tmp_path):
    secrets = {
        "HF_TOKEN": "hf_abcdefghijklmnop",
        "SAM2FAST_API_KEY": "0123456789abcdef",
        "SAM2FAST_MIRROR": "https://mirror/models?access_token=quitesecret",
        "HTTPS_PROXY": "http://user:password@proxy:3128",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("SAM2FAST_CHECKPOINTS", str(tmp_path / "me/checkpoints"))
    found = env.describe()
    monkeypatch.setattr(env, "describe", lambda: found)
    for shown in (run("env").stdout, run("env", "--json").stdout):
        assert not any(value in shown for value in secrets.values())
    assert found["variables"]["SAM2FAST_CHECKPOINTS"] == "~/checkpoints"


def test_packages_that_are_broken(tmp_path):
    """Packages that are installed but fail to import."""
    for package in ("torch", "triton"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise ImportError('libtorch_cpu.so: no shared object file')")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from sam2fast.cli import main
main(["env", "--json"], prog_name="sam2fast")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == SECTIONS and "error" not in found["packages"] and "error" not in found["variables"]
    assert "no shared object file" in found["torch"]["error"]
