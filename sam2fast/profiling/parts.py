"""The parts of a model, and ranges of torch.profiler around them."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any
from unittest.mock import patch

from torch.profiler import record_function
from torch.utils.flop_counter import FlopCounterMode

from sam2fast import image_features, sam2_image_predictor
from sam2fast.modeling import attention, hiera_block
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.modeling.standard import observing
from sam2fast.tracking import eager_runner, tracker
from sam2fast.tracking.memory_bank import MemoryBank
from sam2fast.transforms import SAM2Transforms
from sam2fast.video_io import frames

# Owner (an object, class or Python module), name of its function, and names of parts from the outermost in.
PartOf = tuple[Any, str, tuple[str, ...]]

_BLOCK, _LAYER = r"image_encoder\.trunk\.blocks\.(\d+)", r"memory_attention\.layers\.(\d+)"
# Path of modules, names of their functions, and names of parts. {} is the number in the path, {stage} the block's.
_OF_MODULES = (
    ("", "encode_image", "encode"),
    (r"image_encoder\.trunk\.patch_embed", "forward", "patch embedding"),
    (r"image_encoder\.trunk\.body\.stem", "fused", "patch embedding"),
    (r"image_encoder\.trunk\.body\.stages_(\d+)", "fused", "stage {stage}"),
    (_BLOCK, "fused branches normed_input add_in_place norm_with_bias", "stage {stage}"),
    (_BLOCK, "_add_attended", "output projection"),
    (_BLOCK, "_add_mlp", "MLP"),
    (_BLOCK, "_project_residual", "residual projection"),
    (_BLOCK + r"\.attn", "_project_in", "query, key, value"),
    (_BLOCK + r"\.attn", "_project_out", "output projection"),
    (_BLOCK + r"\.mlp", "forward", "MLP"),
    (r"image_encoder\.neck", "features", "neck"),
    ("sam_prompt_encoder", "forward", "prompt encoder"),
    ("sam_mask_decoder", "forward", "mask decoder"),
    (r"sam_mask_decoder\.transformer", "forward", "transformer"),
    ("sam_mask_decoder", "_upscaled", "upscaling"),
    (r"sam_mask_decoder\.transformer\.layers\.(\d+)", "forward", "layer {}"),
    (r"sam_mask_decoder\.transformer\.final_attn_token_to_image", "forward", "final attention"),
    ("memory_attention", "attend", "memory attention"),
    (_LAYER, "attend", "layer {}"),
    (_LAYER, "_feed_forward", "feed-forward"),
    (_LAYER + r"\.self_attn", "forward", "self-attention"),
    (_LAYER + r"\.cross_attn_image", "attend", "cross-attention"),
    (_LAYER + r"\.self_attn", "_project_all", "projections"),
    (_LAYER + r"\.(?:self_attn|cross_attn_image)", "_project", "projections"),
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
    (hiera_block, "window_attention", "attention"),
    (hiera_block, "normed_sum", "norms"),
    (hiera_block, "shifted_layer_norm", "norms"),
    (attention, "rope_attention", "attention"),
    (attention, "memory_attention", "attention"),
    (eager_runner, "gather_memory", "memory tables"),
    (eager_runner, "encode_masks", "memory encoding"),
    (eager_runner, "fill_holes_in_mask_scores", "hole filling"),
    (SAM2Transforms, "cleaned", "hole filling"),
    (MemoryBank, "write_memories", "copies"),
    (MemoryBank, "write_pointers", "copies"),
    (tracker, "format_masks", "masks to video size"),
    (SAM2Transforms, "postprocess_to_bool", "masks to image size"),
    (sam2_image_predictor, "_to_numpy", "results to the CPU"),
)


def model_parts(model: SAM2Base) -> list[PartOf]:
    """The functions that are parts: of this model, and of the code for its inputs and results."""
    ends = getattr(model.image_encoder.trunk, "stage_ends", None)
    found: list[PartOf] = [(owner, function, (name,)) for owner, function, name in _OF_FUNCTIONS]
    for path, module in model.named_modules():
        for pattern, functions, names in _OF_MODULES:
            if match := re.fullmatch(pattern, path):
                number = int(match[1]) if match.groups() else 0
                stage = 1 + (number if ends is None else sum(end < number for end in ends))
                parts = tuple(names.format(number, stage=stage).split("/"))
                found += [(module, function, parts) for function in functions.split()]
    return found


class Ranges:
    """Ranges of torch.profiler, named by their paths, such as ``frame/encode/neck``, in one thread.

    Args:
        counter: if given, the FLOPs of each range are added to ``flops``.
    """

    def __init__(self, counter: FlopCounterMode | None = None) -> None:
        self.flops: dict[str, int] = defaultdict(int)
        self._counter, self._path, self._thread = counter, "", get_ident()

    @contextmanager
    def open(self, name: str) -> Iterator[None]:
        """Context manager of a range inside the open ones."""
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
        """Context manager in which calls of these functions are ranges, while another one is open."""
        with ExitStack() as undo:
            for owner, name, names in parts:
                undo.enter_context(patch.object(owner, name, self._wrapped(getattr(owner, name), names)))
            yield

    def _wrapped(self, function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
        @observing
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with ExitStack() as parts:
                for name in names if self._path and get_ident() == self._thread else ():
                    if self._path.rpartition("/")[2] != name:  # a recursive part is one part
                        parts.enter_context(self.open(name))
                return function(*args, **kwargs)

        return wrapped
