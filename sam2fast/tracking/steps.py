"""Runs steps and encodings eagerly, or as CUDA graphs. Replaying a graph costs little more than its arithmetic."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from sam2fast.engine import engine_for
from sam2fast.engine.graphs import fingerprint, reading_numerics_once, why_eager
from sam2fast.engine.parts import Watch
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.prompt_inputs import PromptWarning
from sam2fast.tracking.features import EncodedFrames, features_by_frame
from sam2fast.tracking.recordings import Recordings
from sam2fast.tracking.session import TrackingOptions
from sam2fast.tracking.step import Results, StepInput, call_step
from sam2fast.video_io import Frames

_log = logging.getLogger(__name__)


class Steps:
    """Runs steps and encodings of one model. The model owns this object and is passed to each call.

    Attributes:
        recordings: Recorded steps and encodings. None until recordings are used.
        explain: If True, logs once why nothing is recorded.
        prompt_warning: Warning of points outside the video, printed once.
    """

    def __init__(self) -> None:
        self.recordings: Recordings | None = None
        self.explain = False
        self.prompt_warning = PromptWarning()
        self._watches: list[Watch | None] | None = None  # of the last check
        self._changes = 0

    def encode(
        self,
        model: SAM2Base,
        options: TrackingOptions,
        frames: Frames,
        indices: Sequence[int],
        ahead: bool = False,
        padded: int = 0,
    ) -> EncodedFrames:
        """Encodes some frames of a video as one batch.

        Args:
            ahead: If True, nothing waits for the features yet, and recordings compute them on another stream.
            padded: See :meth:`Recordings.encode`.
        """
        recordings = self.usable(model, options)
        encoded = None if recordings is None else recordings.encode(model, frames, indices, ahead, padded)
        if encoded is None:
            images = torch.stack([frames[t] for t in indices]).to(model.device)
            encoded = EncodedFrames(features_by_frame(engine_for(model).encode(images), len(indices)), None)
        return encoded

    def step(self, model: SAM2Base, options: TrackingOptions, given: StepInput) -> Results:
        """Computes the results of all objects of a frame as one batch. Writes memories and pointers to the bank."""
        recordings = self.usable(model, options)
        results = None if recordings is None else recordings.step(model, given)
        return call_step(model, given) if results is None else results

    def usable(self, model: SAM2Base, options: TrackingOptions) -> Recordings | None:
        """Returns the recordings if steps should use them, else None.

        Raises:
            RuntimeError: If ``options.fast`` is True, and graphs cannot be recorded on this GPU.
        """
        if self.why_eager(model, options.fast) is not None:
            return None
        if self.recordings is None:
            self.recordings = Recordings(model)
        return self.recordings

    def why_eager(self, model: SAM2Base, fast: bool | None) -> str | None:
        """Returns the reason why steps of this model are not recorded, or None if they are.

        Args:
            fast: Use of CUDA graphs, see :class:`TrackingOptions`.

        Raises:
            RuntimeError: If ``fast`` is True, and graphs cannot be recorded on this GPU.
        """
        if fast is False:
            return "fast is False"
        if not model.num_maskmem:
            return "the model keeps no memories"
        if model.training:
            return "the model is in training mode"
        if self.is_changed:
            return "modules were hooked, patched or replaced, and a recording would not call them"
        why = why_eager(model.device, fast)
        if why is None and self.recordings is None and not _attends_from_plan(model):
            return "memory attention has no plan, and its modules compute one object after the other"
        return why

    def check(self, model: SAM2Base, options: TrackingOptions) -> None:
        """Drops the recordings if modules were replaced, weights moved or settings changed."""
        self._keep(engine_for(model).watches())
        if self.recordings is not None and self.recordings.made_for != fingerprint(model):
            self.release()
        if self.recordings is not None:
            self.recordings.expire_constants()
        if self.explain and self.usable(model, options) is None:
            _log.info("vos_optimized: steps are not recorded: %s", self.why_eager(model, options.fast))
            self.explain = False

    @property
    def is_changed(self) -> bool:
        """Returns True if the last check found modules that a user hooked, patched or replaced."""
        return self._watches is not None and None in self._watches

    @contextmanager
    def one_step(self, model: SAM2Base) -> Iterator[int]:
        """Context manager of one step: checks once for modified modules, and reads torch's global flags once.

        Modified modules are hooked, patched or replaced by a user. While there are any, recordings are not replayed.
        Recordings are dropped if a check differs from the previous one.

        Yields:
            Number of changes seen so far.
        """
        with engine_for(model).one_step() as watches, reading_numerics_once():
            self._keep(watches)
            yield self._changes

    def _keep(self, watches: list[Watch | None]) -> None:
        before, self._watches = self._watches, watches
        if before is not None and before != watches:
            self.release()
            self._changes += 1

    def release(self) -> None:
        """Frees the recordings and their memory, also of open sessions. Steps record them again when needed."""
        if self.recordings is not None:
            self.recordings.clear()
        self.recordings = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy of a model makes its own recordings.
        return {**vars(self), "recordings": None, "_watches": None}


@torch.no_grad()
def _attends_from_plan(model: SAM2Base) -> bool:
    return engine_for(model).parts().attention
