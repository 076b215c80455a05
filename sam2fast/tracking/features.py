"""Encoder features of frames, computed when needed and kept for a while."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.approximations import EXACT
from sam2fast.tracking.still_frames import StillFrames
from sam2fast.video_io import Frames

# Frames whose features are kept: clicks go back and forth between a few.
FEATURES_KEPT = 4


class FrameFeatures(NamedTuple):
    """What the encoder says about one frame."""

    embedding: Tensor  # (1, C, H, W)
    high_res: list[Tensor]  # (1, C/8, 4H, 4W), (1, C/4, 2H, 2W), or none


class EncodedFrames(NamedTuple):
    """Features of a few frames, which may still be computed on another stream."""

    features: list[FrameFeatures]
    wait: Callable[[FrameFeatures], None] | None  # makes the current stream wait, before it reads some of them


_Key: TypeAlias = tuple[int, torch.dtype | None]  # a frame, and what autocast computes in
_Features: TypeAlias = tuple[FrameFeatures, Callable[[FrameFeatures], None] | None]  # and their EncodedFrames.wait


class Encoder(Protocol):
    """Encodes frames of a video by their numbers; ``ahead`` says that nobody waits for them yet."""

    def __call__(self, frames: Frames, indices: Sequence[int], ahead: bool) -> EncodedFrames: ...


class FeatureCache:
    """Features of the frames used last.

    Features computed under autocast and outside it are kept apart.

    Args:
        model: the encoder's.
        frames: of the video.
        encoder: what encodes them, called as :class:`Encoder` says, such as ``predictor._encode_frames``.
        size: how many frames' features are kept, about 17 MB each at 1024x1024 in fp32.

    Attributes:
        encoded: how many frames went through the encoder.
    """

    def __init__(self, model: SAM2Base, frames: Frames, encoder: Encoder, size: int = FEATURES_KEPT) -> None:
        self.model = model
        self.frames = frames
        self.size = size
        self.kept: OrderedDict[_Key, FrameFeatures] = OrderedDict()
        self._encoder = encoder
        self._waits: dict[_Key, Callable[[FrameFeatures], None]] = {}
        self._still: StillFrames | None = None
        self.reuse(getattr(model, "approximations", EXACT).still_frames)
        self.encoded = 0

    def reuse(self, threshold: float | None) -> None:
        """From here on, frames that differ no more than this from the last encoded one get its features; None for none.

        Args:
            threshold: see :func:`sam2fast.tracking.still_frames.difference`.
        """
        self._still = None if threshold is None else StillFrames(threshold)

    def __getitem__(self, frame: int) -> FrameFeatures:
        return self.encode([frame])[0]

    def keeps(self, frame: int) -> bool:
        """Whether the frame's features are there already, or on their way."""
        return (frame, autocast_dtype(self.model.device)) in self.kept

    def encode(self, frames: Sequence[int]) -> list[FrameFeatures]:
        """Features of several frames; those not kept from before are encoded as one batch."""
        self._begin(frames, len(frames), ahead=False)
        kind, found = autocast_dtype(self.model.device), []
        for t in frames:
            features = self.kept[t, kind]
            self._await((t, kind), features)
            found.append(features)
        return found

    def awaited(self) -> Iterator[tuple[int, FrameFeatures]]:
        """Each frame whose features are kept, and these, for the current stream to read; it is no use of them that
        counts for how long they are kept."""
        for key, features in list(self.kept.items()):
            self._await(key, features)
            yield key[0], features

    def _await(self, key: _Key, features: FrameFeatures) -> None:
        wait = self._waits.get(key)
        if wait is not None:  # each time, for it may be on another stream
            wait(features)

    def clear(self) -> None:
        """Forgets all features."""
        self.kept.clear()
        self._waits.clear()
        if self._still is not None:
            self._still.clear()

    def begin(self, frames: Sequence[int], batch: int) -> None:
        """Sees to it that these will be there; where the encoder has a stream of its own, nobody waits for it yet.

        Args:
            batch: how many frames come at a time, at most.
        """
        self._begin(frames, batch, ahead=True)

    def _begin(self, frames: Sequence[int], batch: int, ahead: bool) -> None:
        kind = autocast_dtype(self.model.device)
        missing = [t for t in frames if (t, kind) not in self.kept]
        if missing:
            for t, (features, wait) in zip(missing, self._encode(missing, kind, ahead), strict=True):
                if wait is not None:
                    self._waits[t, kind] = wait
                self.kept[t, kind] = features
        for t in frames:
            self.kept.move_to_end((t, kind))
        if missing:  # not otherwise, or frames encoded ahead would be dropped before their turn
            # This batch, the one before, and the frame at hand.
            most = self.size if batch == 1 else max(self.size, 2 * batch + 1)
            while len(self.kept) > most:
                key, _ = self.kept.popitem(last=False)
                self._waits.pop(key, None)

    def _encode(self, frames: Sequence[int], kind: torch.dtype | None, ahead: bool) -> list[_Features]:
        """Features of each, by the encoder or those of a still frame before it."""
        still = self._still
        sources = list(frames) if still is None else still.sources(kind, self.frames, frames)
        new = [t for t, source in zip(frames, sources, strict=True) if t == source]
        found: dict[int | None, _Features] = {}
        if new:
            encoded = self._encoder(self.frames, new, ahead)
            found = {t: (features, encoded.wait) for t, features in zip(new, encoded.features, strict=True)}
            self.encoded += len(new)
        if still is not None:
            if None in sources:
                found[None] = still.last(kind)
            if new:
                still.remember(kind, self.frames, new[-1], found[new[-1]])
        return [found[source] for source in sources]


def encode_frames(model: SAM2Base, frames: Frames, indices: Sequence[int]) -> EncodedFrames:
    """Features of some frames of a video, as one batch."""
    images = torch.stack([frames[t] for t in indices]).to(model.device)
    return EncodedFrames(features_by_frame(model.encode_image(images), len(indices)), None)


def features_by_frame(levels: Sequence[Tensor], count: int) -> list[FrameFeatures]:
    """The first ``count`` of a batch's levels ``(B, ...)``, finest first, frame by frame."""
    features = []
    for i in range(count):
        # Clones: a view would keep the whole batch alive as long as one of its frames.
        *high_res, embedding = (level[i : i + 1].clone() if len(level) > 1 else level for level in levels)
        features.append(FrameFeatures(embedding, high_res))
    return features


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What autocast computes in on a kind of device, or None outside of it."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
