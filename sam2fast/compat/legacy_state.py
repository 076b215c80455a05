"""A session as the original's nested dicts."""

from collections.abc import Callable, MutableMapping
from typing import Any

import torch
from torch import Tensor

from sam2fast.compat.video_state import VideoState
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.outputs import FrameResult
from sam2fast.tracking.session import TrackedObject

# The two kinds of results, by whether their frames are conditioning ones.
KINDS = {True: "cond_frame_outputs", False: "non_cond_frame_outputs"}
# What the original keeps for each object, by the object's position among all.
PER_OBJECT = (
    "point_inputs_per_obj",
    "mask_inputs_per_obj",
    "output_dict_per_obj",
    "temp_output_dict_per_obj",
    "frames_tracked_per_obj",
)


def official_session(model: SAM2Base) -> Callable[[VideoState], dict[str, Any]]:
    """A function that converts sessions to the original's ``inference_state``.

    It refers to the model's position encodings, which have no weights, and not to the model. Custom encoders need not
    have any: their sessions are converted before there is a result.
    """
    of_memory: Any = getattr(model.memory_encoder, "position_encoding", None)
    if model.spatial_perceiver is not None:
        of_memory = model.spatial_perceiver.encode_positions
    of_image: Any = getattr(getattr(model.image_encoder, "neck", None), "position_encoding", None)

    def as_dict(state: VideoState) -> dict[str, Any]:
        layout = state.bank.layout
        blank = torch.zeros(1, layout.channels, *layout.size, device=layout.device)
        positions = [] if of_memory is None else [of_memory(blank)]
        objects = list(state.objects.values())
        session: dict[str, Any] = {
            "images": state.frames,
            "num_frames": state.num_frames,
            "offload_video_to_cpu": state.offload_video_to_cpu,
            "offload_state_to_cpu": state.offload_state_to_cpu,
            "video_height": state.video_size[0],
            "video_width": state.video_size[1],
            "device": state.device,
            "storage_device": state.storage_device,
            "cached_features": {},
            "constants": {"maskmem_pos_enc": positions} if positions else {},
            "obj_id_to_idx": {obj_id: i for i, obj_id in enumerate(state.objects)},
            "obj_idx_to_id": dict(enumerate(state.objects)),
            "obj_ids": list(state.objects),
            "point_inputs_per_obj": {i: dict(o.points) for i, o in enumerate(objects)},
            "mask_inputs_per_obj": {
                i: {t: mask.to(state.device) for t, mask in o.masks.items()} for i, o in enumerate(objects)
            },
            "output_dict_per_obj": {i: _outputs(state, o, False, positions) for i, o in enumerate(objects)},
            "temp_output_dict_per_obj": {i: _outputs(state, o, True, positions) for i, o in enumerate(objects)},
            "frames_tracked_per_obj": {
                i: {t: {"reverse": r} for t, r in o.reverse.items()} for i, o in enumerate(objects)
            },
        }
        for frame, features in state.features.awaited():  # the last one, as the original
            levels = [*features.high_res, features.embedding]
            encodings = [of_image(x).to(x.dtype) for x in levels]
            image = state.frames[frame].to(state.device)[None]
            session["cached_features"] = {frame: (image, {"backbone_fpn": levels, "vision_pos_enc": encodings})}
        return session

    return as_dict


def new_object(session: MutableMapping[str, Any], obj_id: Any) -> int:
    """Adds an object without prompts; returns its position."""
    index = len(session["obj_id_to_idx"])
    session["obj_id_to_idx"][obj_id], session["obj_idx_to_id"][index] = index, obj_id
    session["obj_ids"] = list(session["obj_id_to_idx"])
    for key in PER_OBJECT:
        session[key][index] = {kind: {} for kind in KINDS.values()} if "output" in key else {}
    return index


def drop_object(session: MutableMapping[str, Any], index: int) -> None:
    """Removes an object; those after it move up."""
    ids = [obj_id for i, obj_id in enumerate(session["obj_ids"]) if i != index]
    session["obj_id_to_idx"] = {obj_id: i for i, obj_id in enumerate(ids)}
    session["obj_idx_to_id"], session["obj_ids"] = dict(enumerate(ids)), ids
    for key in PER_OBJECT:
        entries = [session[key].pop(i) for i in sorted(session[key])]
        session[key].update(enumerate(entries[:index] + entries[index + 1 :]))


def _outputs(state: VideoState, tracked: TrackedObject, new: bool, positions: list[Tensor]) -> dict[str, Any]:
    """One object's results by kind and frame; ``new`` for those of prompts since the last propagation."""
    read = tracked.new_results if new else tracked.results
    return {
        name: {t: _output(state, result, positions) for t, result in read(kind).items()} for kind, name in KINDS.items()
    }


def _output(state: VideoState, result: FrameResult, positions: list[Tensor]) -> dict[str, Any]:
    memory = result.memory
    return {
        "maskmem_features": None if memory is None else state.bank.read_memory(memory).to(state.storage_device),
        "maskmem_pos_enc": None if memory is None else positions,
        "pred_masks": result.mask.to(state.storage_device, copy=True),
        "obj_ptr": state.bank.pointers.read(result.pointer)[None].to(state.device),
        "object_score_logits": result.score.to(state.device, copy=True),
    }
