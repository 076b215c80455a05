"""Frames that hardly differ from the last one that was encoded: they get its features."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from sam2fast.video_io import Frames

# Pixels of the model's input, whose side is a multiple of 32. Patches are those the encoder begins with.
PATCH, CELL = 4, 32


class _Encoded(NamedTuple):
    """The last frame that was encoded."""

    summary: Tensor
    features: Any  # what the caller keeps of it


class StillFrames:
    """Decides which frames are encoded, by their pixels on the CPU: nothing waits for the device.

    Frames are compared with the last *encoded* one, so that a slow movement adds up until it counts.

    Args:
        threshold: the largest :func:`difference` at which a frame is not encoded.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._last: dict[Hashable, _Encoded] = {}

    def sources(self, kind: Hashable, frames: Frames, indices: Sequence[int]) -> list[int | None]:
        """For each frame, in the order in which they will be tracked, the one of them whose features it gets.

        None stands for :meth:`last`.

        Args:
            kind: features of one kind are of no use to another.
        """
        source: int | None = None
        reference = self._last[kind].summary if kind in self._last else None
        found = []
        for t in indices:
            summary = summary_of(frames.pixels(t))
            if reference is None or difference(summary, reference) > self.threshold:
                source, reference = t, summary
            found.append(source)
        return found

    def last(self, kind: Hashable) -> Any:
        """What was kept of the last encoded frame."""
        return self._last[kind].features

    def remember(self, kind: Hashable, frames: Frames, index: int, features: Any) -> None:
        """This frame was the last to be encoded."""
        self._last[kind] = _Encoded(summary_of(frames.pixels(index)), features)

    def clear(self) -> None:
        """The next frame is encoded, whatever it shows."""
        self._last.clear()


def summary_of(pixels: Tensor) -> Tensor:
    """Of a frame ``(S, S, 3)`` uint8, in each patch the sums of four of its pixels: ``(S/4, S/4, 3)`` int16.

    Sums of four have half the noise of single pixels, and read a quarter of them.
    """
    rows = pixels[::PATCH].short() + pixels[PATCH // 2 :: PATCH]
    return rows[:, ::PATCH] + rows[:, PATCH // 2 :: PATCH]


def difference(a: Tensor, b: Tensor) -> float:
    """Between two summaries, for pixels in [0, 1]: the mean over a cell of 32x32 pixels, of the cell with the largest.

    A mean over the whole frame would not see a small thing that moves before a background that does not.
    """
    patches = CELL // PATCH
    cells = (a - b).abs_().view(len(a) // patches, patches, len(a) // patches, -1)
    return float(cells.float().mean(dim=(1, 3)).amax()) / (4 * 255)
