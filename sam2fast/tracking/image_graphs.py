"""Records the image encoder and the mask decoder as CUDA graphs, for frequent numbers of images and prompts."""

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sam2fast.engine import Engine, engine_for
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.cuda_graphs import (
    CudaGraphs,
    EagerRecorder,
    Recorder,
    RecordingError,
    Turns,
    numerics,
    why_eager,
)

_log = logging.getLogger(__name__)

# Numbers of images per encoding, and of prompts per decoding with one or two points each (a click, a box), that are
# recorded. Other numbers run eagerly, as padding would change the last bits of the results.
IMAGES, PROMPTS, POINTS = (1, 2, 4, 8), (1, 64, 256), (1, 2)
# Number of recordings per model. Later shapes run eagerly. Each recording stores its input and its results.
MOST_RECORDINGS = 11

Function = Callable[[Sequence[Tensor]], list[Tensor]]


class _Call(NamedTuple):
    """Holds a recorded function."""

    given: list[Tensor]  # input
    found: list[Tensor]  # results; the next replay of any call overwrites them
    run: Callable[[], None]


class ImageGraphs:
    """Holds recordings of a model's image encoder and mask decoder. Threads take turns.

    If a shape cannot be recorded, it runs eagerly from then on, and the log says why.

    Args:
        device: The model's device.
        recorder: Makes a recorder. By default it records CUDA graphs on CUDA, and nothing on other devices.
    """

    def __init__(self, device: torch.device, recorder: Callable[[torch.device], Recorder] | None = None) -> None:
        make = recorder or (CudaGraphs if device.type == "cuda" else EagerRecorder)
        self.device = device
        self._recorder, self._turns = make(device), Turns(device)
        self._calls: dict[Hashable, _Call] = {}
        self._made_for: dict[str, Hashable] = {}  # the state of each part of the model at its recordings
        self._eager: set[Hashable] = set()  # keys that could not be recorded

    def encode(self, engine: Engine, images: Tensor) -> list[Tensor] | None:
        """Returns the result of :meth:`~sam2fast.engine.Engine.encode`, or None if there is no recording."""
        state = engine.state_of_image(images) if len(images) in IMAGES else None
        if state is None:
            return None
        what = f"encodings of {len(images)} images"
        return self._call("image", state, (), what, lambda given: engine.encode(given[0]), [images])

    def decode(
        self,
        engine: Engine,
        embedding: Tensor,
        high_res: Sequence[Tensor],
        points: tuple[Tensor, Tensor] | None,
        prompts: Tensor | None,
        multimask: bool,
    ) -> list[Tensor] | None:
        """Returns masks and IoUs of :meth:`~sam2fast.engine.Engine.decode`, or None if there is no recording."""
        if points is None or len(points[0]) not in PROMPTS or points[0].shape[1] not in POINTS:
            return None
        state, levels = engine.state_of_masks(embedding), len(high_res)
        if state is None:
            return None

        def function(given: Sequence[Tensor]) -> list[Tensor]:
            coords, labels, own, *others = given
            masks = others[levels] if len(others) > levels else None
            return list(engine.decode(own, others[:levels], (coords, labels), masks, multimask)[:2])

        given = [*points, embedding, *high_res, *([] if prompts is None else [prompts])]
        what = f"decodings of {len(points[0])} prompts"
        return self._call("masks", state, (multimask, levels), what, function, given)

    def _call(
        self, part: str, state: Hashable, kind: Hashable, what: str, function: Function, given: Sequence[Tensor]
    ) -> list[Tensor] | None:
        """Returns the results of a function of tensors by its recording, or None if it cannot be recorded.

        Args:
            part, state: Name and state of the part of the model that it computes.
            kind: Other values that it depends on.
            what: Its name in the log.
            given: Its input.
        """
        with self._turns.take():
            if self._made_for.setdefault(part, state) != state:
                self._clear()
                self._made_for[part] = state
            key = part, kind, numerics(self.device), tuple((x.dtype, x.shape, x.stride()) for x in given)
            is_full = len(self._calls) == MOST_RECORDINGS and key not in self._calls
            if is_full or key in self._eager or any(x.device != self.device for x in given):
                return None
            # In inference mode buffers may be written in any mode of the caller. The clones are made in that mode.
            with torch.inference_mode():
                try:
                    found = self._replayed(key, function, given)
                except RecordingError as error:
                    self._eager.add(key)
                    _log.warning("%s cannot be recorded, and are run eagerly: %s", what, error.__cause__ or error)
                    return None
            return [x.clone() for x in found]

    def _replayed(self, key: Hashable, function: Function, given: Sequence[Tensor]) -> list[Tensor]:
        """Returns the results of a replay, which the next replay overwrites."""
        call = self._calls.get(key)
        buffers = [torch.empty_like(x) for x in given] if call is None else call.given
        for buffer, x in zip(buffers, given, strict=True):
            buffer.copy_(x)
            if x.is_cuda:  # without this, torch knows only the stream that the buffer was made on
                buffer.record_stream(torch.cuda.current_stream(self.device))
        if call is None:
            found: list[Tensor] = []
            run = self._recorder.record(_static(function, buffers, found, self.device.type))
            call = self._calls[key] = _Call(buffers, found, run)
        call.run()
        return call.found

    def clear(self) -> None:
        """Frees all recordings, after the current replay."""
        with self._turns.take():
            self._clear()

    def _clear(self) -> None:
        for kept in (self._calls, self._made_for, self._eager):
            kept.clear()
        self._recorder.clear()


