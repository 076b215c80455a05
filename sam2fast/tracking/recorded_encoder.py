"""The image encoder by recorded calls on a stream of its own, so that it runs ahead of tracking."""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sam2fast.kernels.preprocess import resize_and_normalise
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.features import EncodedFrames, FrameFeatures, autocast_dtype
from sam2fast.tracking.memory_bank import bucket
from sam2fast.tracking.numerics import numerics
from sam2fast.tracking.recorders import Recorder
from sam2fast.transforms import SAM2Transforms
from sam2fast.video_io import Frames


class _Call(NamedTuple):
    """One recorded encoding of a batch."""

    pixels: Tensor  # (n, S, S, 3) uint8
    levels: list[Tensor]  # of the batch, finest first; overwritten by the next call
    run: Callable[[], None]


class RecordedEncoder:
    """Encodes frames in batches whose sizes are buckets.

    Args:
        device: of the model.
        recorder: makes the calls; nothing else may use its memory.
    """

    def __init__(self, device: torch.device, recorder: Recorder) -> None:
        self._device, self._recorder = device, recorder
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._calls: dict[Hashable, _Call] = {}

    def clear(self) -> None:
        """Frees everything, once what is under way has read the weights; encodings are recorded anew."""
        if self._stream is not None:  # what the caller does next may write other ones in their places
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        self._calls.clear()
        self._recorder.clear()

    def encode(self, model: SAM2Base, frames: Frames, indices: Sequence[int], ahead: bool) -> EncodedFrames:
        """Features of some frames of a video, by a call that was recorded for at least as many.

        On CUDA the caller's stream goes on; ``wait`` of the result makes it wait for what it is given.

        Args:
            ahead: begins at once, rather than behind what the caller's stream was given; the weights must be there.
        """
        pixels = [frames.pixels(t) for t in indices]
        staged = _staged(pixels, bucket(len(pixels)), pinned=self._stream is not None)
        if self._stream is None:
            return EncodedFrames(self._encode(model, staged, len(indices)), None)
        if not ahead:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            features = self._encode(model, staged, len(indices))
            done = torch.cuda.Event()
            done.record(self._stream)

        def wait(features: FrameFeatures) -> None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(done)
            for x in (features.embedding, *features.high_res):
                x.record_stream(stream)  # its memory may not be given away before that stream has read it

        return EncodedFrames(features, wait)

    def _encode(self, model: SAM2Base, pixels: Tensor, count: int) -> list[FrameFeatures]:
        call = self._call(model, pixels.shape)
        call.pixels.copy_(pixels, non_blocking=True)
        call.run()
        return [_own(call.levels, i) for i in range(count)]

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
                    encoded = model.encode_image(images)
                # The first time they are kept for all times.
                levels.extend(torch.empty_like(x) for x in encoded[len(levels) :])
                for level, x in zip(levels, encoded, strict=True):
                    level.copy_(x)

            self._calls[key] = _Call(pixels, levels, self._recorder.record(run))
        return self._calls[key]


def _staged(pixels: Sequence[Tensor], batch: int, pinned: bool) -> Tensor:
    """``(batch, S, S, 3)`` on the CPU; the last frame again where there are too few."""
    staged = torch.empty(batch, *pixels[0].shape, dtype=torch.uint8, device="cpu", pin_memory=pinned)
    for i in range(batch):
        staged[i] = pixels[min(i, len(pixels) - 1)]
    return staged


def _own(levels: Sequence[Tensor], i: int) -> FrameFeatures:
    *high_res, embedding = (level[i : i + 1].clone() for level in levels)
    return FrameFeatures(embedding, high_res)
