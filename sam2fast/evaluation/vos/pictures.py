"""Masks of a video as PNG files, made by a thread while the next frames are tracked."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.palette_masks import extended, label_map, label_png
from sam2fast.io.atomic import errors_named

# Frames that wait to be written, at most: a queue, so that one slow write does not stop the device.
MOST_WAITING = 8


class PictureWriter:
    """Writes one palette picture for each frame, or one picture of 0 and 1 for each object and frame.

    Inside a ``with`` block; pictures are all there when it ends without an exception.

    Args:
        folder: which is there, for ``FRAME.png``, or for ``OBJECT/FRAME.png`` with the object's id as three digits.
        names: of the frames, without suffix.
        size: (H, W) of the pictures.
        colours: of the palette; DAVIS's by default.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], size: tuple[int, int], per_object: bool, colours: bytes | None
    ) -> None:
        self._folder, self._names, self._size = folder, names, size
        self._per_object, self._colours = per_object, colours
        self._thread = ThreadPoolExecutor(1, "pictures")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> "PictureWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            while kind is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            self._thread.shutdown(cancel_futures=True)

    def add(self, frame: int, masks: dict[int, NDArray[np.uint8]]) -> None:
        """Has a frame written; waits if too many are.

        Args:
            masks: by object id, as bits ``(H, ceil(W / 8))``, eight pixels a byte, the leftmost in the lowest bit.

        Raises:
            OSError: an earlier one could not be written.
        """
        self._waiting.append(self._thread.submit(self._write, frame, masks))
        while len(self._waiting) > MOST_WAITING:
            self._waiting.popleft().result()

    def _write(self, frame: int, masks: dict[int, NDArray[np.uint8]]) -> None:
        pixels = {i: np.unpackbits(bits, axis=-1, count=self._size[1], bitorder="little") for i, bits in masks.items()}
        if not self._per_object:
            labels = label_map(pixels, self._size)
            colours = None if self._colours is None else extended(self._colours, max(pixels, default=0) + 1)
            self._save(self._folder, frame, label_png(labels, colours))
            return
        for obj_id, mask in pixels.items():
            folder = self._folder / f"{obj_id:03d}"
            folder.mkdir(exist_ok=True)
            self._save(folder, frame, label_png(mask, self._colours))

    def _save(self, folder: Path, frame: int, content: bytes) -> None:
        file = folder / f"{self._names[frame]}.png"
        with errors_named(file):
            file.write_bytes(content)