def _static(function: Function, given: list[Tensor], found: list[Tensor], kind: str) -> Callable[[], None]:
    """Returns a function that calls ``function`` under the present autocast of a device type."""
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

    def run() -> None:
        # Without autocast's cache: its casts of weights would be in this graph's memory, and others would read them.
        with torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False):
            found[:] = function(given)

    return run


_graphs: "WeakKeyDictionary[Any, ImageGraphs]" = WeakKeyDictionary()


def encode(model: Any, fast: bool | None, images: Tensor) -> list[Tensor]:
    """Computes :meth:`~sam2fast.engine.Engine.encode`, by a recording if possible.

    Args:
        model: The network, or an object that replaces it in a predictor.
        fast: Use CUDA graphs: True always, False never, None if they are safe and faster.

    Raises:
        RuntimeError: If ``fast`` is True, and graphs cannot be recorded on this GPU.
    """
    graphs = _graphs_for(model, fast)
    found = None if graphs is None else graphs.encode(engine_for(model), images)
    return engine_for(model).encode(images) if found is None else found


def decode(
    model: Any,
    fast: bool | None,
    embedding: Tensor,
    high_res: Sequence[Tensor],
    points: tuple[Tensor, Tensor] | None,
    prompts: Tensor | None,
    multimask: bool,
) -> tuple[Tensor, Tensor]:
    """Computes masks and IoUs of :meth:`~sam2fast.engine.Engine.decode`; see :func:`encode`."""
    graphs, given = _graphs_for(model, fast), (embedding, high_res, points, prompts, multimask)
    found = None if graphs is None else graphs.decode(engine_for(model), *given)
    masks, ious = engine_for(model).decode(*given)[:2] if found is None else found
    return masks, ious


def release(model: Any) -> None:
    """Frees the recordings of a model. They are made again when needed."""
    graphs = _graphs.pop(model, None)
    if graphs is not None:
        graphs.clear()


def _graphs_for(model: Any, fast: bool | None) -> ImageGraphs | None:
    """Returns the recordings of a model, or None if they are not to be used."""
    if not isinstance(model, SAM2Base):
        return None
    known = _graphs.get(model)
    if known is not None and known.device != model.device:
        release(model)
    if why_eager(model, fast) is not None:
        return None
    return _graphs.get(model) or _graphs.setdefault(model, ImageGraphs(model.device))
