"""Lists the functions that compute parts of a model, and wraps these functions in ranges of torch.profiler."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle
from threading import get_ident
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import record_function
from torch.utils.flop_counter import FlopCounterMode

from sam2fast import image_features, sam2_image_predictor
from sam2fast.engine import cpu, engine_for, static
from sam2fast.modeling import attention
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking import step, tracker
from sam2fast.tracking.memory_bank import MemoryBank
from sam2fast.transforms import SAM2Transforms
from sam2fast.video_io import frames

# Owner of a function (object, class or Python module), name of the function, and names of nested parts, outermost part
# first. If names differ between calls, an iterator yields the names for the next call.
PartOf = tuple[Any, str, tuple[str, ...] | Iterator[tuple[str, ...]]]

# Functions that compute parts from plans: Python module, names of functions, and names of parts. {} stands for the
# stage of a block, or the number of a layer. Blocks and layers are called in order.
_OF_PLANS: tuple[tuple[Any, str, str], ...] = (
    (cpu, "encode", "encode"),
    (cpu.image, "_transform", "stage {}"),
    (cpu.image, "neck scaled_neck", "neck"),
    (cpu.image, "normalize", "norms"),
    (cpu.image, "linear", "projections"),
    (cpu.image, "window_attention_reference", "attention"),
    (cpu.image, "gelu_mlp", "MLP"),
    (cpu.masks, "decode", "mask decoder"),
    (cpu.masks, "embed_points embed_masks", "prompt encoder"),
    (cpu.masks, "_project", "transformer/shared projections"),
    (cpu.masks, "_two_way", "transformer/layer {}"),
    (cpu.masks, "_attend_to_image", "transformer/final attention"),
    (cpu.masks, "_upscale", "upscaling"),
    (cpu.memory, "attend", "memory attention"),
    (cpu.memory, "_attend_to_itself", "layer {}/self-attention"),
    (cpu.memory, "_query", "layer {}/cross-attention"),
    (cpu.memory, "memory_attention_cpu", "layer {}/cross-attention/attention"),
    (cpu.memory, "_feed_forward", "layer {}/feed-forward"),
    (cpu.memory, "rope_attention_cpu rope_attention_reference", "attention"),
    (cpu.memory, "linear", "projections"),
    (cpu.memory, "normalize", "norms"),
    (cpu.memory, "_fuse", "fuser"),
    (cpu.memory, "compress", "perceiver"),
    (cpu.masks, "pointers_of", "object pointers"),
    (static, "encode", "encode"),
    (static.image, "neck scaled_neck", "neck"),
    (static.image, "normalize_sum shifted_layer_norm", "norms"),
    (static.image, "linear add_product", "projections"),
    (static.image, "window_attention pooled_window_attention", "attention"),
    (static.image, "linear_gelu mlp", "MLP"),
    (static.image, "embed_patches", "patches"),
    (static.masks, "decode", "mask decoder"),
    (static.masks, "_embed_points _embed_masks", "prompt encoder"),
    (static.masks, "_project normalize_projected", "transformer/projections"),
    (static.masks, "token_attention", "transformer/attention"),
    (static.masks, "normalize_and_project", "transformer/tokens"),
    (static.masks, "_heads", "heads"),
    (static.masks, "_upscale", "upscaling"),
    (static.memory, "attend", "memory attention"),
    (static.memory, "_attend", "layer {}"),
    (static.memory, "_attend_to_itself", "self-attention"),
    (static.memory, "memory_attention add_memory_attention", "cross-attention/attention"),
    (static.memory, "rope_attention add_rope_attention", "attention"),
    (static.memory, "linear", "projections"),
    (static.memory, "normalize_sum", "norms"),
    (static.memory, "_downsampled", "mask downsampler"),
    (static.memory, "_convolved linear_gelu", "fuser"),
    (static.masks, "pointers_of", "object pointers"),
)
_BLOCK, _LAYER = r"image_encoder\.trunk\.blocks\.(\d+)", r"memory_attention\.layers\.(\d+)"
# Functions of parts that a user modified: path of modules, names of functions, and names of parts. {} stands for the
# number in the path, and {stage} for the stage of the block.
_OF_MODULES = (
    ("", "encode_image", "encode"),
    (r"image_encoder\.trunk\.patch_embed", "forward", "patch embedding"),
    (r"image_encoder\.trunk\.body\.stem", "forward", "patch embedding"),
    (r"image_encoder\.trunk\.body\.stages_(\d+)", "forward", "stage {stage}"),
    (_BLOCK, "forward", "stage {stage}"),
    (_BLOCK + r"\.attn", "forward", "attention"),
    (_BLOCK + r"\.mlp", "forward", "MLP"),
    (r"image_encoder\.neck", "forward", "neck"),
    ("sam_prompt_encoder", "forward", "prompt encoder"),
    ("sam_mask_decoder", "forward", "mask decoder"),
    (r"sam_mask_decoder\.transformer", "forward", "transformer"),
    ("sam_mask_decoder", "_upscaled", "upscaling"),
    (r"sam_mask_decoder\.transformer\.layers\.(\d+)", "forward", "layer {}"),
    (r"sam_mask_decoder\.transformer\.final_attn_token_to_image", "forward", "final attention"),
    ("memory_attention", "forward", "memory attention"),
    (_LAYER, "forward", "layer {}"),
    (_LAYER + r"\.self_attn", "forward", "self-attention"),
    (_LAYER + r"\.cross_attn_image", "forward", "cross-attention"),
    (_LAYER + r"\.(?:self_attn|cross_attn_image)", "_projected _output", "projections"),
    (r"memory_encoder\.mask_downsampler", "forward", "mask downsampling"),
    (r"memory_encoder\.pix_feat_proj", "forward", "pixel projection"),
    (r"memory_encoder\.fuser", "forward", "fuser"),
    (r"memory_encoder\.out_proj", "forward", "output projection"),
    ("spatial_perceiver", "forward", "perceiver"),
    ("obj_ptr_proj", "forward", "object pointers"),
)
_OF_FUNCTIONS: tuple[tuple[Any, str, str], ...] = (
    (image_features, "to_pixels", "decode"),
    (frames.Frames, "pixels", "decode"),
    (SAM2Transforms, "from_pixels", "preprocess"),
    (frames, "resize_and_normalise", "preprocess"),
    (attention, "rope_attention_reference", "attention"),
    (step, "attended_by_tables", "memory tables"),
    (step, "encode_masks", "memory encoding"),
    (step, "fill_holes_in_mask_scores", "hole filling"),
    (SAM2Transforms, "cleaned", "hole filling"),
    (MemoryBank, "write_memories", "copies"),
    (MemoryBank, "write_pointers", "copies"),
    (tracker, "format_masks", "masks to video size"),
    (SAM2Transforms, "postprocess_to_bool", "masks to image size"),
    *((sam2_image_predictor, name, "results to the CPU") for name in ("unpacked_on_host", "copy_to_host", "to_numpy")),
)


# Maps the first name of a module's path to a part of the engine.
_PART_OF_MODULE = {
    "": "image",
    "image_encoder": "image",
    "sam_prompt_encoder": "masks",
    "sam_mask_decoder": "masks",
    "memory_attention": "attention",
    "memory_encoder": "memory",
    "spatial_perceiver": "memory",
    "obj_ptr_proj": "masks",
    "mask_downsample": "masks",
}


@torch.no_grad()
def model_parts(model: SAM2Base) -> list[PartOf]:
    """Returns the functions that compute all parts of a model, of inputs and of results."""
    parts: list[PartOf] = [(owner, function, (name,)) for owner, function, name in _OF_FUNCTIONS]
    stages = _stages(model)
    numbers: dict[Any, Sequence[int]] = {cpu.image: stages}
    numbers[cpu.masks] = range(len(getattr(model.sam_mask_decoder.transformer, "layers", ())))
    numbers[cpu.memory] = numbers[static.memory] = range(len(getattr(model.memory_attention, "layers", ())))
    for owner, functions, names in _OF_PLANS:
        numbered = [tuple(names.format(n).split("/")) for n in numbers.get(owner) or [0]]
        parts += [(owner, function, cycle(numbered)) for function in functions.split()]
    planned = engine_for(model).parts()
    for path, module in model.named_modules():
        part = _PART_OF_MODULE.get(path.split(".")[0])
        if part is None or getattr(planned, part):  # wrapping would make these modules count as modified
            continue
        for pattern, functions, names in _OF_MODULES:
            if match := re.fullmatch(pattern, path):
                number = int(match[1]) if match.groups() else 0
                stage = stages[number] if number < len(stages) else 1 + number
                path_of_part = tuple(names.format(number, stage=stage).split("/"))
                parts += [(module, function, path_of_part) for function in functions.split()]
    return parts


def _stages(model: SAM2Base) -> list[int]:
    """Returns the stage of each block of the image encoder's trunk. For a trunk without blocks, the list is empty."""
    ends, blocks = (getattr(model.image_encoder.trunk, name, ()) for name in ("stage_ends", "blocks"))
    return [1 + sum(end < i for end in ends) for i in range(len(blocks))]


