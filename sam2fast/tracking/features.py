"""Caches features of frames, and reuses them for similar frames."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from sam2fast.engine.graphs import autocast_dtype
from sam2fast.video_io import Frames
from sam2fast.video_io.video_types import StreamFrame

# Number of frames in the cache besides upcoming ones: clicks go back and forth between a few frames.
FEATURES_KEPT = 4
PATCH = 4  # in pixels of the model's input, as of SAM 2's first layer


class FrameFeatures(NamedTuple):
    """Holds the encoder's output for one frame."""

    embedding: Tensor  # (1, C, H, W)
    high_res: list[Tensor]  # (1, C/8, 4H, 4W), (1, C/4, 2H, 2W), or empty


class EncodedFrames(NamedTuple):
    """Holds features of several frames. Another stream may still be computing them."""

    features: list[FrameFeatures]
    wait: Callable[[FrameFeatures], None] | None  # makes the current stream wait for one frame's features


@dataclass(frozen=True, eq=False)
class EncodedFrame(StreamFrame):
    """Holds a frame of ``SAM2VideoPredictor.encode_frame`` and its features, for any number of streams; read-only."""

    _features: FrameFeatures = field(repr=False)
    _model: nn.Module = field(repr=False)
    _dtype: torch.dtype | None = field(repr=False)  # autocast's dtype
    _changes: int = field(repr=False)  # number of changes of the model's modules before


_Key: TypeAlias = tuple[int, torch.dtype | None]  # a frame and the dtype of autocast
_Features: TypeAlias = tuple[FrameFeatures, Callable[[FrameFeatures], None] | None]  # and their EncodedFrames.wait


