"""Videos of one array, and images of more than 8 bits."""

import numpy as np
import pytest
import torch
from numbered_videos import assert_both_refuse
from PIL import Image

from sam2fast import nano
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.video_io import VideoError, open_frames, read_frames

VALUES = np.linspace(-1000, 3000, 4 * 6 * 8).reshape(4, 6, 8)  # such as Hounsfield units
AS_BYTES = np.rint(255 * np.clip((VALUES.round() + 160) / 400, 0, 1)).astype(np.uint8)  # in a window from -160 to 240


def rgb_frames(video, **options):
    frames = open_frames(video, 8, **options)
    assert (frames.height, frames.width) == (6, 8)
    return np.stack([frames.pixels(index).numpy() for index in range(len(frames))])


def resized_frames(grey):
    return rgb_frames([np.repeat(frame[..., None], 3, -1) for frame in grey])


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
@pytest.mark.parametrize("scale", [1, 255], ids=["uint8", "float"])
@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_layouts_equal_a_list(channels, scale, kind):
    """Drops alpha and repeats grey. Channels are the last dimension, or the second one, or there are none."""
    values = np.random.default_rng(1).integers(0, 256, (4, 6, 8, channels or 1), np.uint8)
    rgb = values[..., :3] if channels in (3, 4) else np.repeat(values, 3, -1)
    expected = rgb_frames(list(rgb))
    video = values if scale == 1 else (values / scale).astype(np.float32)
    last = video if channels else video[..., 0]
    first = [video.transpose(0, 3, 1, 2)] if channels == 3 or channels and kind is torch.from_numpy else []
    for same in (list(last), kind(last), *map(kind, first)):
        assert np.array_equal(rgb_frames(same), expected)
        with read_frames(same, 8) as reader:
            for frame in reader:
                assert np.array_equal(frame.rgb, rgb[frame.index])
                assert np.array_equal(frame.square, expected[frame.index])


@pytest.mark.parametrize("shape", [(6, 8, 3), (6, 8, 1), (4, 6, 8, 2), (4, 5, 6, 8), (4, 4, 6, 8), (6, 8)])
def test_refused_shapes(shape):
    video = np.zeros(shape, np.uint8)
    assert_both_refuse(lambda: video, VideoError, r"has shape .*1 or 4 channels in the place of 3")


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
def test_three_rows_are_no_channels(kind):
    video = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 3), np.uint8)
    frames, expected = open_frames(kind(video), 8), open_frames(list(video), 8)
    assert (len(frames), frames.height, frames.width) == (2, 3, 8)
    assert all(torch.equal(frame, other) for frame, other in zip(frames, expected, strict=True))


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [*((dtype, np.asarray) for dtype in ("i2", "i4", "f4", "f8", ">i2")), (">i2", list), ("f8", iter)],
)
def test_window(dtype, kind):
    video = VALUES.round().astype(dtype)
    assert np.array_equal(rgb_frames(kind(video), window=(-160, 240)), resized_frames(AS_BYTES))


def test_window_of_tensors_and_colours():
    video = torch.from_numpy(VALUES.round()).to(torch.int16)
    for same in (video, list(video), video[:, None].expand(-1, 3, -1, -1), video[..., None].expand(-1, -1, -1, 3)):
        assert np.array_equal(rgb_frames(same, window=(-160, 240)), resized_frames(AS_BYTES))


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_window_of_files(tmp_path, suffix):
    """A folder of 16-bit images, a list of their paths, and one TIFF of several pages."""
    images = [Image.fromarray((frame.round() + 1000).astype(np.uint16)) for frame in VALUES]
    images[0].save(tmp_path / "all.tif", save_all=True, append_images=images[1:])
    (tmp_path / "slices").mkdir()
    for index, image in enumerate(images):
        image.save(tmp_path / f"slices/{index}.{suffix}")
    for video in (tmp_path / "slices", sorted((tmp_path / "slices").iterdir()), images, tmp_path / "all.tif"):
        assert np.array_equal(rgb_frames(video, window=(840, 1240)), resized_frames(AS_BYTES))


@pytest.mark.parametrize(
    ("video", "word"),
    [
        (VALUES.astype(np.int16), "the video is int16; expected uint8"),
        (torch.zeros(4, 6, 8, dtype=torch.int32), "the video is torch.int32"),
        (VALUES, "frame 0: .*values from -1000"),
        ([VALUES[0].astype(np.int16)], "frame 0: .*int16"),
    ],
)
def test_other_values_need_a_window(video, word):
    assert_both_refuse(lambda: video, VideoError, f"{word}.* .*window=")


@pytest.mark.parametrize(
    ("video", "window", "error", "word"),
    [
        *(
            (VALUES, window, ValueError, r"\(low, high\)")
            for window in [(3, 3), (5, 1), (1,), (float("nan"), 1), 5, (None, 1)]
        ),
        (b"video", (0, 1), VideoError, "images and arrays"),
    ],
)
def test_refused_windows(video, window, error, word):
    with pytest.raises(error, match=word):
        open_frames(video, 8, window=window)


def test_window_of_a_session(tmp_path):
    """Also of one that is saved and loaded."""
    predictor = build_sam2_video_predictor(nano.CONFIG, nano.WEIGHTS, device="cpu")
    state = predictor.init_state(VALUES, window=(-160, 240))
    assert torch.equal(state.frames.pixels(2), predictor.init_state(AS_BYTES).frames.pixels(2))
    predictor.add_new_points_or_box(state, 0, 1, points=[[4, 3]], labels=[1])
    predictor.save_state(state, tmp_path / "state")
    loaded = predictor.load_state(tmp_path / "state", VALUES, window=(-160, 240))
    assert torch.equal(state.frames.pixels(2), loaded.frames.pixels(2))


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
def test_an_array_that_is_written_to_has_its_new_pixels(kind):
    """docs/video.md says so: no copy is made."""
    video = np.random.default_rng(5).integers(0, 256, (4, 6, 8, 3), np.uint8)
    frames = open_frames(kind(video), 8)
    video[3] = 7
    assert (frames.pixels(3) == 7).all()
