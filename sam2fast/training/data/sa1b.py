"""SA-1B: a JSON file with run lengths beside each photograph."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.files import list_entries, read_frame_size
from sam2fast.datasets.segmentations import SegmentAnnotations, read_sa1b
from sam2fast.training.data.folders import FolderVideo, check_num_frames, still_video
from sam2fast.training.data.lists import (
    Lists,
    NamedVideos,
    PathLike,
    choose_names,
    existing_folder,
    refuse,
    without_file,
)

PICTURE, MASKS = ".jpg", ".json"


class SA1BRawDataset(NamedVideos):
    """Pictures ``img_folder/sa_<number>.jpg`` with masks in ``gt_folder/sa_<number>.json``, as videos of equal frames.

    Follows the official ``training.dataset.vos_raw_dataset.SA1BRawDataset``, but for the order, which is that of the
    names, and for the videos' names, which are the files'. An object's id counts the annotations that are not left out,
    from 0. Names in lists may have folders in front, where SA-1B is not unpacked into one: ``sa_000000/sa_1``.

    Args:
        file_list_txt: takes only the pictures named in it, one a line; their file extensions are ignored.
        excluded_videos_list_txt: leaves out those named in it, or in one of several lists.
        num_frames: of each video.
        mask_area_frac_thresh: leaves out masks of this share of the picture, or more, if it is at most 1.
        uncertain_iou: leaves out masks whose ``uncertain_iou`` is smaller.

    Raises:
        DataError: no such folder or list, no pictures, or pictures without a JSON file; names what was expected where.
    """

    def __init__(
        self,
        img_folder: PathLike,
        gt_folder: PathLike,
        file_list_txt: PathLike | None = None,
        excluded_videos_list_txt: Lists = None,
        num_frames: int = 1,
        mask_area_frac_thresh: float = 1.1,
        uncertain_iou: float = -1,
    ) -> None:
        self.img_folder = existing_folder("img_folder", img_folder, f"<name>{PICTURE}")
        self.gt_folder = existing_folder("gt_folder", gt_folder, f"<name>{MASKS}")
        self.num_frames = check_num_frames(num_frames)
        self.mask_area_frac_thresh, self.uncertain_iou = mask_area_frac_thresh, uncertain_iou

        present: Iterator[str] = iter(())
        if file_list_txt is None:
            present = (path.stem for path in list_entries(self.img_folder) if path.suffix == PICTURE)
        expected = f"<name>{PICTURE} in img_folder"
        names = choose_names(present, self.img_folder, expected, file_list_txt, excluded_videos_list_txt, "pictures")
        for argument, folder, suffix in (("img", self.img_folder, PICTURE), ("gt", self.gt_folder, MASKS)):
            refuse(
                without_file(names, folder, suffix),
                f"of {len(names)} pictures have no {suffix} file in {argument}_folder {folder}",
                f"Expected <name>{suffix} there. To leave pictures out, use file_list_txt or excluded_videos_list_txt.",
            )
        self.video_names = names

    def get_video(self, idx: int) -> FolderVideo:
        """The ``idx``-th picture; its masks are decoded when they are asked for.

        Raises:
            DatasetError: its files cannot be read, or are none of SA-1B's.
        """
        name = self.video_names[idx]
        picture, masks = self.img_folder / f"{name}{PICTURE}", self.gt_folder / f"{name}{MASKS}"
        segments = dict(enumerate(self._segments(picture, masks)))
        return still_video(name, picture, SegmentAnnotations(segments, f"{masks}, object"), self.num_frames)

    def _segments(self, picture: Path, masks: Path) -> list[Any]:
        """Run lengths of the annotations that are not left out."""
        by_share = self.mask_area_frac_thresh <= 1.0
        height, width = read_frame_size(picture) if by_share else (1, 1)
        try:
            return [
                annotation["segmentation"]
                for annotation in read_sa1b(masks)
                if annotation["area"] > 0
                and not annotation.get("uncertain_iou", self.uncertain_iou) < self.uncertain_iou
                and not (by_share and annotation["area"] / (height * width) >= self.mask_area_frac_thresh)
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f'{masks}: an annotation must have "segmentation" and "area": {error!r}') from error
