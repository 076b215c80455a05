"""Features of frames that the image encoder has computed, kept for a while and reused for similar frames."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from sam2fast.video_io import Frames
from sam2fast.video_io.video_types import StreamFrame

# Frames whose features are kept: clicks go back and forth between a few.
FEATURES_KEPT = 4
# Pixels of the model's input, whose side is a multiple of 32. Patches are those of the encoder's first layer.
PATCH, CELL = 4, 32


class FrameFeatures(NamedTuple):
    """The encoder's output for one frame."""

    embedding: Tensor  # (1, C, H, W)
    high_res: list[Tensor]  # (1, C/8, 4H, 4W), (1, C/4, 2H, 2W), or none


class EncodedFrames(NamedTuple):
    """Features of several frames; another stream may still be computing them."""

    features: list[FrameFeatures]
    wait: Callable[[FrameFeatures], None] | None  # makes the current stream wait before it reads one of them


@dataclass(frozen=True, eq=False)
class EncodedFrame(StreamFrame):
    """A frame with its features, for any number of streams; from ``SAM2VideoPredictor.encode_frame``. Read-only."""

    _features: FrameFeatures = field(repr=False)
    _model: nn.Module = field(repr=False)
    _dtype: torch.dtype | None = field(repr=False)  # of autocast
    _changes: int = field(repr=False)  # of the model's modules until then


_Key: TypeAlias = tuple[int, torch.dtype | None]  # a frame and the dtype of autocast
_Features: TypeAlias = tuple[FrameFeatures, Callable[[FrameFeatures], None] | None]  # and their EncodedFrames.wait


class FeatureCache:
    """Features of the frames used last.

    Features computed under autocast and without it are kept apart.

    Args:
        frames: of the video.
        device: of the features.
        size: how many frames' features are kept, about 17 MB each at 1024x1024 in fp32.
        reuse_threshold: see :meth:`reuse`.

    Attributes:
        encoded: how many frames the encoder has computed.
    """

    def __init__(
        self,
        frames: Frames,
        device: torch.device,
        size: int = FEATURES_KEPT,
        reuse_threshold: float | None = None,
    ) -> None:
        self.frames = frames
        self.size = size
        self.kept: OrderedDict[_Key, FrameFeatures] = OrderedDict()
        self.encoded = 0
        self._device = device
        self._waits: dict[_Key, Callable[[FrameFeatures], None]] = {}
        self._changes = 0
        self._only_last = False
        self.reuse(reuse_threshold)

    def reuse(self, threshold: float | None) -> None:
        """From now on a frame that differs from the last encoded one by at most ``threshold`` gets its features.

        Args:
            threshold: the largest :func:`difference` at which features are reused; None for no reuse.
        """
        self._reuse = None if threshold is None else FeatureReuse(threshold)

    def keeps(self, frame: int) -> bool:
        """Whether the frame's features are kept; they may still be computed."""
        return (frame, autocast_dtype(self._device)) in self.kept

    def encode(self, frames: Sequence[int], batch: int, compute: Callable[[list[int]], EncodedFrames]) -> None:
        """Keeps the features of these frames: encodes those that it has not, unless they are like the last encoded one.

        Args:
            batch: how many frames are encoded at a time, at most.
            compute: features of some frames from the encoder.

        Raises:
            VideoError: a frame cannot be read.
        """
        kind = autocast_dtype(self._device)
        missing = [t for t in frames if (t, kind) not in self.kept]
        sources: list[int | None] = list(missing)  # of each, whose features it gets; None for the last encoded frame
        if missing and self._reuse is not None:
            sources = self._reuse.sources(kind, self.frames, missing)
        new = [t for t, source in zip(missing, sources, strict=True) if t == source]
        found: dict[int | None, _Features] = {}
        if new:
            encoded = compute(new)
            found = {t: (features, encoded.wait) for t, features in zip(new, encoded.features, strict=True)}
            self.encoded += len(new)
        if self._reuse is not None:
            if None in sources:
                found[None] = self._reuse.last(kind)
            if new:
                self._reuse.remember(kind, self.frames, new[-1], found[new[-1]])
        for t, source in zip(missing, sources, strict=True):
            features, wait = found[source]
            if wait is not None:
                self._waits[t, kind] = wait
            self.kept[t, kind] = features
        for t in frames:
            self.kept.move_to_end((t, kind))
        if missing:  # otherwise frames that were encoded ahead would be dropped before their turn
            # This batch, the one before, and the current frame.
            most = self.size if batch == 1 else max(self.size, 2 * batch + 1)
            if self._only_last and batch == 1:
                most = 1
            while len(self.kept) > most:
                key, _ = self.kept.popitem(last=False)
                self._waits.pop(key, None)

    def keep_encoded(self, index: int, frame: EncodedFrame) -> None:
        """Keeps only the features of this frame, as those of frame ``index``."""
        self.clear()
        self._changes = frame._changes
        self.kept[index, frame._dtype] = frame._features

    def as_encoded(self, frame: StreamFrame, model: nn.Module) -> EncodedFrame:
        """A frame with the features that are kept last, of this model."""
        (_, dtype), features = next(reversed(self.kept.items()))
        given = frame.index, frame.time, frame.height, frame.width, frame._pixels
        return EncodedFrame(*given, features, model, dtype, self._changes)

    def read(self, frames: Iterable[int]) -> list[FrameFeatures]:
        """Features of frames that are kept, used last now; the current stream waits until they are computed."""
        kind, found = autocast_dtype(self._device), []
        for t in frames:
            features = self.kept[t, kind]
            self.kept.move_to_end((t, kind))
            self._await((t, kind), features)
            found.append(features)
        return found

    def awaited(self) -> Iterator[tuple[int, FrameFeatures]]:
        """Each frame with its features, which the current stream may read. The order of eviction does not change."""
        for key, features in list(self.kept.items()):
            self._await(key, features)
            yield key[0], features

    def keep_since(self, changes: int, only_last: bool) -> None:
        """Drops the features from before a change of the model's modules, of which there were so many until now.

        Args:
            only_last: keep one frame from now on, as the original, so that its modules are called as often.
        """
        self._only_last = only_last
        if changes != self._changes:
            self._changes = changes
            self.clear()

    def clear(self) -> None:
        """Drops all features."""
        self.kept.clear()
        self._waits.clear()
        if self._reuse is not None:
            self._reuse.clear()

    def _await(self, key: _Key, features: FrameFeatures) -> None:
        wait = self._waits.get(key)
        if wait is not None:  # each time: the current stream may be another one
            wait(features)


