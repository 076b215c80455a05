"""The predictor's methods for tracking by recorded steps; the original has nothing of this."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking import steps
from sam2fast.tracking.fast_path import FastPath, why_not_fast
from sam2fast.tracking.features import FEATURES_KEPT, EncodedFrames, FeatureCache, encode_frames
from sam2fast.tracking.memory_bank import BUCKETS
from sam2fast.tracking.numerics import fingerprint, has_hooks
from sam2fast.tracking.outputs import Output, check_output, returned_masks
from sam2fast.tracking.own_selection import Watch
from sam2fast.tracking.passes import store_results, track_frame
from sam2fast.tracking.state import TrackedObject, VideoState
from sam2fast.video_io import Frames

if TYPE_CHECKING:
    from sam2fast.sam2_video_predictor import SAM2VideoPredictor

    _Base = SAM2Base
else:
    _Base = object

# Of the blank video that warmup() tracks: so many frames that object pointers are spaced as in long ones.
WARMUP_FRAMES = 17


class RecordedTracking(_Base):
    """Mixin of the video predictor.

    Attributes:
        fast: whether tracking runs by recorded steps: None where it pays and is safe, which is on NVIDIA GPUs that
            Triton's kernels run on; True everywhere; False nowhere.
        selection_watch: is told which memories each step attends to, before it attends to them.
    """

    fast: bool | None = None
    selection_watch: Watch | None = None
    _fast_path: FastPath | None = None
    _hooked = False

    @torch.inference_mode()
    def warmup(
        self,
        num_objects: int = 1,
        size: tuple[int, int] | None = None,
        *,
        output: Output = "logits",
        encode_ahead: int = 1,
    ) -> None:
        """Does beforehand what costs time when it is done first: compiles kernels, and records the steps for sessions
        of 1 to ``num_objects`` objects with a prompted frame each.

        Call it where the videos will be tracked: in the same autocast context and with the same backend. On CUDA no
        other thread may call ``torch.cuda.synchronize()`` meanwhile, or recording fails; see docs/tracking.md.

        Args:
            num_objects: how many objects there will be at most.
            size: (height, width) of the videos, in pixels; by default the model's own.
            encode_ahead: as for ``propagate_in_video``.
            output: as for ``propagate_in_video``.

        Raises:
            ValueError: ``num_objects`` or ``size`` below 1, or an unknown ``output``.
            RuntimeError: the predictor is in training mode.
        """
        check_output(output)
        height, width = size or (self.image_size, self.image_size)
        if min(num_objects, encode_ahead, height, width) < 1:
            raise ValueError(
                f"num_objects is {num_objects}, encode_ahead {encode_ahead} and size {height, width}; "
                "expected 1 or more of each"
            )
        predictor = cast("SAM2VideoPredictor", self)
        state = predictor.init_state([np.zeros((height, width, 3), np.uint8)] * WARMUP_FRAMES)
        state.features.reuse(None)  # or none of these frames, which are all the same, would be encoded
        click = [[width / 2, height / 2]], [1]
        predictor.add_new_points_or_box(state, 0, 0, *click)
        predictor.propagate_in_video_preflight(state)
        prompted = state.objects[0]
        # The most objects first: the pools need not grow any more then.
        counts = [size for size in BUCKETS if size < num_objects] if self._recording() else []
        for count in [num_objects, *reversed(counts)]:
            objects: dict[Any, TrackedObject] = {i: prompted.copy() for i in range(count)}
            results, scores = track_frame(predictor, state, objects, 1, reverse=False)
            returned_masks(predictor, state, scores.low_res_logits, output)
        if encode_ahead > 1:
            state.features.encode(range(2, 2 + min(encode_ahead, WARMUP_FRAMES - 2)))
        # And a correction, which attends to memories too.
        store_results(predictor, state, {0: prompted}, 1, False, {0: results[0]})
        predictor.add_new_points_or_box(state, 1, 0, *click)

    def release_recordings(self) -> None:
        """Frees recorded steps and their memory, also of sessions that are open; they are made again when needed."""
        if self._fast_path is not None:
            self._fast_path.clear()
        self._fast_path = None

    def check_recordings(self) -> None:
        """Drops what was recorded if weights lie elsewhere since, or a setting of the model has another value.

        Every pass over a video begins with it, and every step of a stream after a prompt; what is changed in between
        counts from the next.
        """
        self._hooked = has_hooks(self)
        if self._fast_path is not None and self._fast_path.made_for != fingerprint(self):
            self.release_recordings()

    def _why_not(self) -> str | None:
        if self.fast is False:
            return "fast is False"
        if not self.num_maskmem:
            return "the model keeps no memories"
        if self._hooked:
            return "modules have hooks, which a recording would not call"
        why = why_not_fast(self)
        if self.fast is None or why is None or self.device.type != "cuda":
            return None if self.fast else why
        raise RuntimeError(f"fast is True, but {why}; leave it at None to track without recordings then")

    def _recording(self) -> FastPath | None:
        """The recorded steps, where tracking goes by them."""
        if self._why_not() is not None or self.training:
            return None
        if self._fast_path is None:
            self._fast_path = FastPath(self)
        return None if self._fast_path.failed else self._fast_path

    def _tracker(self) -> Callable[..., Any]:
        fast_path = self._recording()
        return steps.track if fast_path is None else fast_path.track

    def _feature_cache(self, frames: Frames, size: int = FEATURES_KEPT) -> FeatureCache:
        """Features of so many frames of a video, by recorded calls where tracking goes by them."""
        return FeatureCache(self, frames, self._encode_frames, size)

    def _encode_frames(self, frames: Frames, indices: Sequence[int], ahead: bool) -> EncodedFrames:
        fast_path = self._recording()
        if fast_path is None:
            return encode_frames(self, frames, indices)
        return fast_path.encode(self, frames, indices, ahead)

    def _encode_batch(self, state: VideoState, objects: Iterable[TrackedObject], frames: range, count: int) -> None:
        """Before the first of ``frames`` is tracked: it and those that follow become one batch of ``count``."""
        if count == 1 or self._recording() is not None and state.features.keeps(frames[0]):
            return
        needed = _needed(objects, frames[:count])
        if needed and not state.features.keeps(needed[0]):
            state.features.encode(needed)

    def _begin_ahead(self, state: VideoState, objects: Iterable[TrackedObject], frames: range, count: int) -> None:
        """While a frame is tracked: the next ``count`` of the ``frames`` that follow are encoded on another stream."""
        if self._recording() is None:
            return
        window = 2 * count - 1
        needed = _needed(objects, frames[:window])
        missing = [t for t in needed if not state.features.keeps(t)][:count]
        if missing and (len(missing) == count or missing[0] == needed[0] or len(frames) <= window):
            with suppress(Exception):  # who asks for that frame in its turn meets the error again
                state.features.begin(missing, count)

    def _apply(self, *args: Any, **kwargs: Any) -> nn.Module:
        self.release_recordings()
        return super()._apply(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.release_recordings()
        return super().load_state_dict(state_dict, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_fast_path": None}


def _needed(objects: Iterable[TrackedObject], frames: Iterable[int]) -> list[int]:
    """The frames on which there is something to track."""
    every = list(objects)
    return [t for t in frames if any(t not in o.conditioning for o in every)]
