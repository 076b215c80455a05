"""The parts of a model, their timing and FLOP counts, and FLOP formulas of our operators."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any

import torch
from torch.profiler import record_function
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

# Registers the operators whose FLOP formulas are below.
import sam2fast.kernels.linear_gelu.operators
import sam2fast.kernels.memory_attention.operators
import sam2fast.kernels.window_attention.operators  # noqa: F401
from sam2fast.modeling import attention, hiera, hiera_block
from sam2fast.modeling.mask_decoder import MaskDecoder
from sam2fast.modeling.repvit import RepViT
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.modeling.standard import observing
from sam2fast.modeling.upscaling import Upscaling
from sam2fast.profiling.tree import Part

Shape = Sequence[int]
# Owner (an object, class or Python module), name of its function, and names of parts from the outermost in.
PartOf = tuple[Any, str, tuple[str, ...]]
_ops = torch.ops.sam2fast
_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@register_flop_formula(_ops.window_attention)
def window_attention_flops(qkv: Shape, bias: Shape, heads: int, window: int, *rest: Any, out_shape: Shape) -> int:
    """``qkv (B, H, W, 3C)`` to ``(B, H', W', C)``: padding positions are keys, and queries before pooling."""
    B, H, W, channels = qkv
    keys = window**2 if window else H * W
    positions = math.ceil(H / window) * math.ceil(W / window) * keys if window else keys
    queries = positions * out_shape[1] * out_shape[2] // (H * W)
    return 4 * B * queries * keys * (channels // 3)


@register_flop_formula(_ops.linear_gelu)
def linear_gelu_flops(x: Shape, weight: Shape, *rest: Any, out_shape: Shape) -> int:
    """``x (..., K)`` by ``weight (M, K)``."""
    return 2 * math.prod(x) * weight[0]


@register_flop_formula([torch.ops.aten._addmm_activation, torch.ops.aten.addmm_])
def addmm_flops(added: Shape, x: Shape, weight: Shape, *rest: Any, **options: Any) -> int:
    """``x (M, K)`` by ``weight (K, N)``."""
    return 2 * math.prod(x) * weight[1]


# Torch only has formulas for attention on GPUs.
@register_flop_formula([op for op in (_ops.rope_attention, _CPU_ATTENTION) if op not in flop_registry])
def attention_flops(query: Shape, key: Shape, value: Shape, *rest: Any, **options: Any) -> int:
    """``query (B, H, N, D)``, ``key (B, H, M, D)``, ``value (B, H, M, D_v)``; rotations are not counted."""
    B, heads, N, D = query
    return 2 * B * heads * N * key[2] * (D + value[3])


@register_flop_formula(_ops.memory_attention, get_raw=True)
def memory_attention_flops(*tensors: Any, **options: Any) -> int:
    """Valid tokens only: keys are projected before, values after the weighted sum. Waits for the device."""
    query, pages, page_table, pointer_valid, pooling = (*tensors[:3], tensors[8], tensors[16:17])
    (_, heads, N, _), (width, m), value_width = query.shape, tensors[9].shape, tensors[11].shape[0]
    counts, pointers = (page_table >= 0).sum(dim=1) * pages.shape[1], int(pointer_valid.sum().item())
    attended = torch.where(counts > pages.shape[1], counts // 4, counts) if any(pooling) else counts
    keys, scores = (int(rows.sum().item()) + pointers for rows in (counts, attended))
    return 2 * keys * m * width + 2 * scores * N * (width + heads * m) + 2 * len(page_table) * N * m * value_width


class PartRecorder:
    """Adds calls and seconds of parts, or their FLOPs, to a tree, for one thread.

    Each part is a ``record_function`` range of torch.profiler.

    Args:
        root: of the tree, which grows.
        device: of the model. Seconds are measured by the clock, on CUDA by events on the current stream.
        counter: if given, FLOPs are added instead of calls and seconds.
    """

    def __init__(self, root: Part, device: torch.device, counter: FlopCounterMode | None = None) -> None:
        self._root, self._device, self._counter, self._thread = root, device, counter, get_ident()
        self._open: list[Part] = []
        self._events: list[tuple[Part, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def recording(self, parts: Sequence[PartOf]) -> Iterator[None]:
        """Context manager in which calls of these functions are parts."""
        with ExitStack() as undo:
            for owner, name, names in parts:
                original, is_attribute = getattr(owner, name), name in vars(owner)
                setattr(owner, name, self._wrapped(original, names))
                # Restores the object's own attribute, or removes ours so that the class's shows again.
                undo.callback(*(setattr, owner, name, original) if is_attribute else (delattr, owner, name))
            yield

    def _wrapped(self, function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
        @observing
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if not self._open or get_ident() != self._thread:
                return function(*args, **kwargs)
            with ExitStack() as parts:
                for name in names:
                    if self._open[-1].name != name:
                        parts.enter_context(self._part(self._open[-1].child(name)))
                return function(*args, **kwargs)

        return wrapped

    @contextmanager
    def unit(self) -> Iterator[None]:
        """Context manager around one image or frame."""
        with self._part(self._root):
            yield
        if self._events:
            torch.cuda.synchronize(self._device)
        for part, start, end in self._events:
            part.seconds += start.elapsed_time(end) / 1e3
        self._events.clear()

    @contextmanager
    def _part(self, part: Part) -> Iterator[None]:
        self._open.append(part)
        try:
            with record_function("/".join(each.name for each in self._open)), self._measured(part):
                yield
        finally:
            self._open.pop()

    @contextmanager
    def _measured(self, part: Part) -> Iterator[None]:
        if self._counter is not None:
            before = self._counter.get_total_flops()
            yield
            part.flops += self._counter.get_total_flops() - before
            return
        part.calls += 1
        if self._device.type == "cuda":
            stream, start, end = torch.cuda.current_stream(self._device), _event(), _event()
            start.record(stream)
            yield
            end.record(stream)
            self._events.append((part, start, end))
            return
        begun = time.perf_counter()
        yield
        part.seconds += time.perf_counter() - begun


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)


def model_parts(model: SAM2Base) -> list[PartOf]:
    """Parts that images and videos have in common."""
    trunk, neck = model.image_encoder.trunk, model.image_encoder.neck
    parts: list[PartOf] = [
        (model, "encode_image", ("encode",)),
        *(_repvit_parts(trunk) if isinstance(trunk, RepViT) else _block_parts(trunk)),
        (neck, "features", ("neck",)),
        *((model.sam_prompt_encoder, name, ("prompt encoder",)) for name in ("forward", "without_points")),
    ]
    return parts + _decoder_parts(model.sam_mask_decoder)


def _repvit_parts(trunk: RepViT) -> list[PartOf]:
    body = trunk.body
    stages = [body.get_submodule(f"stages_{i}") for i in range(len(trunk.channel_list))]
    return [
        (body.stem, "fused", ("patch embedding",)),
        *((stage, "fused", (f"stage {number}",)) for number, stage in enumerate(stages, 1)),
    ]


_BLOCK_CALLS = ("fused", "branches", "normed_input", "add_in_place", "norm_with_bias")


def _block_parts(trunk: hiera.BlockTrunk) -> list[PartOf]:
    parts: list[PartOf] = [
        (trunk.patch_embed, "forward", ("patch embedding",)),
        (hiera_block, "window_attention", ("attention",)),
        (hiera_block, "normed_sum", ("norms",)),
        (hiera_block, "shifted_layer_norm", ("norms",)),
    ]
    block: Any
    for number, block in enumerate(trunk.blocks):
        stage = sum(end < number for end in trunk.stage_ends) + 1
        parts += [(block, name, (f"stage {stage}",)) for name in _BLOCK_CALLS]
        parts += [
            (block.attn, "_project_in", ("query, key, value",)),
            (block.attn, "_project_out", ("output projection",)),
            (block, "_add_attended", ("output projection",)),
            (block.mlp, "forward", ("MLP",)),
            (block, "_add_mlp", ("MLP",)),
            (block, "_project_residual", ("residual projection",)),
        ]
    return parts


def _decoder_parts(decoder: MaskDecoder) -> list[PartOf]:
    transformer = decoder.transformer
    return [
        (decoder, "forward", ("mask decoder",)),
        (transformer, "prepare", ("transformer", "shared projections")),
        (transformer, "attend", ("transformer",)),
        *((layer, "fused", (f"layer {number}",)) for number, layer in enumerate(transformer.layers)),
        # Folded, or not where that is more work.
        *(
            (transformer.final_attn_token_to_image, name, ("final attention",))
            for name in ("tokens_to_image", "forward")
        ),
        (Upscaling, "masks", ("upscaling",)),
        (decoder, "_heads", ("heads",)),
    ]


def memory_parts(model: SAM2Base) -> list[PartOf]:
    """Parts of memory attention and memory encoding."""
    encoder = model.memory_encoder
    parts: list[PartOf] = [
        (model.memory_attention, "attend", ("memory attention",)),
        (attention, "rope_attention", ("attention",)),
        (attention, "memory_attention", ("attention",)),
        (encoder.mask_downsampler, "forward", ("mask downsampling",)),
        (encoder.pix_feat_proj, "forward", ("pixel projection",)),
        (encoder.fuser, "forward", ("fuser",)),
        (encoder.out_proj, "forward", ("output projection",)),
        (model.obj_ptr_proj, "forward", ("object pointers",)),
    ]
    if model.spatial_perceiver is not None:
        parts.append((model.spatial_perceiver, "forward", ("perceiver",)))
    layer: Any
    for number, layer in enumerate(model.memory_attention.layers):
        itself, cross = layer.self_attn, layer.cross_attn_image
        parts += [
            (layer, "attend", (f"layer {number}",)),
            (itself, "forward", ("self-attention",)),
            (cross, "attend", ("cross-attention",)),
            (layer, "_feed_forward", ("feed-forward",)),
        ]
        parts += [(module, "_project", ("projections",)) for module in (itself, cross)]
        parts.append((itself, "_project_all", ("projections",)))
    return parts
