from pathlib import Path

import numpy as np
import pytest
from official_data import official_clips, vos_raw_dataset
from PIL import Image
from training_sets import clips_of

from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.training.data.clip import DataError
from sam2fast.training.data.png_datasets import PNGRawDataset
from sam2fast.training.data.sampling import EvalSampler, RandomUniformSampler
from sam2fast.training.data.vos import VOSDataset

SIZE = (20, 30)
VIDEOS = ("bear", "goat", "v.1")


def write_video(root: Path, name: str, T: int = 6, seed: int = 0, suffix: str = ".jpg", digits: int = 5) -> None:
    """Frames in ``frames/``, index masks in ``palette/``, the same in ``objects/`` with a folder per object."""
    rng = np.random.default_rng([seed, *name.encode()])
    (root / "frames" / name).mkdir(parents=True)
    (root / "palette" / name).mkdir(parents=True)
    for t in range(T):
        frame = Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
        frame.save(root / "frames" / name / f"{t:05d}{suffix}")
        labels = np.zeros(SIZE, np.uint8)
        for row, i in enumerate((1, 3, 4)):
            if i != 3 or t < 3:  # the second object leaves
                labels[5 * row + 1 : 5 * row + 5, t : t + 9] = i
        image = Image.fromarray(labels)
        image.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
        image.save(root / "palette" / name / f"{t:0{digits}d}.png")
        for i in np.unique(labels[labels > 0]):
            folder = root / "objects" / name / f"{i - 1:03d}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((labels == i).astype(np.uint8) * 255).save(folder / f"{t:05d}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in VIDEOS:
        write_video(tmp_path, name, digits=8)
    (tmp_path / "frames" / ".hidden").mkdir()
    (tmp_path / "frames" / "notes.txt").write_text("no video")
    return tmp_path


@pytest.mark.parametrize("layout", ["palette", "objects"])
@pytest.mark.parametrize(
    "settings", [{}, {"sample_rate": 2}, {"truncate_video": 4}, {"sample_rate": 2, "truncate_video": 3}]
)
def test_same_as_the_official_data_sets(root, layout, settings):
    (root / "frames" / ".hidden").rmdir()
    (root / "list.txt").write_text("goat\nbear\n")
    folders = root / "frames", root / layout, root / "list.txt"
    settings = {**settings, "is_palette": layout == "palette"}
    theirs = official_clips(vos_raw_dataset.PNGRawDataset(*map(str, folders), **settings))
    ours = clips_of(PNGRawDataset(*folders, **settings))
    assert [clip.name for clip in ours] == ["bear", "goat"] and len(theirs) == 2
    for clip, datapoint in zip(ours, theirs, strict=True):
        assert clip.object_ids == tuple(sorted(o.object_id for o in datapoint.frames[0].objects))
        assert len(clip.frames) == len(datapoint.frames)
        for t, frame in enumerate(datapoint.frames):
            assert np.array_equal(clip.frames[t], np.asarray(frame.data))
            assert clip.frame_indices[t] == frame.objects[0].frame_index
            for i, mask in zip(clip.object_ids, clip.masks[t], strict=True):
                (segment,) = (o.segment.numpy() for o in frame.objects if o.object_id == i)
                assert np.array_equal(mask, segment.astype(bool))
    assert not ours[0].masks[-1, 1].any() or settings.get("truncate_video") == 3  # one that left is empty


def test_single_object_mode(root):
    raw = PNGRawDataset(root / "frames", root / "objects", is_palette=False, single_object_mode=True)
    assert raw.video_names[:4] == ["bear/000", "bear/002", "bear/003", "goat/000"] and len(raw) == 9
    whole = clips_of(PNGRawDataset(root / "frames", root / "objects", is_palette=False))[0]
    for clip, i in zip(clips_of(raw)[:3], (1, 3, 4), strict=True):
        assert clip.object_ids == (i,)
        assert np.array_equal(clip.masks[:, 0], whole.masks[:, whole.object_ids.index(i)])
        assert np.array_equal(clip.frames, whole.frames)


