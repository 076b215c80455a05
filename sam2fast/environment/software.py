"""sam2fast itself, what it can use, and the checkpoints that it finds."""

import importlib.metadata
import importlib.util
import subprocess
from pathlib import Path
from typing import Any

import sam2fast

# By extra; the names under which packages are installed.
PACKAGES = {
    "core": ("torch", "triton", "numpy", "pillow", "hydra-core", "omegaconf", "safetensors", "click", "tqdm"),
    "hub": ("huggingface-hub",),
    "video": ("av",),
    "train": ("scipy", "tensorboard"),
    "profile": ("rich", "matplotlib"),
    "eval": ("scikit-image", "scipy", "pycocotools"),
    "cluster": ("ray", "submitit"),
    "others": ("torchvision", "transformers", "supervision", "opencv-python", "SAM-2"),
}
MISSING = "not installed"
SECONDS_FOR_GIT = 10


def sam2fast_facts() -> dict[str, Any]:
    """Version, place, and the commit if it is a checkout."""
    package = Path(sam2fast.__file__).resolve().parent
    facts: dict[str, Any] = {"version": sam2fast.__version__, "folder": str(package)}
    if (package.parent / ".git").exists():
        commit = _git(package.parent, "rev-parse", "HEAD")
        if commit is not None:
            facts["commit"] = commit
            facts["changed"] = bool(_git(package.parent, "status", "--porcelain", "--untracked-files=no"))
    return facts


def triton_facts() -> dict[str, Any]:
    """Its version, and whether its kernels can be used; also where it is there and cannot be imported."""
    if importlib.util.find_spec("triton") is None:
        return {"version": MISSING}
    import triton

    from sam2fast.kernels import _dispatch

    return {
        "version": triton.__version__,
        "obstacle": _dispatch._triton_obstacle(),
        "interpreter": _dispatch.interpreting(),
    }


def package_facts() -> dict[str, Any]:
    """Versions by extra; they are read, and nothing is imported."""
    return {extra: {name: _version(name) for name in names} for extra, names in PACKAGES.items()}


def checkpoint_facts() -> dict[str, Any]:
    """Where the weights of each published model are, if they are on this machine."""
    from sam2fast import nano
    from sam2fast.downloads import places
    from sam2fast.downloads.names import published_models, simplest_name

    facts: dict[str, Any] = {"nano": _file(nano.WEIGHTS) if nano.WEIGHTS.is_file() else "missing"}
    for model in published_models().values():
        found = places.find(model)
        if found is not None:
            facts[simplest_name(model)] = _file(found)
    return facts


def _file(path: Path) -> str:
    return f"{path} ({path.stat().st_size / 1e6:.1f} MB)"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return MISSING


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None where it cannot be run."""
    try:
        command = ["git", "-C", str(folder), *arguments]  # of which nothing is anybody's input
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=SECONDS_FOR_GIT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
