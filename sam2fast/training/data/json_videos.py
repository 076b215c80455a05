"""SA-V: videos as films or as folders of frames, with the masks of each in a JSON file."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.files import FRAME_SUFFIXES, VIDEO_SUFFIXES, has_files, list_entries, list_files
from sam2fast.datasets.frame_files import count_frames, read_film_frames
from sam2fast.datasets.layout import MASKLETS
from sam2fast.datasets.sav_json import MaskletAnnotations
from sam2fast.training.data.folders import FolderVideo
from sam2fast.training.data.lists import (
    Lists,
    NamedVideos,
    PathLike,
    choose_present,
    existing_folder,
    refuse,
    without_file,
)

EXPECTED = "<video>.mp4 or <video>/<frame>.jpg"


class FilmVideo(FolderVideo):
    """A video file with annotations; it is opened for the frames of a clip, and closed again."""

    def read_frames(self, positions: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Frames as ``(H, W, 3)`` RGB."""
        return read_film_frames(self.frames[0][1], [self.frame_indices[position] for position in positions])


class JSONRawDataset(NamedVideos):
    """Videos with masks in JSON files, ``gt_folder/<video>_manual.json``.

    They are films, ``img_folder/<video>.mp4``, or folders of frames, ``img_folder/<video>/<number>.jpg``. Films may be
    one folder deeper, where SA-V is not unpacked into one; they are then called ``sav_000/sav_000001``. Follows the
    official ``training.dataset.vos_raw_dataset.JSONRawDataset``, which reads folders of frames alone.

    Args:
        file_list_txt: takes only the videos named in it, one a line; their file extensions are ignored.
        excluded_videos_list_txt: leaves out those named in it, or in one of several lists.
        sample_rate: takes every ``sample_rate``-th of a video's frames.
        rm_unannotated: takes only frames in which every object is annotated, though it may be hidden.
        ann_every: how many frames of the video one annotated frame is for: 4 in SA-V.
        frames_fps: of the videos; for files of masks that say how many frames per second they are for.
        annotator: ``manual`` or ``auto``, which is who found the objects.

    Raises:
        DataError: no such folder or list, no videos, or videos without frames or JSON file; names what was expected
            where.
        ImportError: films, and PyAV is not installed.
    """

    def __init__(
        self,
        img_folder: PathLike,
        gt_folder: PathLike,
        file_list_txt: PathLike | None = None,
        excluded_videos_list_txt: Lists = None,
        sample_rate: int = 1,
        rm_unannotated: bool = True,
        ann_every: int = 1,
        frames_fps: int = 24,
        annotator: str = "manual",
    ) -> None:
        for argument, value in (("sample_rate", sample_rate), ("ann_every", ann_every), ("frames_fps", frames_fps)):
            if value < 1:
                raise ValueError(f"{argument} must be at least 1, got {value}")
        if annotator not in MASKLETS:
            raise ValueError(f"annotator must be one of {', '.join(MASKLETS)}, got {annotator!r}")
        self.masks_suffix = f"_{annotator}.json"
        self.img_folder = existing_folder("img_folder", img_folder, EXPECTED)
        self.gt_folder = existing_folder("gt_folder", gt_folder, f"<video>{self.masks_suffix}")
        self.sample_rate, self.rm_unannotated = sample_rate, rm_unannotated
        self.ann_every, self.frames_fps = ann_every, frames_fps
        self.video_names = self._choose(file_list_txt, excluded_videos_list_txt)
        if any(self._film(name) is not None for name in self.video_names):
            from sam2fast.video_io.errors import require_pyav

            require_pyav()

    def get_video(self, idx: int) -> FolderVideo:
        """The ``idx``-th video; frames and masks are decoded when they are asked for.

        Raises:
            DatasetError: its JSON file or its frames cannot be read, or are none of SA-V's.
        """
        name = self.video_names[idx]
        annotations = MaskletAnnotations(self.gt_folder / f"{name}{self.masks_suffix}", self.ann_every, self.frames_fps)
        film = self._film(name)
        if film is not None:
            taken = self._taken(range(count_frames(film)), annotations)
            return FilmVideo(name, tuple((number, film) for number in taken), tuple(taken), annotations)
        files = list_files(self.img_folder / name, FRAME_SUFFIXES)
        strange = [path for key, path in files.items() if not isinstance(key, int)]
        if strange:
            raise DatasetError(f"{strange[0]}: a frame must be named by its number in the video")
        numbers = self._taken([key for key in files if isinstance(key, int)], annotations)
        return FolderVideo(name, tuple((number, files[number]) for number in numbers), tuple(numbers), annotations)

    def _taken(self, numbers: Sequence[int], annotations: MaskletAnnotations) -> list[int]:
        """Which of a video's frames are used."""
        sampled = numbers[:: self.sample_rate]
        return [n for n in sampled if annotations.is_annotated(n)] if self.rm_unannotated else list(sampled)

    def _film(self, name: str) -> Path | None:
        films = (self.img_folder / f"{name}{suffix}" for suffix in VIDEO_SUFFIXES)
        return next((film for film in films if film.is_file()), None)

    def _choose(self, file_list: PathLike | None, excluded: Lists) -> list[str]:
        """Names of the videos, sorted."""
        present = set(_find_videos(self.img_folder))
        names = choose_present(present, self.img_folder, EXPECTED, file_list, excluded, "videos")
        refuse(
            [name for name in names if not (self._film(name) or has_files(self.img_folder / name, FRAME_SUFFIXES))],
            f"of {len(names)} videos have no frames in img_folder {self.img_folder}",
            f"Expected {EXPECTED} there.",
        )
        refuse(
            without_file(names, self.gt_folder, self.masks_suffix),
            f"of {len(names)} videos have no {self.masks_suffix} file in gt_folder {self.gt_folder}",
            f"Expected <video>{self.masks_suffix} there. To leave videos out, use file_list_txt or "
            "excluded_videos_list_txt.",
        )
        return names


def _find_videos(folder: Path) -> Iterator[str]:
    """Films, folders of frames, and the films of folders of films."""
    for path in list_entries(folder):
        if path.suffix in VIDEO_SUFFIXES and path.is_file():
            yield path.stem
        elif path.is_dir():
            films = [film.stem for film in list_entries(path) if film.suffix in VIDEO_SUFFIXES]
            yield from (f"{path.name}/{film}" for film in films) if films else [path.name]
