"""The installed package: wheel from sdist in an empty environment, bare clone, cheap import, no side effects."""

import os
import subprocess
import sys
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from checkout import LINKS, ROOT, copy_checkout

from sam2fast import __version__
from sam2fast.config import shipped_configs

# What the wheel consists of; its weights are most of it.
ENDINGS = {"py", "typed", "yaml", "json", "safetensors", "md", "html", "js", "css", "svg", "txt", "jpg", "mp4"}
MOST_BYTES, MOST_OF_MINI = 38_000_000, 26_000_000
EXTRAS = {
    "adapters",
    *("hub", "video", "images", "train", "cluster", "datasets", "docs", "notebooks", "onnx", "polygons", "detections"),
    *("eval", "serve", "interactive-demo", "medical", "napari", "cvat", "label-studio", "mcp", "test", "dev", "all"),
}
CHECK = """
import sam2fast, sam2fast.kernels.window_attention, sam2fast.kernels.connected_components
from sam2fast.config import load_config, shipped_configs
names = sorted(shipped_configs())
for name in names:
    assert load_config(name).model._target_
print(len(names), sam2fast.__file__)
"""


def run(python, *args: str, cwd=None, env=None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | (env or {})
    return subprocess.run([str(python), *args], capture_output=True, text=True, cwd=cwd, env=environment)


def checked(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Tracked files and files that git would add, without build products."""
    target = tmp_path_factory.mktemp("checkout")
    if not copy_checkout(target):
        pytest.skip("not a git checkout")
    return target


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    """The wheel built from the sdist in this environment, without downloading build tools."""
    out = tmp_path_factory.mktemp("dist")
    checked(run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(checkout)))
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def empty_environment(wheel, tmp_path_factory):
    """An environment with only the wheel; it uses this environment's dependencies except triton."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)  # without a pip of its own, which takes longer than all the rest
    python = folder / "bin" / "python"
    pip = ["-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    checked(run(sys.executable, *pip, "install", "--no-deps", "--no-index", str(wheel)))
    site = Path(checked(run(python, "-c", "import site; print(site.getsitepackages()[0])")).strip())
    ours = Path(checked(run(sys.executable, "-c", "import torch; print(torch.__path__[0])")).strip()).parent
    for entry in ours.iterdir():
        # Links, not a .pth file: that would let the editable install of this checkout in as well.
        if not entry.name.startswith(("__editable__", "sam2fast", "sam2-", "triton")) and entry.suffix != ".pth":
            link = site / entry.name
            if not link.exists() and entry.name != "sam2":
                link.symlink_to(entry)
    return python


IN_AN_EMPTY_ENVIRONMENT = """
import importlib.util, sys
extras = ("huggingface_hub", "skimage", "av", "scipy", "pycocotools", "tensorboard")
sys.modules.update(dict.fromkeys(extras))  # None: cannot be imported
assert importlib.util.find_spec("triton") is None
"""
USES = """
import numpy as np
from sam2fast import SAM2ImagePredictor, SAM2VideoPredictor, build_sam2, nano
predictor = SAM2ImagePredictor.from_pretrained("sam2fast/nano")
predictor.set_image(np.zeros((40, 60, 3), dtype=np.uint8))
print(predictor.predict(point_coords=[[30, 20]], point_labels=[1])[0].shape, nano.WEIGHTS)
SAM2VideoPredictor.from_pretrained("sam2fast/nano", device="cpu")
slow = [name for name in ("torch._dynamo", "sympy") if name in sys.modules]
assert not slow, f"a model with weights is built, and {slow} are imported, which takes seconds"
import sam2fast.cli.demo_run

model = build_sam2("sam2.1_hiera_t", None, device="cpu", hydra_overrides_extra=["++model.image_size=256"])
predictor = SAM2ImagePredictor(model, max_hole_area=4)
predictor.set_image(np.zeros((40, 60, 3), dtype=np.uint8))
print(predictor.predict(point_coords=[[30, 20]], point_labels=[1])[0].shape)
"""


@pytest.fixture(scope="module")
def printed(empty_environment, tmp_path_factory):
    """The output of a process that uses the wheel without triton, hub, scikit-image and PyAV."""
    script = IN_AN_EMPTY_ENVIRONMENT + CHECK + USES
    return checked(run(empty_environment, "-c", script, cwd=tmp_path_factory.mktemp("empty"))).splitlines()


def test_the_wheel_works_with_its_weights_and_published_models(printed):
    count, file = printed[0].split()
    shape, weights = printed[1].rsplit(maxsplit=1)
    assert int(count) == len(shipped_configs()) and "site-packages" in file and "site-packages" in weights
    assert shape == "(3, 40, 60)" and printed[2:] == [shape]


def test_the_command_is_installed(empty_environment, tmp_path):
    assert __version__ in checked(run(empty_environment.parent / "sam2fast", "--version", cwd=tmp_path))


def test_wheel_holds_the_package_and_nothing_else(wheel, checkout):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (record,) = (name for name in names if name.endswith("dist-info/RECORD"))
        recorded = [line.split(",")[0] for line in archive.read(record).decode().splitlines()]
    assert sorted(recorded) == sorted(names) and len(set(names)) == len(names)
    assert {name.split("/")[0] for name in names} <= {"sam2fast", f"{wheel.name.rsplit('-', 3)[0]}.dist-info"}
    mini = {f"sam2fast/mini/{name}" for name in ("image.safetensors", "memory.safetensors", "weights.index.json")}
    nano, cards = "sam2fast/nano/weights.safetensors", {f"sam2fast/{name}/MODEL_CARD.md" for name in ("mini", "nano")}
    assert {"sam2fast/py.typed", nano, *mini, *cards} <= set(names)
    with zipfile.ZipFile(wheel) as archive:
        assert sum(archive.getinfo(name).compress_size for name in mini) <= MOST_OF_MINI
    assert {f"sam2fast/demo/media/{name}" for name in ("coffee.jpg", "cat.jpg", "flower.mp4")} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names) and any("NOTICE" in name for name in names)
    static = ROOT / "sam2fast" / "demo" / "server" / "static"
    page = {file.relative_to(ROOT).as_posix() for file in static.rglob("*") if file.is_file()}
    assert page and page == {name for name in names if "/server/static/" in name}
    assert {name.rpartition(".")[2] for name in names if "dist-info" not in name} <= ENDINGS
    assert wheel.stat().st_size < MOST_BYTES
    # Also the modules of packages that setup.py might not list.
    ours = {file.relative_to(checkout).as_posix() for file in (checkout / "sam2fast").rglob("*.py")}
    for file in (file for name in LINKS for file in (checkout / name).rglob("*")):
        if file.suffix in (".py", ".yaml"):
            ours.add(f"sam2fast/{file.relative_to(checkout).as_posix()}")
    assert ours <= set(names)


def test_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("dist-info/METADATA"))
        told = message_from_bytes(archive.read(name))
    assert told["Name"] == "sam2fast" and told["Version"] == __version__ and told["Requires-Python"] == ">=3.10"
    assert set(told.get_all("Provides-Extra")) == EXTRAS
    assert told["License-Expression"] == "Apache-2.0"
    assert told["Description-Content-Type"] == "text/markdown"
    assert told.get_payload().startswith("# sam2fast") and "sam2fast.sam2_image_predictor" in told.get_payload()
    core = [line for line in told.get_all("Requires-Dist") if "extra" not in line]
    assert any(line.startswith("safetensors") for line in core), "nano's weights are read after the core install"
    assert not any(line.startswith(("huggingface", "av>", "scikit-image")) for line in core)


@pytest.mark.parametrize("symlinks", [True, False])
def test_bare_clone(symlinks, tmp_path):
    """Also with ``core.symlinks`` false: each link is a text file with its target."""
    folder, elsewhere = tmp_path / "clone", tmp_path / "elsewhere"
    copy_checkout(folder, symlinks)
    elsewhere.mkdir()
    assert all((folder / "sam2fast" / name).is_symlink() == symlinks for name in LINKS)
    script = f"import sys; sys.path.insert(0, {str(folder)!r})\n" + CHECK
    count, file = checked(run(sys.executable, "-c", script, cwd=elsewhere)).split()
    assert int(count) == len(shipped_configs()) and file.startswith(str(folder))


def test_transformers_beside_the_folder_kernels(checkout):
    """It looks for the package `kernels` of PyPI and finds that folder."""
    pytest.importorskip("transformers")
    script = "from transformers.utils.import_utils import is_kernels_available; print(is_kernels_available())"
    assert checked(run(sys.executable, "-c", script, cwd=checkout)).split() == ["False"]


IMPORT_IS_CLEAN = """
import os, sys
before, modules = dict(os.environ), set(sys.modules)
import sam2fast
loaded = set(sys.modules) - modules
heavy = {"torch", "numpy", "hydra", "omegaconf", "yaml", "PIL", "av", "scipy", "click", "tqdm", "triton"} & loaded
assert not heavy and len(loaded) < 60, f"import sam2fast loads {len(loaded)} modules, among them {heavy}"
import sam2fast.build_sam, sam2fast.sam2_image_predictor, torch
from hydra.core.global_hydra import GlobalHydra
assert not GlobalHydra.instance().is_initialized()
assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
assert not torch.is_autocast_enabled("cpu") and torch.get_float32_matmul_precision() == "highest"
assert dict(os.environ) == before or set(dict(os.environ)) - set(before) <= {"KMP_INIT_AT_FORK", "KMP_DUPLICATE_LIB_OK"}
assert not any(name in sys.modules for name in ("triton", "torchvision", "huggingface_hub", "safetensors"))
print(os.listdir("."))
"""


def test_editable_install_and_import_without_side_effects(tmp_path):
    """In this environment, with the installation that the tests use."""
    listing, check = checked(run(sys.executable, "-c", IMPORT_IS_CLEAN + CHECK, cwd=tmp_path)).splitlines()
    count, file = check.split(maxsplit=1)
    assert listing == "[]" and int(count) == len(shipped_configs()) and Path(file).resolve().is_relative_to(ROOT)