class FeatureReuse:
    """Decides which frames are encoded from their pixels on the CPU; nothing waits for the device.

    Frames are compared with the last *encoded* one, so that a slow movement accumulates.

    Args:
        threshold: the largest :func:`difference` at which a frame is not encoded.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._last: dict[torch.dtype | None, tuple[Tensor, _Features]] = {}  # with the frame's summary

    def sources(self, kind: torch.dtype | None, frames: Frames, indices: Sequence[int]) -> list[int | None]:
        """For each frame, in the order of tracking, the one whose features it gets; None stands for :meth:`last`.

        Args:
            kind: the dtype of autocast; features of one kind are not used for another.
        """
        source: int | None = None
        reference = self._last[kind][0] if kind in self._last else None
        found = []
        for t in indices:
            summary = summary_of(frames.pixels(t))
            if reference is None or difference(summary, reference) > self.threshold:
                source, reference = t, summary
            found.append(source)
        return found

    def last(self, kind: torch.dtype | None) -> _Features:
        """Features of the last encoded frame."""
        return self._last[kind][1]

    def remember(self, kind: torch.dtype | None, frames: Frames, index: int, features: _Features) -> None:
        """Makes this frame the last encoded one."""
        self._last[kind] = summary_of(frames.pixels(index)), features

    def clear(self) -> None:
        """The next frame is encoded, whatever it shows."""
        self._last.clear()


def summary_of(pixels: Tensor) -> Tensor:
    """Sums of four pixels in each patch of a frame ``(S, S, 3)`` uint8: ``(S/4, S/4, 3)`` int16.

    Sums of four have half the noise of single pixels, and read a quarter of them.
    """
    rows = pixels[::PATCH].short() + pixels[PATCH // 2 :: PATCH]
    return rows[:, ::PATCH] + rows[:, PATCH // 2 :: PATCH]


def difference(a: Tensor, b: Tensor) -> float:
    """Difference of two summaries, for pixels in [0, 1]: the largest mean over a cell of 32x32 pixels.

    A mean over the whole frame would miss a small object that moves before a static background.
    """
    patches = CELL // PATCH
    cells = (a - b).abs_().view(len(a) // patches, patches, len(a) // patches, -1)
    return float(cells.float().mean(dim=(1, 3)).amax()) / (4 * 255)


def features_by_frame(levels: Sequence[Tensor], count: int) -> list[FrameFeatures]:
    """The first ``count`` frames of a batch's levels ``(B, ...)``, finest first, frame by frame."""
    features = []
    for i in range(count):
        # Clones: a view would keep the whole batch alive as long as one of its frames.
        *high_res, embedding = (level[i : i + 1].clone() if len(level) > 1 else level for level in levels)
        features.append(FrameFeatures(embedding, high_res))
    return features


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype that autocast computes in on a kind of device, or None without autocast."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