@pytest.mark.parametrize("renamed", ["{}.png", "frame_{:04d}.PNG"])
def test_png_frames_and_unpadded_numbers(tmp_path, renamed):
    write_video(tmp_path, "bear", T=12, suffix=".png")
    folders = tmp_path / "frames", tmp_path / "palette"
    (expected,) = clips_of(PNGRawDataset(*folders))
    for folder in folders:
        for path in sorted((folder / "bear").iterdir()):
            path.rename(path.with_name(renamed.format(int(path.stem))))
    (clip,) = clips_of(PNGRawDataset(*folders))
    assert np.array_equal(clip.frames, expected.frames) and np.array_equal(clip.masks, expected.masks)


def test_lists_and_repetitions(root):
    (root / "wanted.txt").write_text("v.1\nbear.mp4\n\n goat \n")
    (root / "unwanted.txt").write_text("goat.jpg\n")
    lists = root / "wanted.txt", root / "unwanted.txt"
    assert PNGRawDataset(root / "frames", root / "palette", *lists).video_names == ["bear", "v.1"]
    raw = PNGRawDataset(root / "frames", root / "palette", *lists, frames_sampling_mult=True)
    assert raw.video_names == ["bear"] * 6 + ["v.1"] * 6
    raw = PNGRawDataset(root / "frames", root / "palette")
    dataset = VOSDataset([], True, raw, EvalSampler(), multiplier=1.7)
    assert len(dataset) == 5
    drawn = [[dataset.sample(i, np.random.default_rng(seed)).name for i in range(5)] for seed in range(20)]
    assert all(names[:3] == list(VIDEOS) for names in drawn) and {names[4] for names in drawn} == set(VIDEOS)


def image(name: str, mode: str, size: tuple[int, int] = (8, 8)):
    return lambda root: Image.new(mode, size).save(root / name)


def cut(name: str):
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:200])


FRAME, MASK = "frames/bear/00002.jpg", "palette/bear/00000003.png"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (image(MASK, "P", (7, 9)), "00000003.png has 7x9 pixels, its frame 30x20"),
        (image(MASK, "RGB", SIZE[::-1]), "mode RGB"),
        (cut(FRAME), "00002.jpg"),
        (lambda root: (root / MASK).unlink(), "no PNG for frame 3"),
        (lambda root: (root / FRAME).unlink(), "takes 6 .* only 5"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_bad_videos(root, spoil, message, training):
    spoil(root)
    raw = PNGRawDataset(root / "frames", root / "palette")
    dataset = VOSDataset([], training, raw, RandomUniformSampler(6, 3))
    with pytest.raises(DatasetError if training else DataError, match=f"bear.*{message}"):
        dataset.sample(0, np.random.default_rng(0))
    assert dataset.sample(1, np.random.default_rng(0)).name == "goat"


def folder(root: Path, name: str) -> Path:
    (root / name).mkdir(exist_ok=True)
    return root / name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda r: PNGRawDataset(None, r / "palette"), "img_folder is not set"),
        (lambda r: PNGRawDataset(r / "frames", r / "objects"), "3 of 3 .* no masks .*is_palette is True"),
        (
            lambda r: PNGRawDataset(r / "frames", r / "palette", is_palette=False),
            "no masks .*<video>/<object>/<frame>.png .*is_palette is False",
        ),
        (lambda r: PNGRawDataset(r / "frames", r / "palette", r / "no.txt"), "file_list_txt .*/no.txt"),
        (lambda r: PNGRawDataset(folder(r / "frames", "void").parent, r / "palette"), "1 of 4 .* no frames .*: void"),
    ],
)
def test_mislaid_data_sets(root, make, message):
    with pytest.raises(DataError, match=message):
        make(root)


def test_lists_of_other_videos(root):
    (root / "list.txt").write_text("bear\n" + "".join(f"x{i}\n" for i in range(9)))
    with pytest.raises(DataError, match=r"9 of the 10 .*/list.txt are not in .*/frames: x0, x1, x2, x3, x4 and 4 more"):
        PNGRawDataset(root / "frames", root / "palette", root / "list.txt")


def test_impossible_settings(root):
    raw = PNGRawDataset(root / "frames", root / "palette")
    for settings in ({"multiplier": 0}, {"always_target": False}, {"target_segments_available": False}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            VOSDataset([], True, raw, EvalSampler(), **settings)
    with pytest.raises(ValueError, match="sample_rate"):
        PNGRawDataset(root / "frames", root / "palette", sample_rate=0)
