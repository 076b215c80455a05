"""``sam2.utils.misc`` compared with the official package."""

import warnings

import numpy as np
import oracle  # noqa: F401  (makes the official package importable)
import pytest
import sam2.utils.misc as official
import torch
from PIL import Image
from video import clip, jpeg_folder

from sam2fast.compat import misc
from sam2fast.video_io import NoFramesError, VideoError, open_frames

CPU = torch.device("cpu")
MEAN, STD = (0.1, 0.2, 0.3), (1.0, 2.0, 3.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(jpeg_folder(tmp_path_factory.mktemp("frames"), clip(3)))


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    pytest.importorskip("av")
    import moving_shapes

    return str(moving_shapes.write_video(tmp_path_factory.mktemp("video") / "video.mp4", moving_shapes.make_frames(4)))


@pytest.mark.parametrize("loader", ["load_video_frames", "load_video_frames_from_jpg_images"])
@pytest.mark.parametrize("arguments", [{}, {"img_mean": MEAN, "img_std": STD}], ids=["imagenet", "other numbers"])
@pytest.mark.parametrize("offload", [True, False])
def test_folder(folder, loader, arguments, offload):
    expected, *size = getattr(official, loader)(folder, 64, offload, compute_device=CPU, **arguments)
    images, *our_size = getattr(misc, loader)(folder, 64, offload, compute_device=CPU, **arguments)
    assert our_size == size and images.dtype == expected.dtype and torch.equal(images, expected)


@pytest.mark.parametrize("as_bytes", [True, False])
def test_video(path, as_bytes):
    if as_bytes:
        with open(path, "rb") as file:
            path = file.read()
    expected = torch.stack(list(open_frames(path, 32)))
    for load in (misc.load_video_frames_from_video_file, misc.load_video_frames):
        images, height, width = load(path, 32, True)
        assert (height, width) == (48, 64) and torch.equal(images, expected)
    images, _, _ = misc.load_video_frames_from_video_file(path, 32, True, MEAN, STD)
    pixels = images * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    expected = torch.stack([open_frames(path, 32).pixels(t) for t in range(4)]).permute(0, 3, 1, 2)
    torch.testing.assert_close(pixels * 255, expected.float(), atol=1e-3, rtol=0)


def test_lazy_folder(folder):
    loader, height, width = misc.load_video_frames(folder, 64, False, async_loading_frames=True, compute_device=CPU)
    expected, *size = official.load_video_frames(folder, 64, False, compute_device=CPU)
    assert isinstance(loader, misc.AsyncVideoFrameLoader)
    assert size == [height, width] == [loader.video_height, loader.video_width]
    assert len(loader) == 3 and torch.equal(torch.stack(list(loader)), expected)
    assert torch.equal(loader[-1], expected[2]) and torch.equal(loader[1:][0], expected[1])
    with pytest.raises(IndexError):
        loader[3]


def test_loader_by_paths(tmp_path):
    """The order is the caller's, and the EXIF orientation is ignored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = [str(tmp_path / f"{name}.jpg") for name in "ba"]
    for path, image in zip(paths, clip(2), strict=True):
        Image.fromarray(image[:40]).save(path, exif=exif)
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    theirs = official.AsyncVideoFrameLoader(paths, 48, True, mean, std, CPU)
    theirs.thread.join()
    ours = misc.AsyncVideoFrameLoader(paths, 48, True, mean, std, CPU)
    assert (ours.video_height, ours.video_width) == (theirs.video_height, theirs.video_width)
    assert len(ours) == 2
    for i in range(2):
        assert ours[i].dtype == torch.float32
        torch.testing.assert_close(ours[i], theirs[i].float(), rtol=0, atol=1e-6)


LOADER_ARGUMENTS = (48, True, MEAN, STD, CPU)


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (lambda at: misc.load_video_frames_from_jpg_images(at / "0.jpg", 32, True), NotADirectoryError, "0.jpg"),
        (lambda at: misc.load_video_frames(at / "empty", 32, True), RuntimeError, "no images found in"),
        (
            lambda at: misc.load_video_frames(at / "empty", 32, True, async_loading_frames=True),
            RuntimeError,
            "no images",
        ),
        (lambda at: misc.AsyncVideoFrameLoader([], *LOADER_ARGUMENTS), NoFramesError, "list of paths is empty"),
        (lambda at: misc.AsyncVideoFrameLoader([at / "0.jpg"], *LOADER_ARGUMENTS), VideoError, "none of the 1 files"),
    ],
)
def test_refusals(tmp_path, call, error, word):
    (tmp_path / "empty").mkdir()
    (tmp_path / "0.jpg").write_bytes(b"no image")
    with pytest.raises(error, match=word):
        call(tmp_path)


def test_a_damaged_frame_affects_no_other(tmp_path):
    jpeg_folder(tmp_path, clip(3))
    path = tmp_path / "00001.jpg"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    loader, _, _ = misc.load_video_frames(str(tmp_path), 32, True, async_loading_frames=True)
    for _ in range(2):
        with pytest.raises(VideoError, match="frame 1"):
            loader[1]
    assert loader[0].shape == loader[2].shape == (3, 32, 32)


def test_one_image(tmp_path):
    path = tmp_path / "grey.jpg"
    Image.fromarray(clip(1)[0][:40]).convert("L").save(path)
    expected, actual = official._load_img_as_tensor(str(path), 48), misc._load_img_as_tensor(path, 48)
    assert actual[1:] == expected[1:] == (40, Image.open(path).width)
    assert actual[0].dtype == expected[0].dtype and torch.equal(actual[0], expected[0])


def test_concat_points():
    points, labels = torch.rand(2, 3, 2), torch.ones(2, 3, dtype=torch.int32)
    for old in (None, {"point_coords": torch.rand(2, 1, 2), "point_labels": torch.zeros(2, 1, dtype=torch.int32)}):
        expected, actual = (f(old, points, labels) for f in (official.concat_points, misc.concat_points))
        assert expected.keys() == actual.keys() and all(torch.equal(expected[k], actual[k]) for k in expected)


@pytest.mark.parametrize("major", [None, 6, 7, 8, 9])
def test_sdpa_settings(monkeypatch, major):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: major is not None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("Properties", (), {"major": major}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert misc.get_sdpa_settings() == official.get_sdpa_settings()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_components_of_any_dtype(dtype):
    mask = (torch.from_numpy(np.random.default_rng(0).random((2, 1, 12, 14))) > 0.6).to(dtype)
    labels, areas = misc.get_connected_components(mask)
    their_labels, their_areas = official.get_connected_components(mask)
    assert torch.equal(areas, their_areas)
    pairs = {*zip(labels[0].flatten().tolist(), their_labels[0].flatten().tolist(), strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_boxes_and_holes():
    """The kernels have tests of their own; this checks that the names refer to them."""
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 1, 16, 18))).float()
    assert torch.equal(misc.mask_to_box(masks=logits > 0), official.mask_to_box(masks=logits > 0))
    expected = official.fill_holes_in_mask_scores(mask=logits, max_area=3)
    assert not torch.equal(expected, logits)
    assert torch.equal(misc.fill_holes_in_mask_scores(mask=logits, max_area=3), expected)
