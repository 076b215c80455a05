"""Makes a session usable as the official ``inference_state``, and checks sessions that are passed to methods."""

import logging
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.features import FeatureCache
from sam2fast.tracking.memory_bank import MemoryBank
from sam2fast.tracking.outputs import FrameResult
from sam2fast.tracking.saved_state import StateError
from sam2fast.tracking.session import TrackedObject, VideoSession, check_kind
from sam2fast.tracking.strategies import SAM2
from sam2fast.utils.thread_guard import CallGuard, exclusive_session

_log = logging.getLogger(__name__)

Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(eq=False, repr=False)
class VideoState(VideoSession, MutableMapping[str, Any]):
    """Stores a video, objects and memories, but not the model. Returned by ``init_state``.

    A session is also a mapping with the keys of the official ``inference_state``. Reading or assigning a key of
    prompts, results or features converts the session to the official nested dicts. After the conversion, methods read
    and write the nested dicts, and track object by object. Reading keys that only describe the video and the objects
    does not convert the session.

    Args:
        as_dict: Function that converts a session to the official nested dicts.

    Attributes:
        official: The official dict after the conversion, else None. After the conversion, ``objects``, ``features`` and
            ``bank`` are empty.
    """

    as_dict: Callable[["VideoState"], dict[str, Any]] = field(kw_only=True)
    official: MutableMapping[str, Any] | None = field(default=None, init=False)

    @classmethod
    def of_dict(cls, session: MutableMapping[str, Any]) -> "VideoState":
        """Returns a session that reads and writes a caller's dict with the official keys.

        Raises:
            TypeError: If the dict lacks keys.
        """
        missing = [key for key in OFFICIAL_KEYS if key not in session and key not in _NOT_NEEDED]
        if missing:
            raise TypeError(
                f"inference_state is a dict without {', '.join(map(repr, missing))}; expected the session that "
                "init_state() returned, or a dict with the keys of the official inference_state"
            )
        state = cls.__new__(cls)
        attributes = {"official": session, "frames": session.get("images"), "max_history": None, "strategy": SAM2}
        vars(state).update(attributes, opened_with=None, guard=CallGuard())
        return state

    @property
    def num_frames(self) -> int:
        """Number of frames of the video."""
        return len(self.frames) if self.official is None else self.official["num_frames"]

    @property
    def video_size(self) -> tuple[int, int]:
        """Height and width of the video."""
        if self.official is not None:
            return self.official["video_height"], self.official["video_width"]
        return self.frames.height, self.frames.width

    @property
    def storage_device(self) -> torch.device:
        """Device on which the official package stores results."""
        return torch.device("cpu") if self.offload_state_to_cpu else self.device

    def to_official(self, reason: str) -> MutableMapping[str, Any]:
        """Converts the session to the official dict, and returns this dict. Logs the ``reason``."""
        if self.official is None:
            inexact = self.bank.approximations.named()
            _log.warning(
                "%s: from now on the session is the official dict and tracks object by object, which is slower%s",
                reason,
                f", and without its approximations {inexact}" if inexact else "",
            )
            self.official = self.as_dict(self)
            self.objects, self.bank = {}, self.bank.emptied()
            self.features.clear()
        return self.official

    def clear(self) -> None:
        """Removes all objects and memories, or all entries of the official dict."""
        if self.official is None:
            super().clear()
        else:
            self.official.clear()

    def check_saveable(self) -> None:
        """Raises :class:`StateError` if the session was converted to the official dict."""
        if self.official is not None:
            raise StateError(
                "this session is the official dict, since one of its keys was used or a private method is "
                "overridden: save it with pickle, or copy it with copy.deepcopy"
            )

    def __getitem__(self, key: str) -> Any:
        if self.official is None and key in _DESCRIPTION:
            return _DESCRIPTION[key](self)
        if self.official is None and key not in OFFICIAL_KEYS:
            raise KeyError(key)
        return self.to_official(f"inference_state[{key!r}] was read")[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.to_official(f"inference_state[{key!r}] was set")[key] = value

    def __delitem__(self, key: str) -> None:
        del self.to_official(f"inference_state[{key!r}] was deleted")[key]

    def __iter__(self) -> Iterator[str]:
        return iter(OFFICIAL_KEYS if self.official is None else self.official)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, key: object) -> bool:
        return any(key == known for known in self)

    def copy(self) -> dict[str, Any]:
        """Returns a shallow copy of the official dict, like ``dict(state)``, which shares the nested dicts."""
        return dict(self)

    def __repr__(self) -> str:
        height, width = self.video_size
        ids = self.obj_ids if self.official is None else self.official["obj_ids"]
        return f"VideoState({self.num_frames} frames of {width}x{height}, objects {ids})"

    def __getstate__(self) -> dict[str, Any]:
        self.to_official("inference_state was copied or pickled")
        return {**vars(self), "features": None, "guard": None, "bank": self.bank.layout, "as_dict": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.bank, self.guard = MemoryBank(state["bank"]), CallGuard()
        self.features = FeatureCache(self.frames, self.device)

    # Compares by identity, since comparing the values of the mapping would convert the session.
    __eq__ = object.__eq__
    __hash__ = object.__hash__


# Optional keys of a caller's dict, which methods do not need if features of all frames are cached.
_NOT_NEEDED = ("images", "offload_video_to_cpu", "offload_state_to_cpu")
# Keys of the video and of ids, which can be read without converting the session.
_VIDEO: dict[str, Callable[[VideoState], Any]] = {
    "images": lambda s: s.frames,
    "num_frames": lambda s: s.num_frames,
    "offload_video_to_cpu": lambda s: s.offload_video_to_cpu,
    "offload_state_to_cpu": lambda s: s.offload_state_to_cpu,
    "video_height": lambda s: s.video_size[0],
    "video_width": lambda s: s.video_size[1],
    "device": lambda s: s.device,
    "storage_device": lambda s: s.storage_device,
}
_IDS: dict[str, Callable[[VideoState], Any]] = {
    "obj_id_to_idx": lambda s: MappingProxyType({obj_id: i for i, obj_id in enumerate(s.objects)}),
    "obj_idx_to_id": lambda s: MappingProxyType(dict(enumerate(s.objects))),
    "obj_ids": lambda s: s.obj_ids,
}
_DESCRIPTION = {**_VIDEO, **_IDS}
# Keys of results on conditioning frames (True) and on other frames (False).
KINDS = {True: "cond_frame_outputs", False: "non_cond_frame_outputs"}
# Keys of per-object data. Each value is a dict by the object's index.
PER_OBJECT = (
    "point_inputs_per_obj",
    "mask_inputs_per_obj",
    "output_dict_per_obj",
    "temp_output_dict_per_obj",
    "frames_tracked_per_obj",
)
# Keys in the official order. `dict(state)` reads the keys in this order. Keys that convert the session precede the
# ids, so that `dict(state)` gets the official dicts of ids instead of the read-only views above.
OFFICIAL_KEYS = (*_VIDEO, *PER_OBJECT[:2], "cached_features", "constants", *_IDS, *PER_OBJECT[2:])


def official_session(model: SAM2Base) -> Callable[[VideoState], dict[str, Any]]:
    """Returns a function that holds no model, and converts sessions to the official ``inference_state``."""
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
            **{key: read(state) for key, read in _VIDEO.items()},
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
        for frame, features in state.features.awaited():  # keeps only the last frame, as in the official package
            levels = [*features.high_res, features.embedding]
            encodings = [of_image(x).to(x.dtype) for x in levels]
            image = state.frames[frame].to(state.device)[None]
            session["cached_features"] = {frame: (image, {"backbone_fpn": levels, "vision_pos_enc": encodings})}
        return session

    return as_dict


def new_object(session: MutableMapping[str, Any], obj_id: Any) -> int:
    """Adds an object without prompts. Returns the object's index."""
    index = len(session["obj_id_to_idx"])
    session["obj_id_to_idx"][obj_id], session["obj_idx_to_id"][index] = index, obj_id
    session["obj_ids"] = list(session["obj_id_to_idx"])
    for key in PER_OBJECT:
        session[key][index] = {kind: {} for kind in KINDS.values()} if "output" in key else {}
    return index


def drop_object(session: MutableMapping[str, Any], index: int) -> None:
    """Removes an object. The indices of later objects decrease by 1."""
    ids = [obj_id for i, obj_id in enumerate(session["obj_ids"]) if i != index]
    session["obj_id_to_idx"] = {obj_id: i for i, obj_id in enumerate(ids)}
    session["obj_idx_to_id"], session["obj_ids"] = dict(enumerate(ids)), ids
    for key in PER_OBJECT:
        entries = [session[key].pop(i) for i in sorted(session[key])]
        session[key].update(enumerate(entries[:index] + entries[index + 1 :]))


def _outputs(state: VideoState, tracked: TrackedObject, new: bool, positions: list[Tensor]) -> dict[str, Any]:
    """Returns one object's results by key and frame; if ``new``, only results of prompts since the last pass."""
    read = tracked.new_results if new else tracked.results
    return {
        name: {t: _output(state, result, positions) for t, result in read(conditioning).items()}
        for conditioning, name in KINDS.items()
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


def check_session(model: SAM2Base, session: Any) -> VideoState:
    """Checks that a session fits the model, and returns the session. Wraps a caller's dict with the official keys.

    Raises:
        TypeError: If ``session`` is neither a session nor a dict with the official keys.
        ValueError: If the session was opened with other weights, or on another device.
    """
    if isinstance(session, MutableMapping) and not isinstance(session, VideoState):
        return VideoState.of_dict(session)
    check_kind(session)
    if session.opened_with is not None and not session.opened_with.accepts(model):
        raise ValueError(
            "inference_state was opened with another model, or on another device; use the predictor whose init_state() "
            "returned it, or, if the weights are the same, move_state()"
        )
    return cast(VideoState, session)


def checked_session(method: Method) -> Method:
    """Decorates a method with ``exclusive_session`` and :func:`check_session`."""
    return exclusive_session(method, check_session)
