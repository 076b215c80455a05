"""Reads films, pictures and masks, and all that is in them, as programs do that use the package."""

from pathlib import Path
from typing import Any

from seeds_media import HEIGHT, SECRET_SIZE, WIDTH

from sam2fast.video_io import VideoError, open_frames, read_frames

SIDE = 32  # of the squares that frames become
MOST_FRAMES = 64  # of a film are looked at
SIZE = (HEIGHT, WIDTH)


def assert_own(size: tuple[int, int]) -> None:
    """FFmpeg opens what a list names by itself, and no audit hook hears of it."""
    assert size != SECRET_SIZE, "another film was read"


def all_frames(source: Any) -> None:
    """Every frame at random access, each with an error of its own; forwards, then back."""
    frames = open_frames(source, SIDE)
    try:
        assert_own((frames.height, frames.width))
        order = [*range(min(len(frames), MOST_FRAMES)), 0]
        for index in order:
            frames.time(index)
            try:
                assert frames.pixels(index).shape == (SIDE, SIDE, 3)
            except VideoError:
                continue
        assert frames.rate is None or frames.rate > 0
    finally:
        frames.close()


def streamed(source: Any) -> None:
    with read_frames(source, SIDE) as reader:
        assert_own((reader.height, reader.width))
        for frame in reader:
            assert frame.square.shape == (SIDE, SIDE, 3)
            assert frame.rgb.shape == (reader.height, reader.width, 3)
            if frame.index == MOST_FRAMES:
                break


def streamed_file(path: Path) -> None:
    with path.open("rb") as file:
        streamed(file)


def film_frames(path: Path) -> None:
    from sam2fast.datasets.frame_files import count_frames, read_film_frames

    count = min(count_frames(path), MOST_FRAMES)
    for frame in read_film_frames(path, range(count)):
        assert_own(frame.shape[:2])


def pixels(path: Path) -> None:
    from sam2fast.transforms import to_pixels

    assert to_pixels(path).shape[2] == 3


def lazy_pixels(path: Path) -> None:
    """A picture that the caller opened with PIL, which is decoded when its pixels are asked for."""
    from PIL import Image

    from sam2fast.io.images import UNREADABLE
    from sam2fast.transforms import to_pixels

    try:
        image = Image.open(path)
    except (*UNREADABLE, MemoryError):
        return
    with image:
        to_pixels(image)


def training_frame(path: Path) -> None:
    from sam2fast.datasets.files import read_frame, read_frame_size

    read_frame_size(path)
    assert read_frame(path).shape[2] == 3
    assert read_frame(path, upright=True).shape[2] == 3


def training_labels(path: Path) -> None:
    from sam2fast.datasets.files import labels_in, read_labels

    labels_in(read_labels(path))


def labels(path: Path) -> None:
    from sam2fast.evaluation.label_maps import compare_files

    compare_files(path, path.with_name("truth.png"), one_object=False)


def vos_masks(path: Path) -> None:
    from sam2fast.evaluation.vos.masks import InputMasks

    masks = InputMasks(path.parent, ["00000", "00001"], per_object=False)
    for frame in masks.frames():
        masks.visible(frame), masks.read(frame), masks.colours(frame)


def foreground(path: Path) -> None:
    from sam2fast.cli.segmenter import read_foreground

    read_foreground(path)


def davis(path: Path) -> None:
    from sam2fast.datasets.davis import Davis

    for _ in Davis(path.parents[2]).open("clip"):
        pass


def click_labels(path: Path) -> None:
    from sam2fast.evaluation.clicks.mask_files import LabelPicture, ObjectPictures

    ObjectPictures((path,)).read(SIZE)
    LabelPicture(path).read(SIZE)
