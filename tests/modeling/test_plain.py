"""Modules are the plain reference: none asks on which device, in which mode or in what way it is computed."""

import ast
from pathlib import Path

import pytest

import sam2fast.modeling

FOLDER = Path(sam2fast.modeling.__file__).parent
# What compiles modules, and what notices whether they are as built.
OTHERS = {"compiled.py", "standard.py"}
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
    "is_standard",
    "is_standard_layer",
    "is_plain",
    "has_standard_parts",
    "TensorCache",
    "TorchFunctionMode",
}
FROM_KERNELS = {"sam2fast.kernels.memory_attention", "sam2fast.kernels.mask_ops"}


def found_in(code: str) -> set[str]:
    """The questions in a file, and what it imports of other packages that compute."""
    tree, found = ast.parse(code), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module.startswith("sam2fast.engine") or "kernels" in module and module not in FROM_KERNELS:
                found.add(module)
            found |= QUESTIONS & {alias.name for alias in node.names}
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
        ("from sam2fast.engine.cpu import ops", "sam2fast.engine.cpu"),
        ("from sam2fast.kernels._cpu import linear", "sam2fast.kernels._cpu"),
        ("from sam2fast.modeling.standard import is_standard", "is_standard"),
    ],
)
def test_what_is_found(code, found):
    assert found_in(code) == {found}
