"""What a video takes besides images, of random input: from plans and by calls of modules."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from parity import random_map
from planned import without_plans
from torch import Tensor

from sam2fast.engine import engine_for
from sam2fast.kernels.memory_attention import AttendedMemory, Fp8


def memories(
    model: Any, pages: Sequence[Sequence[int]] = ((0, 1, 2), (1, -1, -1)), pointers: Sequence[int] = (4, 1)
) -> AttendedMemory:
    """Memories of one object for each row of ``pages``, of which -1 is none, and its number of pointers."""
    (H, W), m = model.memory_size, model.mem_dim
    B, tokens = len(pages), 4 * model.hidden_dim // m
    of_each = torch.tensor(pointers)[:, None] * model.hidden_dim // m
    return AttendedMemory(
        pages=random_map(4, H * W, m),
        page_table=torch.tensor(pages, dtype=torch.int32),
        page_time=torch.arange(len(pages[0]), dtype=torch.int32).expand(B, -1),
        position_encoding=random_map(H * W, m, seed=1),
        time_encoding=model.maskmem_tpos_enc[:, 0, 0],
        pointers=random_map(B, tokens, m, seed=2),
        pointer_encoding=random_map(B, tokens, m, seed=3),
        pointer_valid=torch.arange(tokens).expand(B, -1) < of_each,
    )


@torch.no_grad()
def tracked(
    model: Any,
    memory: AttendedMemory | None = None,
    points: dict[str, Tensor] | None = None,
    prompt: Tensor | None = None,
    multimask: bool = False,
    from_prompt: bool = False,
    fp8: Fp8 = False,
) -> list[Tensor]:
    """A frame's map for some objects, their memories, masks and pointers, all masks, and those of given masks."""
    engine, side = engine_for(model), model.sam_image_embedding_size
    dtype = model.no_mem_embed.dtype
    C = model.hidden_dim
    features = random_map(1, C, side, side, seed=4).to(dtype)
    high_res = []
    if model.use_high_res_features_in_sam:
        high_res = [random_map(1, C // 8 * k, 4 // k * side, 4 // k * side, seed=5 + k).to(dtype) for k in (1, 2)]
    conditioned = engine.attend(features, memory or memories(model), fp8)
    found = engine.track(conditioned, high_res, points, prompt, multimask)
    proposed = engine.propose(conditioned, high_res, points, prompt, multimask, 0.0)
    S = model.image_size
    given = torch.stack([(random_map(1, S, S, seed=9) > 1), torch.zeros(1, S, S)])
    of_given = engine.use_mask(features.expand(2, -1, -1, -1), high_res, given)
    B, logits = len(conditioned), 5 * random_map(len(conditioned), 1, 4 * side, 4 * side, seed=8)
    scores = torch.linspace(-1, 1, B)[:, None]
    encoded = [
        engine.encode_memory(features, x, scores, from_prompt)
        for x in (logits, F.interpolate(logits, scale_factor=4.0, mode="bilinear"))
    ]
    return [conditioned, *encoded, *found._replace(choice=found.choice + 1), *proposed, *of_given[:4]]


def by_modules(model: Any, *args: Any, **kwargs: Any) -> list[Tensor]:
    """The same without plans."""
    with without_plans():
        return tracked(model, *args, **kwargs)
