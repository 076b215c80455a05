"""Stores a crop's candidate masks as low-resolution logits until non-maximum suppression (NMS)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sam2fast.amg.utils import MaskData, batch_iterator
from sam2fast.io.rle import UncompressedRLE, list_run_lengths
from sam2fast.kernels.run_lengths import encode_upsampled

# Maximum bytes of logits that are stored until NMS. Beyond this limit, logits are encoded as run lengths before NMS.
MAX_LOGIT_BYTES = 256 << 20
# Number of masks encoded per call.
ENCODE_BATCH_SIZE = 64


class Crop(NamedTuple):
    """Stores the box of a crop and the size of the whole image."""

    box: tuple[int, int, int, int]  # XYXY in pixels of the image, excluding the last row and column
    image_size: tuple[int, int]  # (H, W)

    @property
    def size(self) -> tuple[int, int]:
        """Returns the size (H, W) of the crop."""
        x0, y0, x1, y1 = self.box
        return y1 - y0, x1 - x0

    @property
    def origin(self) -> tuple[int, int]:
        """Returns (y, x) of the crop's top left pixel."""
        return self.box[1], self.box[0]


class Candidates(NamedTuple):
    """Stores N candidate masks of a crop and their scores."""

    logits: Tensor  # (N, h, w) fp32, before upsampling to the crop's size
    iou_preds: Tensor  # (N)
    points: Tensor  # (N, 2) (x, y) in pixels of the crop
    stability_score: Tensor  # (N)
    boxes: Tensor  # (N, 4) int64 inclusive XYXY in pixels of the crop; zeros for an empty mask
    rows: Tensor  # (N) index of the mask in the decoder's output

    @classmethod
    def none(cls, device: torch.device) -> "Candidates":
        """Returns an empty set of candidates on ``device``."""
        return cls(
            logits=torch.empty(0, 0, 0, device=device),
            iou_preds=torch.empty(0, device=device),
            points=torch.empty(0, 2, device=device),
            stability_score=torch.empty(0, device=device),
            boxes=torch.empty(0, 4, dtype=torch.int64, device=device),
            rows=torch.empty(0, dtype=torch.int64, device=device),
        )

    def select(self, keep: Tensor) -> "Candidates":
        """Returns candidates: at indices ``keep (K)``, or at True entries of a bool mask ``keep (N)``."""
        if keep.dtype == torch.bool:
            keep = keep.nonzero()[:, 0]  # mask converted once, since each use of a bool index synchronises with the GPU
        return Candidates(*(column[keep] for column in self))

    def mask_data(self, rles: list[UncompressedRLE]) -> MaskData:
        """Returns SAM 2's ``MaskData`` of these candidates, with run lengths ``rles``."""
        return MaskData(
            iou_preds=self.iou_preds,
            points=self.points,
            stability_score=self.stability_score,
            boxes=self.boxes,
            rles=rles,
        )


def encode(logits: Sequence[Tensor], crop: Crop, threshold: float) -> list[UncompressedRLE]:
    """Encodes masks of a crop, given by ``logits (h, w)``, as uncompressed run lengths at the image's size."""
    rles: list[UncompressedRLE] = []
    for (together,) in batch_iterator(ENCODE_BATCH_SIZE, logits):
        runs = encode_upsampled(torch.stack(tuple(together)), crop.size, threshold, crop.origin, crop.image_size)
        rles += list_run_lengths(runs)
    return rles


class CandidateBuffer:
    """Collects a crop's candidates in batches. :meth:`take` encodes the candidates that NMS keeps.

    Args:
        threshold: Logit above which a pixel belongs to a mask.
        max_logit_bytes: Maximum bytes of stored logits. Beyond this limit, run lengths replace logits.
    """

    def __init__(self, crop: Crop, threshold: float, device: torch.device, max_logit_bytes: int | None = None) -> None:
        self.crop = crop
        self.threshold = threshold
        self.max_logit_bytes = MAX_LOGIT_BYTES if max_logit_bytes is None else max_logit_bytes
        self._batches = [Candidates.none(device)]  # candidates without logits
        self._encoded: list[UncompressedRLE] = []  # run lengths of candidates that were added first
        self._logits: list[Tensor] = []  # logits (h, w) of all later candidates

    def add(self, batch: Candidates) -> None:
        """Appends a batch of candidates."""
        self._batches.append(batch._replace(logits=batch.logits.new_empty(len(batch.logits), 0, 0)))
        self._logits.extend(batch.logits)
        if sum(logits.nbytes for logits in self._logits) > self.max_logit_bytes:
            self._encoded += encode(self._logits, self.crop, self.threshold)
            self._logits = []

    def columns(self) -> Candidates:
        """Returns all candidates so far, without logits."""
        return Candidates(*(torch.cat(column) for column in zip(*self._batches, strict=True)))

    def take(self, keep: Tensor) -> list[UncompressedRLE]:
        """Returns uncompressed run lengths, at the image's size, of candidates at indices ``keep (K)``, in order."""
        first, indices = len(self._encoded), keep.tolist()
        late = iter(encode([self._logits[i - first] for i in indices if i >= first], self.crop, self.threshold))
        return [self._encoded[i] if i < first else next(late) for i in indices]
