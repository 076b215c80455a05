"""Caches image features of frames, and reuses features for similar frames."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from sam2fast.engine.graphs import autocast_dtype
from sam2fast.video_io import Frames
from sam2fast.video_io.video_types import StreamFrame

# Number of cached frames in addition to upcoming frames, since users often click on a few frames in turn.
FEATURES_KEPT = 4
PATCH = 4  # side of a patch in input pixels, equal to the stride of SAM 2's patch embedding


class FrameFeatures(NamedTuple):
    """Stores the image encoder's output for one frame."""

    embedding: Tensor  # (1, C, H, W)
    high_res: list[Tensor]  # maps (1, C/8, 4H, 4W) and (1, C/4, 2H, 2W), or an empty list


class EncodedFrames(NamedTuple):
    """Stores features of several frames. Another CUDA stream may still be computing the features."""

    features: list[FrameFeatures]
    wait: Callable[[FrameFeatures], None] | None  # makes the stream wait for a frame's features; None: all computed


@dataclass(frozen=True, eq=False)
class EncodedFrame(StreamFrame):
    """Result of ``SAM2VideoPredictor.encode_frame``: a frame and its features, for any number of streams. Read-only."""

    _features: FrameFeatures = field(repr=False)
    _model: nn.Module = field(repr=False)
    _dtype: torch.dtype | None = field(repr=False)  # autocast's dtype
    _changes: int = field(repr=False)  # number of changes of the model's modules before the frame was encoded


_Key: TypeAlias = tuple[int, torch.dtype | None]  # frame number and autocast dtype
_Features: TypeAlias = tuple[FrameFeatures, Callable[[FrameFeatures], None] | None]  # features and EncodedFrames.wait


