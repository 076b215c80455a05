"""SA-V's training set, like in the official tools: videos, manual and automatic masklets, and drawings of both.

Follows the official ``sav_dataset.utils.sav_utils``.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from sam2fast.datasets.dataset_files import read_json
from sam2fast.datasets.frame_files import iter_video_frames
from sam2fast.io.rle import decode_rle
from sam2fast.results import colour_of, draw_masks
from sam2fast.utils.errors import requires

_log = logging.getLogger(__name__)

COLOURS = 256
OPACITY = 0.55
BORDER = (0.05, 0.05, 0.05, 1.0)  # red, green, blue, opacity
Frames = Sequence[NDArray[np.uint8]]


def decode_video(video_path: str | Path) -> list[NDArray[np.uint8]]:
    """Decodes all frames of a video, ``(H, W, 3)`` uint8 RGB.

    As in the official package, returns an empty list if the file does not exist.

    Raises:
        VideoError: If the file is damaged or truncated.
        ImportError: If PyAV is not installed.
    """
    if not Path(video_path).is_file():
        return []
    return [image for _, image in iter_video_frames(Path(video_path), lambda index: True)]


def show_anns(masks: Sequence[NDArray[Any]], colors: Sequence[Any], borders: bool = True) -> None:
    """Draws masks onto the current axes of matplotlib, which must be installed, largest mask first.

    Args:
        masks: N bool masks ``(H, W)``.
        colors: colors of the masks, RGB from 0 to 1.
        borders: if True, draws a dark outline around each mask, with the official width.
    """
    if len(masks) == 0:
        return
    pyplot = _pyplot()
    height, width = np.asarray(masks[0]).shape
    canvas = np.ones((height, width, 4))
    canvas[..., 3] = 0
    thickness = max(1, int(min(5, 0.01 * min(height, width))))
    for number in _largest_first(masks):
        mask = np.asarray(masks[number]) != 0
        canvas[mask] = (*colors[number], OPACITY)
        if borders:
            canvas[_border(mask, thickness)] = BORDER
    pyplot.gca().imshow(canvas)


class SAVDataset:
    """Videos of SA-V with annotations. Follows the official class of the same name.

    Args:
        sav_dir: folder of ``<video>.mp4``, ``<video>_manual.json`` and ``<video>_auto.json``.
        annot_sample_rate: interval of annotated frames: every ``annot_sample_rate``-th frame of a video.

    Attributes:
        manual_mask_colors, auto_mask_colors: colors ``(256, 3)`` from 0 to 1. Official colors differ in every process.
    """

    def __init__(self, sav_dir: str | Path, annot_sample_rate: int = 4) -> None:
        if annot_sample_rate < 1:
            raise ValueError(f"annot_sample_rate must be at least 1, got {annot_sample_rate}")
        self.sav_dir, self.annot_sample_rate = sav_dir, annot_sample_rate
        self.manual_mask_colors = np.array([colour_of(number) for number in range(COLOURS)]) / 255
        self.auto_mask_colors = np.array([colour_of(number + COLOURS) for number in range(COLOURS)]) / 255

    def read_frames(self, mp4_path: str | Path) -> list[NDArray[np.uint8]] | None:
        """Reads the annotated frames of a video, ``(H, W, 3)`` uint8 RGB. Without a file, warns and returns None.

        All frames are decoded, but only annotated frames are converted to RGB.

        Raises:
            VideoError, ImportError: See :func:`decode_video`.
        """
        if not Path(mp4_path).is_file():
            _log.warning("%s doesn't exist", mp4_path)
            return None
        frames = iter_video_frames(Path(mp4_path), lambda index: index % self.annot_sample_rate == 0)
        return [image for _, image in frames]

    def get_frames_and_annotations(
        self, video_id: str
    ) -> tuple[list[NDArray[np.uint8]] | None, dict[str, Any] | None, dict[str, Any] | None]:
        """Returns the annotated frames, and the contents of the files with manual and automatic annotations.

        Without a video file, all three results are None. Annotations are None if the annotation file is missing.

        Raises:
            VideoError, ImportError: See :func:`decode_video`.
            DatasetError: If an annotation file is not JSON.
        """
        frames = self.read_frames(Path(self.sav_dir) / f"{video_id}.mp4")
        if frames is None:
            return None, None, None
        return frames, self._annotations(video_id, "manual"), self._annotations(video_id, "auto")

    def visualize_annotation(
        self,
        frames: Frames,
        auto_annot: Mapping[str, Any] | None,
        manual_annot: Mapping[str, Any] | None,
        annotated_frame_id: int,
        show_auto: bool = True,
        show_manual: bool = True,
    ) -> None:
        """Shows an annotated frame with its masks on matplotlib's current axes.

        Args:
            annotated_frame_id: index among the annotated frames.

        Raises:
            IndexError: If there is no such frame.
            ImportError: If matplotlib is not installed (``pip install 'sam2fast[datasets]'``).
        """
        image, masks, colours = self._select(
            frames, auto_annot, manual_annot, annotated_frame_id, show_auto, show_manual
        )
        pyplot = _pyplot()
        pyplot.imshow(image)
        if not masks:
            _log.warning("frame %d has no annotation that could be shown", annotated_frame_id)
        show_anns(masks, colours)
        pyplot.axis("off")
        pyplot.show()

    def draw_annotation(
        self,
        frames: Frames,
        auto_annot: Mapping[str, Any] | None,
        manual_annot: Mapping[str, Any] | None,
        annotated_frame_id: int,
        show_auto: bool = True,
        show_manual: bool = True,
    ) -> NDArray[np.uint8]:
        """Draws an annotated frame as an image ``(H, W, 3)`` uint8 without matplotlib. See :func:`draw_masks`.

        Raises:
            IndexError: If there is no such frame.
        """
        image, masks, colours = self._select(
            frames, auto_annot, manual_annot, annotated_frame_id, show_auto, show_manual
        )
        order = _largest_first(masks)
        stacked = np.stack([masks[i] for i in order]) if order else np.zeros((0, *image.shape[:2]), dtype=bool)
        tints = [tuple(round(float(part) * 255) for part in colours[i]) for i in order]
        return draw_masks(image, stacked, range(len(order)), tints)  # type: ignore[arg-type]

    def _annotations(self, video_id: str, kind: str) -> dict[str, Any] | None:
        path = Path(self.sav_dir) / f"{video_id}_{kind}.json"
        if not path.is_file():
            _log.warning("%s doesn't exist", path)
            return None
        content: dict[str, Any] = read_json(path)
        return content

    def _select(
        self,
        frames: Frames,
        auto_annot: Mapping[str, Any] | None,
        manual_annot: Mapping[str, Any] | None,
        position: int,
        show_auto: bool,
        show_manual: bool,
    ) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]], list[Any]]:
        """Returns a frame, its masks and their colors."""
        if not 0 <= position < len(frames):
            raise IndexError(f"annotated_frame_id must be from 0 to {len(frames) - 1}, got {position}")
        masks: list[NDArray[np.bool_]] = []
        colours: list[Any] = []
        manual = manual_annot if show_manual else None
        auto = auto_annot if show_auto else None
        for annotations, palette in ((manual, self.manual_mask_colors), (auto, self.auto_mask_colors)):
            if annotations is not None:
                for number, rle in enumerate(annotations["masklet"][position]):
                    if rle is not None:
                        masks.append(decode_rle(rle))
                        colours.append(palette[number % COLOURS])
        return frames[position], masks, colours


def _largest_first(masks: Sequence[NDArray[Any]]) -> list[int]:
    """Returns the indices of masks from large to small, so that small masks are drawn last and stay visible."""
    return sorted(range(len(masks)), key=lambda number: -int(np.asarray(masks[number]).sum()))


def _border(mask: NDArray[np.bool_], thickness: int) -> NDArray[np.bool_]:
    """Returns the pixels of a line of this width along the outline of ``mask (H, W)``, including holes."""
    padded = np.pad(mask, 1)
    inner = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge = mask & ~inner
    if thickness < 2:  # Pillow 12.3 crashes in filters of size 1
        return edge
    image = Image.fromarray(edge.astype(np.uint8) * 255)
    return np.asarray(image.filter(ImageFilter.MaxFilter(2 * (thickness // 2) + 1))) > 0


def _pyplot() -> Any:
    with requires("showing annotations needs matplotlib: pip install 'sam2fast[datasets]'"):
        from matplotlib import pyplot
    return pyplot