class FeatureCache:
    """Stores the features of the ``size`` frames used last, and of the upcoming frames of a pass until it tracks them.

    Features computed under autocast and without it are stored separately.

    Args:
        frames: The frames of the video.
        device: The device of the features.
        size: Number of frames used last. The features of a frame take about 17 MB at 1024x1024 in fp32.
        reuse_threshold: See :meth:`reuse`.

    Attributes:
        upcoming: The next frames of the current pass. Their features are not evicted, so that none is encoded twice.
        encoded: Number of frames that the encoder has computed.
    """

    def __init__(
        self, frames: Frames, device: torch.device, size: int = FEATURES_KEPT, reuse_threshold: float | None = None
    ) -> None:
        self.frames = frames
        self.size = size
        self.upcoming: Sequence[int] = ()
        self.kept: OrderedDict[_Key, FrameFeatures] = OrderedDict()
        self.encoded = 0
        self._device = device
        self._waits: dict[_Key, Callable[[FrameFeatures], None]] = {}
        self._changes = 0
        self._only_last = False
        self.reuse(reuse_threshold)

    def reuse(self, threshold: float | None) -> None:
        """Sets the largest :func:`difference` at which features of the last encoded frame are reused; None: never."""
        self._reuse = None if threshold is None else FeatureReuse(threshold)

    def missing(self, frames: Iterable[int]) -> list[int]:
        """Returns the frames without features in the cache. Another stream may still be computing the others."""
        kind = autocast_dtype(self._device)
        return [t for t in frames if (t, kind) not in self.kept]

    def encode(self, frames: Sequence[int], compute: Callable[[list[int]], EncodedFrames]) -> None:
        """Stores the features of these frames. Encodes missing ones, except frames that are like the last encoded one.

        Args:
            compute: Returns the features of frames from the encoder.

        Raises:
            VideoError: If a frame cannot be read.
        """
        kind = autocast_dtype(self._device)
        missing = self.missing(frames)
        sources: list[int | None] = list(missing)  # per frame, the frame to take features from; None: the last encoded
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
                found[None] = self._reuse.last[kind][1]
            if new:
                self._reuse.last[kind] = summary_of(self.frames.pixels(new[-1])), found[new[-1]]
        for t, source in zip(missing, sources, strict=True):
            features, wait = found[source]
            if wait is not None:
                self._waits[t, kind] = wait
            self.kept[t, kind] = features
        for t in frames:
            self.kept.move_to_end((t, kind))
        # Upcoming frames do not count: tracked frames, which are used later than they, are evicted first.
        upcoming = () if self._only_last and len(frames) == 1 else self.upcoming
        most = max(1 if self._only_last else self.size, sum(t not in upcoming for t in frames))
        for key in [key for key in self.kept if key[0] not in upcoming][:-most]:
            del self.kept[key]
            self._waits.pop(key, None)

    def keep_encoded(self, index: int, frame: EncodedFrame) -> None:
        """Replaces the cache by the features of this frame, stored as frame ``index``."""
        self.clear()
        self._changes = frame._changes
        self.kept[index, frame._dtype] = frame._features

    def as_encoded(self, frame: StreamFrame, model: nn.Module) -> EncodedFrame:
        """Returns the frame with the features that were stored last, which this model computed."""
        (_, dtype), features = next(reversed(self.kept.items()))
        given = frame.index, frame.time, frame.height, frame.width, frame._pixels
        return EncodedFrame(*given, features, model, dtype, self._changes)

    def read(self, frames: Sequence[int]) -> list[FrameFeatures] | None:
        """Returns features of frames in the cache, and marks them as used last, or returns None if some are missing.

        The current stream waits until they are computed.
        """
        kind, found = autocast_dtype(self._device), []
        if any((t, kind) not in self.kept for t in frames):
            return None
        for t in frames:
            features = self.kept[t, kind]
            self.kept.move_to_end((t, kind))
            self._await((t, kind), features)
            found.append(features)
        return found

    def awaited(self) -> Iterator[tuple[int, FrameFeatures]]:
        """Yields each frame with its features, which the current stream may read. The order of eviction stays."""
        for key, features in list(self.kept.items()):
            self._await(key, features)
            yield key[0], features

    def keep_since(self, changes: int, only_last: bool) -> None:
        """Drops the features if the model's modules were changed.

        Args:
            changes: Number of changes so far.
            only_last: Store one frame from now on. The original does so, and calls the modules as often.
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
            self._reuse.last.clear()

    def _await(self, key: _Key, features: FrameFeatures) -> None:
        wait = self._waits.get(key)
        if wait is not None:  # at each call, as the current stream may be another one
            wait(features)


class FeatureReuse:
    """Decides by their pixels on the CPU which frames are encoded. Nothing waits for the device.

    Frames are compared with the last *encoded* one, so that a slow movement accumulates.

    Args:
        threshold: The largest :func:`difference` at which a frame is not encoded.

    Attributes:
        last: Summary and features of the last encoded frame, by autocast's dtype. The next frame is encoded if empty.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.last: dict[torch.dtype | None, tuple[Tensor, _Features]] = {}

    def sources(self, kind: torch.dtype | None, frames: Frames, indices: Sequence[int]) -> list[int | None]:
        """Returns for each frame the frame to take features from. None stands for the last encoded frame.

        Args:
            kind: Autocast's dtype. Features of one dtype are not used for another.
            indices: The frames in the order of tracking.
        """
        source: int | None = None
        reference = self.last[kind][0] if kind in self.last else None
        found = []
        for t in indices:
            summary = summary_of(frames.pixels(t))
            if reference is None or difference(summary, reference) > self.threshold:
                source, reference = t, summary
            found.append(source)
        return found


def summary_of(pixels: Tensor) -> Tensor:
    """Sums four pixels in each patch of a frame ``(S, S, 3)`` uint8 into ``(S/4, S/4, 3)`` int16.

    This halves the noise, and reads a quarter of the frame.
    """
    rows = pixels[::PATCH].short() + pixels[PATCH // 2 :: PATCH]
    return rows[:, ::PATCH] + rows[:, PATCH // 2 :: PATCH]


def difference(a: Tensor, b: Tensor) -> float:
    """Returns the difference of two summaries, for pixels in [0, 1]: the largest mean over a cell of 32x32 pixels.

    A model whose sides are multiples of 28 pixels, and not of 32, has cells of 28x28.
    A mean over the whole frame would miss a small object that moves before a static background.
    """
    patches = 8 if len(a) % 8 == 0 else 7
    cells = (a - b).abs_().view(len(a) // patches, patches, len(a) // patches, -1)
    return float(cells.float().mean(dim=(1, 3)).amax()) / (4 * 255)


def features_by_frame(levels: Sequence[Tensor], count: int) -> list[FrameFeatures]:
    """Splits a batch's levels ``(B, ...)``, finest first, into the features of its first ``count`` frames."""
    features = []
    for i in range(count):
        # Clones: a view would keep the whole batch alive as long as one of its frames.
        *high_res, embedding = (level[i : i + 1].clone() if len(level) > 1 else level for level in levels)
        features.append(FrameFeatures(embedding, high_res))
    return features