class Ranges:
    """Creates ranges of torch.profiler in one thread, with paths such as ``frame/encode/neck``, and counts FLOPs."""

    def __init__(self, counter: FlopCounterMode | None = None) -> None:
        self.flops: dict[str, int] = defaultdict(int)
        self._counter, self._path, self._thread = counter, "", get_ident()

    @contextmanager
    def open(self, name: str) -> Iterator[None]:
        """Context manager that opens a range inside the current range."""
        outer, before = self._path, self._counted()
        self._path = path = f"{outer}/{name}" if outer else name
        try:
            with record_function(path):
                yield
        finally:
            self._path = outer
            self.flops[path] += self._counted() - before

    def _counted(self) -> int:
        return 0 if self._counter is None else self._counter.get_total_flops()

    @contextmanager
    def around(self, parts: Sequence[PartOf]) -> Iterator[None]:
        """Context manager that wraps functions of parts: inside an open range, the functions open nested ranges."""
        with ExitStack() as undo:
            for owner, name, names in parts:
                undo.enter_context(patch.object(owner, name, self._wrapped(getattr(owner, name), names)))
            yield

    def _wrapped(
        self, function: Callable[..., Any], names: tuple[str, ...] | Iterator[tuple[str, ...]]
    ) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or not self._path or get_ident() != self._thread:
                return function(*args, **kwargs)
            with ExitStack() as parts:
                for name in names if isinstance(names, tuple) else next(names):
                    if self._path.rpartition("/")[2] != name:  # a recursive call is not a new part
                        parts.enter_context(self.open(name))
                return function(*args, **kwargs)

        return wrapped
