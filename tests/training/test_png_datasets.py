"""Masks as PNG files: videos as the official data sets read them, and images with labels or folders of masks."""

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from official_data import official_clips, vos_raw_dataset
from PIL import Image
from training_sets import HEIGHT, WIDTH, clips_of, sample, write_mask_folders

from sam2fast.datasets.dataset_files import DatasetError, read_frame, read_frame_size
from sam2fast.training.data.clip import DataError
from sam2fast.training.data.png_datasets import MaskFolderRawDataset, PNGRawDataset
from sam2fast.training.data.sampling import EvalSampler, RandomUniformSampler
from sam2fast.training.data.vos import VOSDataset

SIZE = (20, 30)
VIDEOS = ("bear", "goat", "v.1")


def write_video(root, name, T=6, seed=0, suffix=".jpg", digits=5):
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
def root(tmp_path):
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
    (root / "wanted.txt").write_text("v.1\nbear.mp4\n\n goat \n", encoding="utf-8-sig")
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


def image(name, mode, size=(8, 8)):
    return lambda root: Image.new(mode, size).save(root / name)


def cut(name):
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:200])


FRAME, MASK = "frames/bear/00002.jpg", "palette/bear/00000003.png"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (image(MASK, "P", (7, 9)), "00000003.png has 7x9 pixels.* 30x20"),
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


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"img_folder": None}, DataError, "img_folder is not set"),
        ({"gt_folder": "objects"}, DataError, "3 of 3 .*is_palette is True"),
        ({"is_palette": False}, DataError, "<video>/<object>/<frame>.png .*is_palette is False"),
        ({"file_list_txt": "no.txt"}, DataError, "file_list_txt no.txt"),
        ({"file_list_txt": "list.txt"}, DataError, "9 of the 10 .*: x0, x1, x2, x3, x4 and 4 more"),
        ({"img_folder": "void"}, DataError, "1 of 1 .* no frames .*: bear"),
        ({"sample_rate": 0}, ValueError, "sample_rate"),
    ],
)
def test_refusals(root, settings, error, message, monkeypatch):
    monkeypatch.chdir(root)
    Path("void/bear").mkdir(parents=True)
    Path("list.txt").write_text("bear\n" + "".join(f"x{i}\n" for i in range(9)))
    with pytest.raises(error, match=message):
        PNGRawDataset(**{"img_folder": "frames", "gt_folder": "palette", **settings})


@pytest.mark.parametrize(
    "name, value", [("multiplier", 0), ("always_target", False), ("target_segments_available", False)]
)
def test_refused_settings_of_clips(root, name, value):
    raw = PNGRawDataset(root / "frames", root / "palette")
    with pytest.raises(ValueError, match=name):
        VOSDataset([], True, raw, EvalSampler(), **{name: value})


def write_tiff(root):
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images/d.TIF", format="TIFF")


def put_jpeg(folder):
    Image.new("L", (WIDTH, HEIGHT), 255).save(folder / "9.jpg")


