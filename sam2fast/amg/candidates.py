"""Masks of one crop while it is being decided which of them stay, held as the decoder's low-resolution logits."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sam2fast.amg.utils import MaskData, batch_iterator
from sam2fast.io.rle import UncompressedRLE, list_run_lengths
from sam2fast.kernels.run_lengths import encode_upsampled

# Logits held for the choice among a crop's masks; beyond it they become run lengths before the choice is made.
HELD_BYTES = 256 << 20
# Masks that are encoded in one call.
ENCODED_TOGETHER = 64


class Crop(NamedTuple):
    """A crop of an image, and the image."""

    box: tuple[int, int, int, int]  # XYXY in pixels of the image, the last row and column excluded
    image_size: tuple[int, int]  # (H, W)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the crop."""
        x0, y0, x1, y1 = self.box
        return y1 - y0, x1 - x0

    @property
    def origin(self) -> tuple[int, int]:
        """(y, x) of its top left pixel."""
        return self.box[1], self.box[0]


class Candidates(NamedTuple):
    """N masks that a crop's prompts gave, each with what is said about it."""

    logits: Tensor  # (N, h, w) fp32, to be upsampled to the crop's size
    iou_preds: Tensor  # (N)
    points: Tensor  # (N, 2) (x, y) in pixels of the crop
    stability_score: Tensor  # (N)
    boxes: Tensor  # (N, 4) int64 inclusive XYXY in pixels of the crop; zeros for an empty mask
    rows: Tensor  # (N) which mask of the decoder's it is

    @classmethod
    def none(cls, device: torch.device) -> "Candidates":
        """No masks."""
        return cls(
            logits=torch.empty(0, 0, 0, device=device),
            iou_preds=torch.empty(0, device=device),
            points=torch.empty(0, 2, device=device),
            stability_score=torch.empty(0, device=device),
            boxes=torch.empty(0, 4, dtype=torch.int64, device=device),
            rows=torch.empty(0, dtype=torch.int64, device=device),
        )

    def select(self, keep: Tensor) -> "Candidates":
        """Those of an index or a bool tensor."""
        if keep.dtype == torch.bool:
            keep = keep.nonzero()[:, 0]  # once: on a GPU each bool index waits for the device
        return Candidates(*(column[keep] for column in self))

    def mask_data(self, rles: list[UncompressedRLE]) -> MaskData:
        """The original's columns of these masks, whose run lengths are given."""
        return MaskData(
            iou_preds=self.iou_preds,
            points=self.points,
            stability_score=self.stability_score,
            boxes=self.boxes,
            rles=rles,
        )


def encode(logits: Sequence[Tensor], crop: Crop, threshold: float) -> list[UncompressedRLE]:
    """Uncompressed run lengths, in the image, of the masks whose ``logits (h, w)`` in the crop these are."""
    rles: list[UncompressedRLE] = []
    for (together,) in batch_iterator(ENCODED_TOGETHER, logits):
        runs = encode_upsampled(torch.stack(tuple(together)), crop.size, threshold, crop.origin, crop.image_size)
        rles += list_run_lengths(runs)
    return rles


class Shortlist:
    """A crop's candidates, batch by batch, until :meth:`take` says which of them stay.

    Args:
        threshold: logit above which a pixel belongs to a mask.
        held_bytes: of logits; when there are more, they are replaced by their run lengths.
    """

    def __init__(self, crop: Crop, threshold: float, device: torch.device, held_bytes: int | None = None) -> None:
        self.crop = crop
        self.threshold = threshold
        self.held_bytes = HELD_BYTES if held_bytes is None else held_bytes
        self._batches = [Candidates.none(device)]  # without logits
        self._encoded: list[UncompressedRLE] = []  # run lengths of the first candidates
        self._held: list[Tensor] = []  # logits (h, w) of the others

    def add(self, batch: Candidates) -> None:
        """Appends a batch of candidates."""
        self._batches.append(batch._replace(logits=batch.logits.new_empty(len(batch.logits), 0, 0)))
        self._held.extend(batch.logits)
        if sum(logits.nbytes for logits in self._held) > self.held_bytes:
            self._encoded += encode(self._held, self.crop, self.threshold)
            self._held = []

    def columns(self) -> Candidates:
        """Every candidate so far, without logits."""
        return Candidates(*(torch.cat(column) for column in zip(*self._batches, strict=True)))

    def take(self, keep: Tensor) -> list[UncompressedRLE]:
        """Uncompressed run lengths, in the image, of candidates ``keep (K)``, indices, in their order."""
        first, indices = len(self._encoded), keep.tolist()
        late = iter(encode([self._held[i - first] for i in indices if i >= first], self.crop, self.threshold))
        return [self._encoded[i] if i < first else next(late) for i in indices]
