"""Runs the image encoder by recorded calls."""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sam2fast.engine import engine_for
from sam2fast.kernels.preprocess import resize_and_normalise
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.cuda_graphs import Recorder, numerics
from sam2fast.tracking.features import EncodedFrames, FrameFeatures
from sam2fast.tracking.memory_bank import bucket
from sam2fast.transforms import SAM2Transforms
from sam2fast.utils.devices import autocast_dtype
from sam2fast.video_io import Frames


class _Call(NamedTuple):
    """Holds one recorded encoding of a batch."""

    pixels: Tensor  # (n, S, S, 3) uint8
    levels: list[Tensor]  # results, finest first; the next call overwrites them
    run: Callable[[], None]


class RecordedEncoder:
    """Runs the image encoder by recorded calls on a separate stream, ahead of tracking.

    Frames are uploaded on a third stream, during the encoding of earlier frames.

    Args:
        device: The model's device.
        recorder: Records the calls. Nothing else may use its memory.
    """

    def __init__(self, device: torch.device, recorder: Recorder) -> None:
        self._device, self._recorder, self.constants = device, recorder, recorder.constants
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._uploads = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._calls: dict[tuple[torch.Size, Hashable], _Call] = {}

    def clear(self) -> None:
        """Frees everything after the calls in flight have read the weights. Calls are recorded again when needed."""
        if self._stream is not None:  # the caller may overwrite the weights next
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        self._calls.clear()
        self._recorder.clear()

    def encode(
        self, model: SAM2Base, frames: Frames, indices: Sequence[int], ahead: bool, padded: int = 0
    ) -> EncodedFrames:
        """Returns features of frames of a video, which are encoded as one batch of a bucket's size.

        On CUDA the caller's stream does not wait. ``wait`` of the result makes it wait for given features.

        Args:
            ahead: If True, starts at once, without waiting for the caller's stream. The weights must be there.
            padded: Size that a batch is padded to if its own size is not recorded, as recording takes longer; or 0.
        """
        pixels = [frames.pixels(t) for t in indices]
        staged = _staged(pixels, self._batch(len(pixels), padded), pinned=self._stream is not None)
        if self._stream is None or self._uploads is None:
            return EncodedFrames(self._encode(model, staged, len(indices)), None)
        if not ahead or self.constants.are_outdated:  # by weights that may still be written
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._uploads):
            uploaded = staged.to(self._device, non_blocking=True)
        self._stream.wait_stream(self._uploads)
        uploaded.record_stream(self._stream)
        with torch.cuda.stream(self._stream):
            features = self._encode(model, uploaded, len(indices))
            done = torch.cuda.Event()
            done.record(self._stream)

        def wait(features: FrameFeatures) -> None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(done)
            for x in (features.embedding, *features.high_res):
                x.record_stream(stream)  # its memory is not reused before that stream has read it

        return EncodedFrames(features, wait)

    def _batch(self, count: int, padded: int) -> int:
        """Returns the size of a batch for ``count`` frames; see :meth:`encode`."""
        recorded = {shape[0] for shape, switches in self._calls if switches == numerics(self._device)}
        return bucket(count) if bucket(count) in recorded else bucket(max(count, padded))

    def _encode(self, model: SAM2Base, pixels: Tensor, count: int) -> list[FrameFeatures]:
        call = self._call(model, pixels.shape)
        call.pixels.copy_(pixels)
        call.run()
        return [_cloned(call.levels, i) for i in range(count)]

    def _call(self, model: SAM2Base, shape: torch.Size) -> _Call:
        key = (shape, numerics(self._device))
        if key not in self._calls:
            pixels = torch.zeros(shape, dtype=torch.uint8, device=self._device)
            levels: list[Tensor] = []
            enabled, dtype = autocast_dtype(self._device) is not None, torch.get_autocast_dtype(self._device.type)

            def run() -> None:
                size = (model.image_size, model.image_size)
                images = resize_and_normalise(pixels, size, SAM2Transforms.mean, SAM2Transforms.std, white=255.0)
                with torch.autocast(self._device.type, dtype, enabled=enabled, cache_enabled=False):
                    encoded = engine_for(model).encode(images)
                levels[:] = encoded  # each replay writes to the addresses of the recording

            self._calls[key] = _Call(pixels, levels, self._recorder.record(run))
        return self._calls[key]


def _staged(pixels: Sequence[Tensor], batch: int, pinned: bool) -> Tensor:
    """Returns frames as ``(batch, S, S, 3)`` on the CPU, with the last one repeated, or a view of a single frame."""
    if batch == 1 and (not pinned or pixels[0].is_pinned()):
        return pixels[0][None]
    staged = torch.empty(batch, *pixels[0].shape, dtype=torch.uint8, device="cpu", pin_memory=pinned)
    return torch.stack([*pixels, *[pixels[-1]] * (batch - len(pixels))], out=staged)


def _cloned(levels: Sequence[Tensor], i: int) -> FrameFeatures:
    rows = levels if len(levels[0]) == 1 else [level[i : i + 1] for level in levels]
    *high_res, embedding = (row.clone() for row in rows)
    return FrameFeatures(embedding, high_res)
