"""Compiles parts of a model in the forms that users write, and counts graphs."""

from operator import attrgetter
from typing import Any

import torch
from torch._dynamo.testing import CompileCounterWithBackend

PARTS = {
    "image_encoder": "image_encoder",
    "trunk": "image_encoder.trunk",
    "neck": "image_encoder.neck",
    "memory_attention": "memory_attention",
    "memory_encoder": "memory_encoder",
    "prompt_encoder": "sam_prompt_encoder",
    "mask_decoder": "sam_mask_decoder",
}
WAYS = ("wrapped", "forward", "compile")


def compile_module(owner: Any, name: str, way: str, backend: str = "aot_eager", **options: Any) -> Any:
    """Compiles the module ``owner.name``. Returns a counter of its graphs, in ``frame_count``."""
    torch._dynamo.reset()
    *path, name = name.split(".")
    owner, graphs = attrgetter(".".join(path))(owner) if path else owner, CompileCounterWithBackend(backend)
    module = getattr(owner, name)
    if way == "wrapped":
        setattr(owner, name, torch.compile(module, backend=graphs, **options))
    elif way == "forward":
        module.forward = torch.compile(module.forward, backend=graphs, **options)
    else:
        module.compile(backend=graphs, **options)
    return graphs


def tensors_in(results: Any) -> list[torch.Tensor]:
    """Returns the tensors in a tree of results."""
    return [x for x in torch.utils._pytree.tree_leaves(results) if isinstance(x, torch.Tensor)]
