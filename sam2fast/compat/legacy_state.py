"""The original's nested dicts, as read-only views of a :class:`VideoState`."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.memory_bank import MemoryLayout
from sam2fast.tracking.state import FrameResult, TrackedObject, VideoState, Views

PositionEncoding: TypeAlias = Callable[[Tensor], Tensor]  # of maps (B, C, H, W)


class FrameOutput(Mapping[str, Any]):
    """One object's stored output on one frame, under the original's keys; tensors are copied when asked for."""

    KEYS = ("maskmem_features", "maskmem_pos_enc", "pred_masks", "obj_ptr", "object_score_logits")

    def __init__(self, state: VideoState, result: FrameResult, position: PositionEncoding) -> None:
        self._state = state
        self._result = result
        self._position = position

    def __getitem__(self, key: str) -> Any:
        state, result = self._state, self._result
        if key == "maskmem_features":
            return None if result.memory is None else state.bank.read_memory(result.memory).to(state.storage_device)
        if key == "maskmem_pos_enc":
            return None if result.memory is None else memory_position(self._position, state.bank.layout)
        if key == "pred_masks":
            return result.mask.to(state.storage_device, copy=True)
        if key == "obj_ptr":
            return state.bank.pointers.read(result.pointer)[None].to(state.device)
        if key == "object_score_logits":
            return result.score.to(state.device, copy=True)
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.KEYS)

    def __len__(self) -> int:
        return len(self.KEYS)


def memory_position(position: PositionEncoding, layout: MemoryLayout) -> list[Tensor]:
    """The position encoding ``(1, C_mem, H, W)`` of every memory, in the original's list of one."""
    return [position(torch.zeros(1, layout.channels, layout.side, layout.side, device=layout.device))]


def cached_features(
    state: VideoState, position: PositionEncoding
) -> Mapping[int, tuple[Tensor, dict[str, list[Tensor]]]]:
    """Image ``(1, 3, S, S)`` and features of the frames used last, as the original keeps them."""
    found = {}
    for frame, features in state.features.awaited():
        levels = [*features.high_res, features.embedding]
        backbone_out = {"backbone_fpn": levels, "vision_pos_enc": [position(x).to(x.dtype) for x in levels]}
        found[frame] = (state.frames[frame][None], backbone_out)
    return MappingProxyType(found)


def outputs(state: VideoState, tracked: TrackedObject, new: bool, position: PositionEncoding) -> Mapping[str, Any]:
    """One object's stored outputs by kind and frame; ``new`` for those of prompts since the last propagation."""
    kinds = {"cond_frame_outputs": True, "non_cond_frame_outputs": False}
    read = tracked.new_results if new else tracked.results
    return MappingProxyType(
        {
            name: MappingProxyType({t: FrameOutput(state, r, position) for t, r in read(kind).items()})
            for name, kind in kinds.items()
        }
    )


def _by_index(read: Callable[[VideoState, TrackedObject], Any]) -> Callable[[VideoState], Any]:
    return lambda state: MappingProxyType({i: read(state, o) for i, o in enumerate(state.objects.values())})


def legacy_views(model: SAM2Base) -> Views:
    """The values of the original's keys. They keep the model's position encodings, which have no weights."""
    memory: PositionEncoding = model.memory_encoder.position_encoding
    image: PositionEncoding = model.image_encoder.neck.position_encoding
    return {
        "images": lambda s: s.frames,
        "num_frames": lambda s: s.num_frames,
        "offload_video_to_cpu": lambda s: s.offload_video_to_cpu,
        "offload_state_to_cpu": lambda s: s.offload_state_to_cpu,
        "video_height": lambda s: s.video_size[0],
        "video_width": lambda s: s.video_size[1],
        "device": lambda s: s.device,
        "storage_device": lambda s: s.storage_device,
        "point_inputs_per_obj": _by_index(
            lambda _, o: MappingProxyType({t: MappingProxyType(points) for t, points in o.points.items()})
        ),
        "mask_inputs_per_obj": _by_index(
            lambda s, o: MappingProxyType({t: mask.to(s.device, copy=True) for t, mask in o.masks.items()})
        ),
        "cached_features": lambda s: cached_features(s, image),
        "constants": lambda s: MappingProxyType({"maskmem_pos_enc": memory_position(memory, s.bank.layout)}),
        "obj_id_to_idx": lambda s: MappingProxyType({obj_id: i for i, obj_id in enumerate(s.objects)}),
        "obj_idx_to_id": lambda s: MappingProxyType(dict(enumerate(s.objects))),
        "obj_ids": lambda s: s.obj_ids,
        "output_dict_per_obj": _by_index(lambda s, o: outputs(s, o, False, memory)),
        "temp_output_dict_per_obj": _by_index(lambda s, o: outputs(s, o, True, memory)),
        "frames_tracked_per_obj": _by_index(
            lambda _, o: MappingProxyType({t: {"reverse": r} for t, r in o.reverse.items()})
        ),
    }
