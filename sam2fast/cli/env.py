"""``sam2fast env``: reports the machine for bug reports, with ``torch.utils.collect_env``."""

import importlib.metadata
import json
import os
import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

import sam2fast
from sam2fast.cli.command import command, option
from sam2fast.cli.reporting import emit, output_options, say

# Packages of the extras for users. A string with several names is one package with alternative names.
OPENCV = "opencv-python opencv-python-headless opencv-contrib-python opencv-contrib-python-headless"
PACKAGES = {
    "core": ("torch", "triton", "numpy", "pillow", "hydra-core", "omegaconf", "safetensors", "click", "tqdm"),
    "hub": ("huggingface-hub",),
    "video": ("av",),
    "train": ("scipy", "tensorboard"),
    "eval": ("scikit-image", "scipy", "pycocotools"),
    "adapters": ("peft",),
    "polygons": ("shapely",),
    "images": ("tifffile", "imagecodecs", "pillow-heif"),
    "medical": ("nibabel", "pydicom", "highdicom"),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "serve": ("flask", "werkzeug", "strawberry-graphql", "graphql-core", "gunicorn"),
    "cluster": ("ray", "submitit"),
    "integrations": ("cvat-sdk", "mcp", "napari"),
    "others": ("torchvision", "transformers", "supervision", OPENCV, "SAM-2 sam2"),
}
# The only environment variables that are shown: variables that change results, speed or paths. None is secret.
VARIABLES = (
    *("SAM2FAST_BACKEND", "SAM2FAST_CACHE", "SAM2FAST_CHECKPOINTS", "SAM2FAST_LAUNCH_TABLE"),
    *("SAM2FAST_MAX_MEGAPIXELS", "SAM2FAST_OFFLINE", "SAM2FAST_TORCH_OPS"),
    *("ATEN_CPU_CAPABILITY", "CC", "CUBLAS_WORKSPACE_CONFIG", "CUDA_HOME", "CUDA_LAUNCH_BLOCKING"),
    *("CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "LD_LIBRARY_PATH", "LD_PRELOAD"),
    *("MKL_NUM_THREADS", "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "PYTHONPATH", "PYTORCH_ALLOC_CONF"),
    *("PYTORCH_CUDA_ALLOC_CONF", "TORCH_HOME", "TRITON_CACHE_DIR", "TRITON_INTERPRET", "VIRTUAL_ENV"),
)
MISSING = "not installed"


class EnvCommand:
    """Print facts for a bug report: versions, extras, devices and the kernels on each device, environment variables.

    Only a fixed list of environment variables without secrets is shown. The home directory is shown as ~.
    A section that fails shows its error.
    """

    as_json: bool = option("--json", help="Print one JSON document.")

    def run(self) -> None:
        report = describe()
        emit(report)
        if self.as_json:
            click.echo(json.dumps(report, indent=2))
            return
        for section, facts in report.items():
            say(section)
            for name, value in facts.items():
                shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
                say(f"  {name}: " + shown.strip().replace("\n", "\n    "))


env = command(EnvCommand, output_options())


def describe() -> dict[str, dict[str, Any]]:
    """Returns the report by section, as JSON. A section that fails holds its error."""
    of_package = {"version": sam2fast.__version__, "folder": str(Path(sam2fast.__file__).resolve().parent)}
    sections: dict[str, Callable[[], dict[str, Any]]] = {
        "sam2fast": lambda: of_package,
        "torch": _torch,
        "ops": _ops,
        "packages": lambda: {extra: dict(_version(one.split()) for one in group) for extra, group in PACKAGES.items()},
        "variables": lambda: {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    home, report = os.path.expanduser("~"), dict[str, dict[str, Any]]()
    for section, collect in sections.items():
        try:
            facts = collect()
        except Exception as error:  # a section may fail: broken installations need a report
            facts = {"error": f"{type(error).__name__}: {error}"}
        for name, value in facts.items():
            if isinstance(value, str) and len(home) > 1:
                facts[name] = value.replace(home + os.sep, "~" + os.sep)
        report[section] = facts
    return report


def _torch() -> dict[str, Any]:
    """Returns the report of ``torch.utils.collect_env`` with only the processor's name, and torch's CPU settings."""
    import torch
    from torch.utils.collect_env import get_env_info

    info = {name: value for name, value in get_env_info()._asdict().items() if value not in (None, "N/A", {}, "")}
    lines = (info.pop("cpu_info", "") or "").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("Model name")]
    return {
        "version": torch.__version__,
        "processor": names[0] if names else "unknown",
        "CPU capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        **info,
    }


def _ops() -> dict[str, Any]:
    """Returns which implementation of the ops runs on each device, Triton or torch, and the reason."""
    import torch

    from sam2fast import kernels
    from sam2fast.kernels import _dispatch

    backend, modules = _dispatch.current_backend(), [module.name for module in pkgutil.iter_modules(kernels.__path__)]
    with_kernels = [name for name in modules if not name.startswith("_") and not name.endswith(("_triton", "_cpu"))]
    facts: dict[str, Any] = {"backend in force": backend, "with kernels": " ".join(with_kernels)}
    interpreted = backend == "triton" and _dispatch.interpreting()
    facts["cpu"] = "triton's interpreter" if interpreted else "torch: Triton's kernels are for GPUs"
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        why = _dispatch.why_no_triton(torch.device("cuda", index))
        facts[f"cuda:{index}"] = f"torch: {why}" if why else "triton, except for ops that torch does better"
    return facts


def _version(names: Sequence[str]) -> tuple[str, str]:
    """Returns the first installed package and its version, or the first name and :data:`MISSING`."""
    for name in names:
        try:
            return name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return names[0], MISSING
