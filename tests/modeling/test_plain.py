"""Modules are the plain reference: none asks on which device, in which mode or in what way it is computed."""

import ast
from pathlib import Path

import pytest

import sam2fast.modeling

FOLDER = Path(sam2fast.modeling.__file__).parent
# Files that compile modules, and that store tables for graphs.
OTHERS = {"compiled.py", "tables.py"}
QUESTIONS = {
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "is_compiling",
    "is_exporting",
    "is_tracing",
    "is_scripting",
    "is_autocast_enabled",
    "get_autocast_dtype",
    "is_cuda",
    "is_cpu",
    "is_mps",
    "is_available",
    "is_recorded",
    "current_backend",
    "emulates_bfloat16",
    "is_cpu_inference",
    "is_gpu_inference",
    "is_unmodified",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "TensorCache",
    "TorchFunctionMode",
}
# Rotary positions, pooling and constants.
FROM_KERNELS = {
    "sam2fast.kernels.memory_attention": {
        "Pooling",
        "apply_rope",
        "offset_of_means",
        "pool",
        "pooled_keys",
        "rope_attention_reference",
    },
    "sam2fast.kernels.preprocess": {"MEAN", "STD"},
}


def found_in(code: str) -> set[str]:
    """The questions in a file, and what it imports of other packages that compute."""
    tree, found = ast.parse(code), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names}
            module = getattr(node, "module", "") or ""
            packages = {f"{module}.{name}" for name in names}
            if any("sam2fast.engine" in package for package in packages):
                found |= names
            if any("kernels" in package for package in packages):
                found |= names - FROM_KERNELS.get(module, set())
            found |= QUESTIONS & names
        elif isinstance(node, ast.Name | ast.Attribute):
            found |= QUESTIONS & {node.id if isinstance(node, ast.Name) else node.attr}
    return found


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.name)
def test_modules_ask_nothing(file):
    expected = {"TorchFunctionMode"} if file.name == "layers.py" else set()  # of what builds models without weights
    assert file.name in OTHERS or found_in(file.read_text(encoding="utf-8")) == expected


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("x if torch.is_grad_enabled() else y", "is_grad_enabled"),
        ("x.is_cuda", "is_cuda"),
        ("from sam2fast.engine.cpu import ops", "ops"),
        ("from sam2fast import engine", "engine"),
        ("import sam2fast.engine", "sam2fast.engine"),
        ("from sam2fast.kernels._cpu import linear", "linear"),
        ("from sam2fast.kernels import mask_ops", "mask_ops"),
        ("from sam2fast.kernels.memory_attention import memory_attention, pool", "memory_attention"),
        ("any(module._forward_hooks)", "_forward_hooks"),
    ],
)
def test_what_is_found(code, found):
    assert found_in(code) == {found}
