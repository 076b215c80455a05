"""A session that is the original's ``inference_state``, too, and the checks of the one that a method is given."""

import functools
import inspect
import logging
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar, cast

import torch

from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.features import FeatureCache
from sam2fast.tracking.memory_bank import MemoryBank
from sam2fast.tracking.saved_state import StateError
from sam2fast.tracking.session import VideoSession, check_kind
from sam2fast.tracking.strategies import SAM2
from sam2fast.utils.thread_guard import CallGuard, exclusive_session

_log = logging.getLogger(__name__)

Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(eq=False, repr=False)
class VideoState(VideoSession, MutableMapping[str, Any]):
    """A video, its objects and their memories; made by ``init_state``. It does not hold the model.

    It is the original's ``inference_state``, too. When a key is asked for or assigned that holds prompts, results or
    features, it becomes the original's nested dicts, and stays so: they are what later calls read and write, object by
    object. Keys that only describe the video and the objects are answered without that.

    Args:
        as_dict: the original's nested dicts of a session.

    Attributes:
        official: the original's dict, if it is one; then ``objects``, ``features`` and ``bank`` are empty.
    """

    as_dict: Callable[["VideoState"], dict[str, Any]] = field(kw_only=True)
    official: MutableMapping[str, Any] | None = field(default=None, init=False)

    @classmethod
    def of_dict(cls, session: MutableMapping[str, Any]) -> "VideoState":
        """The session that is a caller's own dict with the original's keys; calls read and write this dict.

        Raises:
            TypeError: the dict lacks keys.
        """
        missing = [key for key in OFFICIAL_KEYS if key not in session and key not in _NOT_NEEDED]
        if missing:
            raise TypeError(
                f"inference_state is a dict without {', '.join(map(repr, missing))}; expected the session that "
                "init_state() returned, or a dict with the keys of the original's"
            )
        state = cls.__new__(cls)
        attributes = {"official": session, "frames": session.get("images"), "max_history": None, "strategy": SAM2}
        vars(state).update(attributes, opened_with=None, guard=CallGuard())
        return state

    @property
    def num_frames(self) -> int:
        """Length of the video."""
        return len(self.frames) if self.official is None else self.official["num_frames"]

    @property
    def video_size(self) -> tuple[int, int]:
        """(height, width) of the video."""
        if self.official is not None:
            return self.official["video_height"], self.official["video_width"]
        return self.frames.height, self.frames.width

    @property
    def storage_device(self) -> torch.device:
        """Where the original keeps results."""
        return torch.device("cpu") if self.offload_state_to_cpu else self.device

    def to_official(self, reason: str) -> MutableMapping[str, Any]:
        """The session as the original's dict, which it is from now on.

        Args:
            reason: why, for the log.
        """
        if self.official is None:
            inexact = self.bank.approximations.named()
            _log.warning(
                "%s: the session is the original's dict from here on, and computed object by object, which is slower%s",
                reason,
                f", and without its approximations {inexact}" if inexact else "",
            )
            self.official = self.as_dict(self)
            self.objects, self.bank = {}, self.bank.emptied()
            self.features.clear()
        return self.official

    def clear(self) -> None:
        """Forgets all objects and frees the bank; the original's dict becomes empty."""
        if self.official is None:
            super().clear()
        else:
            self.official.clear()

    def check_saveable(self) -> None:
        """
        Raises:
            StateError: the session is the original's dict.
        """
        if self.official is not None:
            raise StateError(
                "this session is the original's dict, since one of its keys was used or a private method is "
                "overridden: use pickle or copy.deepcopy on it instead"
            )

    def __getitem__(self, key: str) -> Any:
        if self.official is None and key in _DESCRIPTION:
            return _DESCRIPTION[key](self)
        if self.official is None and key not in OFFICIAL_KEYS:
            raise KeyError(key)
        return self.to_official(f"inference_state[{key!r}] was asked for")[key]

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
        """A shallow copy of the original's dict, as ``dict(state)``; both go on with the same nested dicts."""
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

    # By identity: comparing the values of the mapping would compute them.
    __eq__ = object.__eq__
    __hash__ = object.__hash__


# Keys that the methods can do without, if features of all frames are cached.
_NOT_NEEDED = ("images", "offload_video_to_cpu", "offload_state_to_cpu")
# Keys that describe a session, and do not change it.
_DESCRIPTION: dict[str, Callable[[VideoState], Any]] = {
    "images": lambda s: s.frames,
    "num_frames": lambda s: s.num_frames,
    "offload_video_to_cpu": lambda s: s.offload_video_to_cpu,
    "offload_state_to_cpu": lambda s: s.offload_state_to_cpu,
    "video_height": lambda s: s.video_size[0],
    "video_width": lambda s: s.video_size[1],
    "device": lambda s: s.device,
    "storage_device": lambda s: s.storage_device,
    "obj_id_to_idx": lambda s: MappingProxyType({obj_id: i for i, obj_id in enumerate(s.objects)}),
    "obj_idx_to_id": lambda s: MappingProxyType(dict(enumerate(s.objects))),
    "obj_ids": lambda s: s.obj_ids,
}
# In the original's order. `dict(state)` reads the keys in turn: the first one that changes a session makes this one the
# original's nested dicts, so that the ids after it are their dicts and not the read-only views above.
OFFICIAL_KEYS = (
    "images",
    "num_frames",
    "offload_video_to_cpu",
    "offload_state_to_cpu",
    "video_height",
    "video_width",
    "device",
    "storage_device",
    "point_inputs_per_obj",
    "mask_inputs_per_obj",
    "cached_features",
    "constants",
    "obj_id_to_idx",
    "obj_idx_to_id",
    "obj_ids",
    "output_dict_per_obj",
    "temp_output_dict_per_obj",
    "frames_tracked_per_obj",
)


def check_session(model: SAM2Base, session: Any) -> VideoState:
    """The session, which was opened with this model, or with another one with the same weights on the same device.

    A caller's own dict with the original's keys names no model, and is a session of any.

    Raises:
        TypeError: it is no session.
        ValueError: it belongs to another model.
    """
    if isinstance(session, MutableMapping) and not isinstance(session, VideoState):
        return VideoState.of_dict(session)
    check_kind(session)
    if session.opened_with is not None and not session.opened_with.accepts(model):
        raise ValueError(
            "inference_state was opened with another model, or on another device; use the predictor whose init_state() "
            "returned it, or, where the weights are the same, move_state()"
        )
    return cast(VideoState, session)


def checked_session(method: Method) -> Method:
    """``exclusive_session`` after :func:`check_session`, which a generator calls when it starts."""
    guarded = exclusive_session(method)

    def check(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if len(args) > 1:
            args = (args[0], check_session(args[0], args[1]), *args[2:])
        elif "inference_state" in kwargs:  # otherwise the method reports the missing argument
            kwargs = {**kwargs, "inference_state": check_session(args[0], kwargs["inference_state"])}
        return args, kwargs

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = check(args, kwargs)
        return guarded(*args, **kwargs)

    @functools.wraps(method)
    def generate(*args: Any, **kwargs: Any) -> Iterator[Any]:
        args, kwargs = check(args, kwargs)
        yield from guarded(*args, **kwargs)

    return cast(Method, generate if inspect.isgeneratorfunction(method) else call)