class TestMaskFolders:
    @pytest.fixture
    def root(self, tmp_path):
        write_mask_folders(tmp_path)
        return tmp_path

    def open(self, root, **settings):
        return MaskFolderRawDataset(root / "images", root / "masks", **settings)

    def test_images_of_labels_and_of_objects(self, root):
        (root / "masks/b.png").rename(root / "masks/b.PNG")
        palette, grey, single = clips_of(self.open(root))
        assert [clip.name for clip in (palette, grey, single)] == ["a", "b", "c.1"]
        assert palette.object_ids == grey.object_ids == (2, 7, 255) and single.object_ids == (1, 2)
        assert np.array_equal(palette.masks, grey.masks) and np.array_equal(palette.masks[:, :2], single.masks)
        assert [int(mask.sum()) for mask in palette.masks[0]] == [18 * 10, 7 * 17, 18 * 20]
        assert np.array_equal(grey.frames[0], np.asarray(Image.open(root / "images" / "b.png")))

    def test_ignored_labels_and_frames(self, root):
        """In images of labels alone: the object 1 of a folder stays."""
        clips = clips_of(self.open(root, ignored_labels=[255, 1], num_frames=3))
        assert [clip.object_ids for clip in clips] == [(2, 7), (2, 7), (1, 2)]
        for clip in clips:
            assert clip.masks.shape == (3, 2, HEIGHT, WIDTH) and clip.frame_indices == (0, 1, 2)
            assert (clip.masks == clip.masks[0]).all() and (clip.frames == clip.frames[0]).all()

    @pytest.mark.parametrize(
        ("name", "image", "message"),
        [
            ("a.png", Image.new("L", (WIDTH, HEIGHT + 1), 1), f"a.png has {WIDTH}x{HEIGHT + 1} pixels"),
            ("a.png", Image.new("L", (WIDTH, HEIGHT)), "no object is visible"),
            ("c.1/2.png", Image.new("L", (2, 3), 1), "2.png has 2x3 pixels"),
        ],
    )
    def test_bad_samples(self, root, name, image, message):
        image.save(root / "masks" / name)
        with pytest.raises(DatasetError, match=message):
            sample(self.open(root), 0 if name == "a.png" else 2)
        assert sample(self.open(root), 1).name == "b"

    @pytest.mark.parametrize("orientation", [3, 6])
    def test_images_are_upright(self, root, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = root / "images" / "b.png"
        lying = Image.open(path).copy()
        lying.save(path, exif=exif)
        turned = lying.transpose({3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270}[orientation])
        labels = Image.fromarray(np.pad(np.full((5, 7), 9, np.uint8), ((2, turned.height - 7), (3, turned.width - 10))))
        labels.save(root / "masks" / "b.png")
        clip = sample(self.open(root), 1)
        assert np.array_equal(clip.frames[0], np.asarray(turned)) and not np.array_equal(clip.frames[0], lying)
        assert np.array_equal(clip.masks[0, 0], np.asarray(labels) == 9)
        # Other data sets ignore EXIF orientation, as the official package does.
        assert np.array_equal(read_frame(path), np.asarray(lying)) and read_frame_size(path) == (HEIGHT, WIDTH)

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda root: [shutil.rmtree(root / "masks"), (root / "masks").mkdir()], "3 of 3 .*: a, b, c.1"),
            (lambda root: shutil.copy(root / "masks/b.png", root / "masks/b.PNG"), "b.PNG and b.png"),
            (lambda root: shutil.copytree(root / "masks/c.1", root / "masks/a"), "1 of 3 images have both .*: a"),
            (write_tiff, "not <name>.jpg or .png: d.TIF"),
            (lambda root: put_jpeg(root / "masks" / "c.1"), "not PNG: c.1"),
        ],
    )
    def test_refusals(self, root, spoil, message):
        spoil(root)
        with pytest.raises(DataError, match=message):
            self.open(root)

    def test_names_in_other_forms(self, root):
        """Of masks, and of images in lists."""
        accented = "\N{LATIN SMALL LETTER E WITH ACUTE}"
        (root / "images/b.png").rename(root / f"images/{unicodedata.normalize('NFD', accented)} B.PNG")
        (root / "masks/b.png").rename(root / f"masks/{accented} b.PNG")
        raw = self.open(root)
        assert len(raw) == 3 and sample(raw, raw.video_names.index(f"{unicodedata.normalize('NFD', accented)} B"))
        (root / "list.txt").write_text(f"C:\\images\\{accented} B.png\na\n", encoding="utf-8")
        assert len(self.open(root, file_list_txt=root / "list.txt")) == 2
        assert len(self.open(root, excluded_videos_list_txt=root / "list.txt")) == 1

    def test_images_that_differ_by_the_suffix(self, root):
        shutil.copy(root / "images/b.png", root / "images/b.jpg")
        with pytest.raises(DataError, match=r"b may be any of b.jpg, b.png in .*images; expected names that differ by"):
            self.open(root)
        for suffix in ("jpg", "png"):
            shutil.copy(root / "masks/b.png", root / f"masks/b.{suffix}.png")
        (root / "masks/b.png").unlink()
        raw = self.open(root)
        assert raw.video_names == ["a", "b.jpg", "b.png", "c.1"]
        assert sample(raw, 1).object_ids == sample(raw, 2).object_ids

    def test_a_list_may_leave_out_other_formats(self, root):
        write_tiff(root)
        (root / "list.txt").write_text("c.1\nb.png\n")
        assert self.open(root, file_list_txt=root / "list.txt").video_names == ["b", "c.1"]
