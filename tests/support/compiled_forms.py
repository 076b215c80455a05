"""Compiles parts of a model in the forms that users write, and counts graphs."""

from operator import attrgetter
from typing import Any

import pytest
import torch
from parity import random_map

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


def compile_module(owner: Any, name: str, way: str, backend: str = "aot_eager", **options: Any) -> None:
    """Compiles the module ``owner.name``, and sets :func:`graphs` to 0."""
    reset()
    *path, name = name.split(".")
    owner, options = attrgetter(".".join(path))(owner) if path else owner, {"backend": backend, **options}
    module = getattr(owner, name)
    if way == "wrapped":
        setattr(owner, name, torch.compile(module, **options))
    elif way == "forward":
        module.forward = torch.compile(module.forward, **options)
    else:
        module.compile(**options)


def use_aot_eager(patch: pytest.MonkeyPatch) -> None:
    """Makes ``torch.compile`` use the backend ``aot_eager``, also where a configuration names a mode."""
    compile = torch.compile
    quick = {"mode": None, "backend": "aot_eager"}
    patch.setattr(torch, "compile", lambda function, **options: compile(function, **{**options, **quick}))
    reset()


def reset() -> None:
    """Removes compiled graphs, and sets :func:`graphs` to 0."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def graphs() -> int:
    """Returns the number of graphs since :func:`reset`. A graph that torch traces twice counts once."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def tensors_in(results: Any) -> list[torch.Tensor]:
    """Returns the tensors in a tree of results."""
    return [x for x in torch.utils._pytree.tree_leaves(results) if isinstance(x, torch.Tensor)]


def inputs_of(model: Any, part: str, count: int = 1, side: int = 128) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns random arguments of a part's ``forward``, in the official form, for ``count`` images or objects.

    Args:
        side: Side of the images in pixels. The prompt encoder and the mask decoder have only the model's size.
    """
    h, C, m = side // model.backbone_stride, model.hidden_dim, model.mem_dim
    if part in ("image_encoder", "trunk"):
        return (random_map(count, 3, side, side),), {}
    if part == "neck":
        channels = model.image_encoder.neck.backbone_channel_list[::-1]
        sides = [h * 2**i for i in range(len(channels))][::-1] if len(channels) < 4 else [4 * h, 2 * h, h, h // 2]
        return ([random_map(count, c, s, s, seed=i) for i, (c, s) in enumerate(zip(channels, sides, strict=True))],), {}
    if part == "memory_attention":
        height, width = getattr(model, "memory_size", (h, h))
        tokens = 2 * (height * width if side == model.image_size else h * h) + C // m
        keys = {"memory": random_map(tokens, count, m, seed=2), "memory_pos": random_map(tokens, count, m, seed=3)}
        maps = {"curr": [random_map(h * h, count, C)], "curr_pos": [random_map(h * h, count, C, seed=1)]}
        return (), {**maps, **keys, "num_obj_ptr_tokens": C // m}
    if part == "memory_encoder":
        return (random_map(count, C, h, h), random_map(count, 1, 16 * h, 16 * h, seed=1)), {"skip_mask_sigmoid": True}
    if part == "prompt_encoder":
        labels = torch.arange(3 * count).reshape(count, 3).int() % 2
        return (), {"points": (random_map(count, 3, 2).abs() * side, labels), "boxes": None, "masks": None}
    levels = [random_map(1, C // 8, 4 * h, 4 * h, seed=1), random_map(1, C // 4, 2 * h, 2 * h, seed=2)]
    return (), {
        "image_embeddings": random_map(1, C, h, h),
        "image_pe": model.sam_prompt_encoder.get_dense_pe(),
        "sparse_prompt_embeddings": random_map(count, 3, C, seed=3),
        "dense_prompt_embeddings": random_map(1, C, 1, 1, seed=4).expand(count, C, h, h),
        "multimask_output": True,
        "repeat_image": True,
        "high_res_features": levels if model.use_high_res_features_in_sam else None,
    }
