"""Random weights that keep a model well-behaved, for parity tests without a checkpoint.

Each tensor is made of its state-dict name and the seed, so that two implementations get bit-identical weights.
"""

import math
import re
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

# Scales on top of fan-in scaling, close to the activations of a trained model. With larger ones, attention in the
# mask decoder becomes one-hot and rounding noise grows into other masks, so that a comparison shows nothing.
NECK, QUERY_KEY, RESIDUAL = 0.3, 1.0, 0.5
EMBEDDING = 0.5
# Added to the object score, so that random objects are present.
PRESENCE = 2.0
# Of RepViT: batch norms of what is added to a map, and the bias of what scales its channels by a sigmoid.
ADDED, SCALED = 0.3, 2.0

QUERY_KEY_NAME = re.compile(r"(q_proj|k_proj)\.weight$")
RESIDUAL_NAME = re.compile(r"(attn\.proj|out_proj|mlp\.layers\.1|linear2|pwconv2)\.weight$")
EMBEDDING_NAME = re.compile(
    r"(_embed|_embed\.weight|_embeddings\.\d\.weight|_tokens?\.weight|pos_embed_window|tpos_enc|no_obj_ptr"
    r"|no_mem_pos_enc|no_obj_embed_spatial)$"
)
ADDED_NAME = re.compile(r"(token_mixer\.conv1?|(channel_mixer|ffn)\.conv2)\.bn\.weight$")

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class NothingDrawn(TorchFunctionMode):
    """Inside the block, modules skip parameter initialisation; weights are set afterwards."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        draws = func in (torch.Tensor.normal_, torch.Tensor.uniform_)
        if draws or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def built(build: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Returns the model of a builder, with random values of seed 0."""
    with NothingDrawn():
        model = build(*args, **kwargs)
    return fill(model, 0)


def fill(model: ModuleT, seed: int) -> ModuleT:
    """Overwrites every tensor of the model's state dict by its random values, and returns the model."""
    drawn = {name: _draws.get(name, tuple(x.shape), seed) for name, x in model.state_dict().items()}
    model.load_state_dict(drawn)
    return model


class _Draws:
    """Draws as tensors that nobody may write to; the last are kept, as most models of a test run are of one size."""

    KEPT = 3 * 2**27  # bytes

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, tuple[int, ...], int], torch.Tensor] = OrderedDict()
        self._bytes = 0

    def get(self, name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
        key = name, shape, seed
        if key not in self._kept:
            self._kept[key] = torch.from_numpy(draw(name, shape, seed))
            self._bytes += self._kept[key].nbytes
        self._kept.move_to_end(key)
        drawn = self._kept[key]
        while self._bytes > self.KEPT:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return drawn


_draws = _Draws()


def draw(name: str, shape: Sequence[int], seed: int) -> np.ndarray:
    """The float32 tensor of this official name."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    x = rng.standard_normal(tuple(shape), dtype=np.float32)
    if "gaussian_matrix" in name:
        return x
    if name.endswith("gamma"):
        return 0.5 + 0.1 * x
    if EMBEDDING_NAME.search(name):
        return EMBEDDING * x
    if len(shape) >= 2:
        # Divided in double precision, by pieces: NumPy 1 and 2 would choose differently.
        x *= np.float32(_scale(name))
        return np.divide(x, math.sqrt(_fan_in(name, shape)), out=x, dtype=np.float64, casting="same_kind")
    if name.endswith(("weight", "running_var")):  # of a norm
        return (ADDED if ADDED_NAME.search(name) else 1) * (1 + 0.1 * x)
    bias = 0.05 * x + SCALED if name.endswith("se.fc2.bias") else 0.05 * x
    return bias + PRESENCE if "pred_obj_score_head.layers.2" in name else bias


def _fan_in(name: str, shape: Sequence[int]) -> int:
    # Transposed convolutions have their input channels first; stride and kernel are equal, so one input each.
    return shape[0] if "output_upscaling" in name or ".dconv_" in name else math.prod(shape[1:])


def _scale(name: str) -> float:
    if "neck.convs" in name and ".dconv_" not in name:
        return NECK
    if QUERY_KEY_NAME.search(name):
        return QUERY_KEY
    return RESIDUAL if RESIDUAL_NAME.search(name) else 1.0
