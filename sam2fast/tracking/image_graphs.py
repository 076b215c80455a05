"""Images by CUDA graphs: the encoder of one image, and the decoder for the usual prompts, which is recorded for each
shape."""

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

# Decodings that are recorded: of so many prompts, with so many points each: a click, or a box. Rows of padding would
# change the last bits of others, so that other numbers run eagerly.
PROMPTS, POINTS = (1, 64, 256), (1, 2)
# Recordings of a model; what comes later runs eagerly. Each keeps its input and its results.
MOST_RECORDINGS = 8

Function = Callable[[Sequence[Tensor]], list[Tensor]]


class _Call(NamedTuple):
    """A recorded function."""

    given: list[Tensor]
    found: list[Tensor]  # results; the next replay of any call overwrites them
    run: Callable[[], None]


class ImageGraphs:
    """Recordings of a model's image encoder and mask decoder; threads take turns.

    What cannot be recorded runs eagerly from then on, and the log says why.

    Args:
        device: of the model.
        recorder: makes a recorder; by default of CUDA graphs on CUDA, and elsewhere of nothing.
    """

    def __init__(self, device: torch.device, recorder: Callable[[torch.device], Recorder] | None = None) -> None:
        make = recorder or (CudaGraphs if device.type == "cuda" else EagerRecorder)
        self.device = device
        self._recorder, self._turns = make(device), Turns(device)
        self._calls: dict[Hashable, _Call] = {}
        self._made_for: dict[str, Hashable] = {}  # the state of each part of the model
        self._eager: set[Hashable] = set()  # keys that could not be recorded

    def encode(self, engine: Engine, images: Tensor) -> list[Tensor] | None:
        """See :meth:`~sam2fast.engine.Engine.encode`; None if there is no recording."""
        state = engine.state_of_image(images) if len(images) == 1 else None
        if state is None:
            return None
        return self._call("image", state, (), "encodings", lambda given: engine.encode(given[0]), [images])

    def decode(
        self,
        engine: Engine,
        embedding: Tensor,
        high_res: Sequence[Tensor],
        points: tuple[Tensor, Tensor] | None,
        prompts: Tensor | None,
        multimask: bool,
    ) -> list[Tensor] | None:
        """Masks and IoUs of :meth:`~sam2fast.engine.Engine.decode`; None if there is no recording."""
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
        """Results of a function of tensors, by its recording; None if there is none, and cannot be.

        Args:
            part, state: of the model that it computes.
            kind: what else it depends on.
            what: its name in the log.
        """
        with self._turns.take():
            if self._made_for.setdefault(part, state) != state:
                self._clear()
                self._made_for[part] = state
            key = part, kind, numerics(self.device), tuple((x.dtype, x.shape, x.stride()) for x in given)
            is_full = len(self._calls) == MOST_RECORDINGS and key not in self._calls
            if is_full or key in self._eager or any(x.device != self.device for x in given):
                return None
            # Buffers may be written whether or not the caller is in inference mode, and results are as the caller's.
            with torch.inference_mode():
                try:
                    found = self._replayed(key, function, given)
                except RecordingError as error:
                    self._eager.add(key)
                    _log.warning("%s cannot be recorded here; images go on without: %s", what, error.__cause__ or error)
                    return None
            return [x.clone() for x in found]

    def _replayed(self, key: Hashable, function: Function, given: Sequence[Tensor]) -> list[Tensor]:
        """Results of a replay, which the next one overwrites."""
        call = self._calls.get(key)
        buffers = [torch.empty_like(x) for x in given] if call is None else call.given
        for buffer, x in zip(buffers, given, strict=True):
            buffer.copy_(x)
            if x.is_cuda:  # torch knows only the stream that the buffer was made on
                buffer.record_stream(torch.cuda.current_stream(self.device))
        if call is None:
            found: list[Tensor] = []
            run = self._recorder.record(_static(function, buffers, found, self.device.type))
            call = self._calls[key] = _Call(buffers, found, run)
        call.run()
        return call.found

    def clear(self) -> None:
        """Frees everything that was recorded, after the replay that is under way."""
        with self._turns.take():
            self._clear()

    def _clear(self) -> None:
        for kept in (self._calls, self._made_for, self._eager):
            kept.clear()
        self._recorder.clear()


def _static(function: Function, given: list[Tensor], found: list[Tensor], kind: str) -> Callable[[], None]:
    """Calls the function under the autocast that is in force now on a kind of device."""
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

    def run() -> None:
        # Without autocast's cache: its casts of weights would be in this graph's memory, and others would read them.
        with torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False):
            found[:] = function(given)

    return run


_graphs: "WeakKeyDictionary[Any, ImageGraphs]" = WeakKeyDictionary()


def encode(model: Any, fast: bool | None, images: Tensor) -> list[Tensor]:
    """See :meth:`~sam2fast.engine.Engine.encode`; by a recording where there is one.

    Args:
        model: or what takes its place in a predictor.
        fast: use CUDA graphs: None where they pay and are safe, True everywhere, False nowhere.

    Raises:
        RuntimeError: ``fast`` is True, and graphs cannot be recorded on this GPU.
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
    """Masks and IoUs of :meth:`~sam2fast.engine.Engine.decode`; see :func:`encode`."""
    graphs, given = _graphs_for(model, fast), (embedding, high_res, points, prompts, multimask)
    found = None if graphs is None else graphs.decode(engine_for(model), *given)
    masks, ious = engine_for(model).decode(*given)[:2] if found is None else found
    return masks, ious


def release(model: Any) -> None:
    """Frees the recordings of a model; they are made again when needed."""
    graphs = _graphs.pop(model, None)
    if graphs is not None:
        graphs.clear()


def _graphs_for(model: Any, fast: bool | None) -> ImageGraphs | None:
    """The recordings of a model if they are to be used."""
    if not isinstance(model, SAM2Base):
        return None
    known = _graphs.get(model)
    if known is not None and known.device != model.device:
        release(model)
    if why_eager(model, fast) is not None:
        return None
    return _graphs.get(model) or _graphs.setdefault(model, ImageGraphs(model.device))
