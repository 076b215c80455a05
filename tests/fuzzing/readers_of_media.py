"""Readers of videos, images and masks, as programs use the package."""

from pathlib import Path
from typing import Any

from PIL import Image
from seeds_media import HEIGHT, SECRET_SIZE, WIDTH

from sam2fast.datasets.dataset_files import read_frame, read_frame_size
from sam2fast.datasets.frame_files import count_frames, decode_video_frames
from sam2fast.evaluation.clicks.sources import LabelImage, ObjectImages
from sam2fast.evaluation.j_and_f import compare_files
from sam2fast.evaluation.vos.input_masks import InputMasks
from sam2fast.io.images import IMAGE_READ_ERRORS
from sam2fast.transforms import to_pixels
from sam2fast.video_io import VideoError, open_frames, read_frames

SIDE = 32  # resolution of the model's frames
MOST_FRAMES = 64  # frames of a video that are read
SIZE = (HEIGHT, WIDTH)


def assert_own(size: tuple[int, int]) -> None:
    """Audit hooks do not see files that FFmpeg opens natively."""
    assert size != SECRET_SIZE, "another video was read"


def all_frames(source: Any) -> None:
    """Reads every frame by random access, forwards and backwards; each may raise its own error."""
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


def video_frames(path: Path) -> None:
    count = min(count_frames(path), MOST_FRAMES)
    for frame in decode_video_frames(path, range(count)):
        assert_own(frame.shape[:2])


def lazy_pixels(path: Path) -> None:
    """An image opened with PIL, which decodes it lazily."""
    try:
        image = Image.open(path)
    except (*IMAGE_READ_ERRORS, MemoryError):
        return
    with image:
        to_pixels(image)


def training_frame(path: Path) -> None:
    read_frame_size(path)
    assert read_frame(path).shape[2] == 3
    assert read_frame(path, upright=True).shape[2] == 3


def vos_masks(path: Path) -> None:
    masks = InputMasks(path.parent, ["00000", "00001"], per_object=False)
    for frame in masks.frames():
        masks.visible_objects(frame), masks.read(frame), masks.colours(frame)


def click_labels(path: Path) -> None:
    ObjectImages((path,)).read(SIZE)
    LabelImage(path).read(SIZE)


def labels(path: Path) -> None:
    compare_files(path, path.with_name("truth.png"), one_object=False)