class FeatureCache:
    """Stores the features of the ``size`` most recently used frames, and of the upcoming frames of a pass.

    Features are stored separately for each autocast dtype.

    Args:
        frames: The frames of the video.
        device: The device of the features.
        size: Maximum number of most recently used frames. The features of a frame take about 17 MB at 1024x1024 in
            fp32.
        reuse_threshold: See :meth:`reuse`.

    Attributes:
        upcoming: The next frames of the current pass. Features of upcoming frames are not evicted before the frames are
            tracked.
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
        """Sets the largest :func:`difference` for reusing the last encoded frame's features. None: no reuse."""
        self._reuse = None if threshold is None else FeatureReuse(threshold)

    def missing(self, frames: Iterable[int]) -> list[int]:
        """Returns the frames without features in the cache. Features still being computed count as cached."""
        dtype = autocast_dtype(self._device)
        return [t for t in frames if (t, dtype) not in self.kept]

    def encode(self, frames: Sequence[int], compute: Callable[[list[int]], EncodedFrames]) -> None:
        """Stores the features of ``frames``. A missing frame is encoded, or reuses features of a similar frame.

        Args:
            compute: Function that encodes frames.

        Raises:
            VideoError: If a frame cannot be read.
        """
        dtype = autocast_dtype(self._device)
        missing = self.missing(frames)
        sources: list[int | None] = list(missing)  # source of each frame's features; None: the last encoded frame
        if missing and self._reuse is not None:
            sources = self._reuse.sources(dtype, self.frames, missing)
        new = [t for t, source in zip(missing, sources, strict=True) if t == source]
        computed: dict[int | None, _Features] = {}
        if new:
            encoded = compute(new)
            computed = {t: (features, encoded.wait) for t, features in zip(new, encoded.features, strict=True)}
            self.encoded += len(new)
        if self._reuse is not None:
            if None in sources:
                computed[None] = self._reuse.last[dtype][1]
            if new:
                self._reuse.last[dtype] = summary_of(self.frames.pixels(new[-1])), computed[new[-1]]
        for t, source in zip(missing, sources, strict=True):
            features, wait = computed[source]
            if wait is not None:
                self._waits[t, dtype] = wait
            self.kept[t, dtype] = features
        for t in frames:
            self.kept.move_to_end((t, dtype))
        # Upcoming frames are not evicted, although tracked frames were used more recently.
        upcoming = () if self._only_last and len(frames) == 1 else self.upcoming
        most = max(1 if self._only_last else self.size, sum(t not in upcoming for t in frames))
        for key in [key for key in self.kept if key[0] not in upcoming][:-most]:
            del self.kept[key]
            self._waits.pop(key, None)

    def keep_encoded(self, index: int, frame: EncodedFrame) -> None:
        """Clears the cache, and stores the features of ``frame`` as frame ``index``."""
        self.clear()
        self._changes = frame._changes
        self.kept[index, frame._dtype] = frame._features

    def as_encoded(self, frame: StreamFrame, model: nn.Module) -> EncodedFrame:
        """Returns ``frame`` with the newest cached features, computed by ``model``."""
        (_, dtype), features = next(reversed(self.kept.items()))
        fields = frame.index, frame.time, frame.height, frame.width, frame._pixels
        return EncodedFrame(*fields, features, model, dtype, self._changes)

    def read(self, frames: Sequence[int]) -> list[FrameFeatures]:
        """Returns features of cached ``frames``. Marks the frames as most recently used.

        The current CUDA stream waits until the features are computed.
        """
        dtype, result = autocast_dtype(self._device), []
        for t in frames:
            features = self.kept[t, dtype]
            self.kept.move_to_end((t, dtype))
            self._await((t, dtype), features)
            result.append(features)
        return result

    def awaited(self) -> Iterator[tuple[int, FrameFeatures]]:
        """Yields cached frames and features. The current stream waits for the features. Eviction is unaffected."""
        for key, features in list(self.kept.items()):
            self._await(key, features)
            yield key[0], features

    def keep_since(self, changes: int, only_last: bool) -> None:
        """Drops the features if the model's modules changed since the features were computed.

        Args:
            changes: Number of module changes so far.
            only_last: If True, stores features of only one frame from now on, so that modules are called as often as in
                the official package.
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
        if wait is not None:  # waits in each call, since the current stream may differ
            wait(features)


class FeatureReuse:
    """Decides which frames are encoded, by comparing their pixels on the CPU without synchronizing.

    Each frame is compared with the last *encoded* frame, so that differences accumulate during a slow movement.

    Args:
        threshold: Largest :func:`difference` at which a frame is not encoded.

    Attributes:
        last: Summary and features of the last encoded frame, by autocast's dtype. If a dtype has no entry, the next
            frame is encoded.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.last: dict[torch.dtype | None, tuple[Tensor, _Features]] = {}

    def sources(self, dtype: torch.dtype | None, frames: Frames, indices: Sequence[int]) -> list[int | None]:
        """Returns the source frame of each frame's features. None stands for the last encoded frame.

        Args:
            dtype: Autocast's dtype. Features of one dtype are not reused for another dtype.
            indices: Frame numbers in the order of tracking.
        """
        source: int | None = None
        reference = self.last[dtype][0] if dtype in self.last else None
        sources = []
        for t in indices:
            summary = summary_of(frames.pixels(t))
            if reference is None or difference(summary, reference) > self.threshold:
                source, reference = t, summary
            sources.append(source)
        return sources


def summary_of(pixels: Tensor) -> Tensor:
    """Sums four pixels of each patch of a frame ``(S, S, 3)`` uint8. Returns ``(S/4, S/4, 3)`` int16.

    A sum of four pixels has half the relative noise of one pixel. Only a quarter of the frame's pixels is read.
    """
    rows = pixels[::PATCH].short() + pixels[PATCH // 2 :: PATCH]
    return rows[:, ::PATCH] + rows[:, PATCH // 2 :: PATCH]


def difference(a: Tensor, b: Tensor) -> float:
    """Returns the largest mean absolute difference in a cell of 32x32 pixels of two frames, for pixels in [0, 1].

    If the side of the model's input is not a multiple of 32, cells have 28x28 pixels. A mean over the whole frame would
    miss a small object that moves in front of a static background.

    Args:
        a, b: Summaries of two frames, from :func:`summary_of`.
    """
    patches = 8 if len(a) % 8 == 0 else 7
    cells = (a - b).abs_().view(len(a) // patches, patches, len(a) // patches, -1)
    return float(cells.float().mean(dim=(1, 3)).amax()) / (4 * 255)


def features_by_frame(levels: Sequence[Tensor], count: int) -> list[FrameFeatures]:
    """Splits feature levels ``(B, ...)`` of a batch, finest first, into features of its first ``count`` frames."""
    features = []
    for i in range(count):
        # Clones the level, since a view of one frame would keep the whole batch in memory.
        *high_res, embedding = (level[i : i + 1].clone() if len(level) > 1 else level for level in levels)
        features.append(FrameFeatures(embedding, high_res))
    return features
