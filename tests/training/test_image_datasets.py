"""COCO files, as pycocotools reads them, and images with folders of masks."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from training_sets import HEIGHT, WIDTH, clips_of, write_coco, write_image, write_mask_folders, write_sa1b

from sam2fast.datasets.dataset_files import DatasetError, read_frame, read_frame_size
from sam2fast.training.data.clip import DataError
from sam2fast.training.data.json_datasets import CocoRawDataset, SA1BRawDataset
from sam2fast.training.data.png_datasets import MaskFolderRawDataset
from sam2fast.training.data.sampling import EvalSampler
from sam2fast.training.data.vos import VOSDataset


def sample(raw, index=0, sampler=None):
    return VOSDataset([], True, raw, sampler or EvalSampler()).sample(index, np.random.default_rng(0))


class TestCoco:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        write_coco(tmp_path)
        return tmp_path

    def change(self, root: Path, edit) -> None:
        content = json.loads((root / "instances.json").read_text())
        edit(content)
        (root / "instances.json").write_text(json.dumps(content))

    def open(self, root: Path, **settings) -> CocoRawDataset:
        return CocoRawDataset(root / "images", root / "instances.json", **settings)

    @pytest.mark.parametrize("num_frames", [1, 2])
    def test_same_masks_as_pycocotools(self, root, num_frames, capsys):
        theirs = COCO(root / "instances.json")
        clips = clips_of(self.open(root, num_frames=num_frames))
        assert [clip.name for clip in clips] == [f"{n:012d}" for n in (0, 1, 3)]
        assert [clip.object_ids for clip in clips] == [(900, 901), (903, 904), (906,)]
        for clip in clips:
            assert clip.frames.shape == (num_frames, HEIGHT, WIDTH, 3)
            image = np.asarray(Image.open(root / "images" / f"{clip.name}.jpg"))
            expected = np.stack([theirs.annToMask(theirs.anns[i]) for i in clip.object_ids]).astype(bool)
            assert expected.any(axis=(1, 2)).all()
            for frame, masks in zip(clip.frames, clip.masks, strict=True):
                assert np.array_equal(frame, image) and np.array_equal(masks, expected)

    def test_chosen_objects(self, root):
        assert [c.object_ids for c in clips_of(self.open(root, categories=["dog"]))] == [(901,), (903,)]
        assert [c.object_ids for c in clips_of(self.open(root, categories=[1]))] == [(900,), (904,), (906,)]
        assert [c.object_ids for c in clips_of(self.open(root, min_area=3))] == [(900, 901), (903, 904)]
        (root / "list.txt").write_text("000000000003.jpg\n000000000000\n")
        (root / "unwanted.txt").write_text("000000000003\n")
        raw = self.open(root, file_list_txt=root / "list.txt", excluded_videos_list_txt=root / "unwanted.txt")
        assert raw.video_names == ["000000000000"]
        (root / "list.txt").write_text("000000000002\n")
        with pytest.raises(DataError, match="1 of the 1 images listed in .* have no object in .*: 000000000002"):
            self.open(root, file_list_txt=root / "list.txt")

    def test_without_pycocotools(self, root, monkeypatch):
        monkeypatch.setitem(sys.modules, "pycocotools", None)
        with pytest.raises(ImportError, match=r"polygons need pycocotools: pip install 'sam2fast\[train\]'"):
            self.open(root)
        (root / "list.txt").write_text("000000000001\n")  # run lengths alone
        assert clips_of(self.open(root, file_list_txt=root / "list.txt"))[0].object_ids == (903, 904)

    @pytest.mark.parametrize(
        ("segmentation", "message"),
        [
            ([[1, 2, 3, 4]], "at least three corners"),
            ({"size": [2, 3], "counts": [6]}, f"mask has 3x2 pixels, its frame {WIDTH}x{HEIGHT}"),
        ],
    )
    def test_bad_masks(self, root, segmentation, message):
        self.change(root, lambda content: content["annotations"][0].update(segmentation=segmentation))
        with pytest.raises(DatasetError, match=f"instances.json, annotation 900: .*{message}"):
            sample(self.open(root))
        assert sample(self.open(root), 1).object_ids == (903, 904)

    def test_bad_images(self, root):
        raw = self.open(root)
        write_image(root / "images" / f"{0:012d}.jpg", np.random.default_rng(), (WIDTH, HEIGHT))
        with pytest.raises(DatasetError, match=f"displayed with {HEIGHT}x{WIDTH} pixels, .* for {WIDTH}x{HEIGHT}; exp"):
            sample(raw)
        (root / "images" / f"{0:012d}.jpg").unlink()
        with pytest.raises(DatasetError, match="000000000000.jpg"):
            sample(raw)

    @pytest.mark.parametrize("orientation", [6, 8])
    @pytest.mark.parametrize("is_stated", [True, False])
    def test_photographs_are_displayed(self, root, orientation, is_stated):
        """With masks of the displayed and of the stored pixels, polygons and run lengths."""
        if not is_stated:
            self.change(root, lambda content: [image.pop("height") for image in content["images"]])
            self.change(root, lambda content: [image.pop("width") for image in content["images"]])
        plain = clips_of(self.open(root))
        rotate_files(root / "images", orientation, to_stored=False)
        if is_stated:  # without a size, polygons are those of the displayed image
            for clip, before in zip(clips_of(self.open(root)), plain, strict=True):
                times = {6: -1, 8: 1}[orientation]
                assert np.array_equal(clip.masks[0], np.rot90(before.masks[0], times, axes=(1, 2)))
                assert clip.frames.shape == (1, WIDTH, HEIGHT, 3)
        rotate_files(root / "images", orientation, to_stored=True)
        for clip, before in zip(clips_of(self.open(root)), plain, strict=True):
            assert np.array_equal(clip.masks, before.masks) and clip.frames.shape == before.frames.shape

    def test_mislaid(self, root):
        with pytest.raises(DataError, match="annotation_file is not set"):
            CocoRawDataset(root / "images", None)
        with pytest.raises(DataError, match=r"3 of 3 images are not in img_folder .*: 000000000000.jpg"):
            CocoRawDataset(root, root / "instances.json")
        with pytest.raises(DataError, match="no categories cow; there are cat, dog"):
            self.open(root, categories=["cat", "cow"])

        def rename(content):
            next(i for i in content["images"] if i["id"] == 71)["file_name"] = "000000000003.png"

        for edit, message in (
            (rename, "1 names are those of several images in .*: 000000000003. Expected"),
            (lambda content: content.update(annotations=[]), "no images in .*instances.json: expected images with obj"),
        ):
            self.change(root, edit)
            with pytest.raises(DataError, match=message):
                self.open(root)


def rotate_files(folder: Path, orientation: int, to_stored: bool) -> None:
    """Gives images an EXIF orientation; with ``to_stored`` also pixels with which they are displayed as before."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    for path in folder.iterdir():
        with Image.open(path) as file:
            image = file.transpose(undo) if to_stored else file.copy()
        image.save(path, exif=exif)


@pytest.mark.parametrize("orientation", [6, 8])
def test_photographs_in_sa1b_are_displayed(tmp_path, orientation):
    write_sa1b(tmp_path)
    before = clips_of(SA1BRawDataset(tmp_path, tmp_path))
    (tmp_path / "images").mkdir()
    for path in tmp_path.glob("*.jpg"):
        path.rename(tmp_path / "images" / path.name)
    rotate_files(tmp_path / "images", orientation, to_stored=False)
    stored = clips_of(SA1BRawDataset(tmp_path / "images", tmp_path))
    rotate_files(tmp_path / "images", orientation, to_stored=True)
    shown = clips_of(SA1BRawDataset(tmp_path / "images", tmp_path))
    for a, b, c in zip(before, stored, shown, strict=True):
        assert np.array_equal(np.rot90(a.masks[0], {6: -1, 8: 1}[orientation], axes=(1, 2)), b.masks[0])
        assert np.array_equal(a.masks, c.masks) and a.frames.shape == c.frames.shape


class TestMaskFolders:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        write_mask_folders(tmp_path)
        return tmp_path

    def open(self, root: Path, **settings) -> MaskFolderRawDataset:
        return MaskFolderRawDataset(root / "images", root / "masks", **settings)

    def test_images_of_labels_and_of_objects(self, root):
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
            ("a.png", Image.new("L", (WIDTH, HEIGHT + 1), 1), f"a.png has {WIDTH}x{HEIGHT + 1} pixels, its frame"),
            ("a.png", Image.new("L", (WIDTH, HEIGHT)), "no object is visible"),
            ("c.1/2.png", Image.new("L", (2, 3), 1), f"2.png has 2x3 pixels, its frame {WIDTH}x{HEIGHT}"),
        ],
    )
    def test_bad_masks(self, root, name, image, message):
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
        # Other data sets ignore EXIF orientation, as the original does.
        assert np.array_equal(read_frame(path), np.asarray(lying)) and read_frame_size(path) == (HEIGHT, WIDTH)

    def test_images_of_other_formats_are_not_passed_over(self, root):
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images" / "d.TIF", format="TIFF")
        with pytest.raises(DataError, match=r"1 images in img_folder .*images are neither JPEG nor PNG: d.TIF. Conv"):
            self.open(root)
        (root / "list.txt").write_text("c.1\nb.png\n")
        assert self.open(root, file_list_txt=root / "list.txt").video_names == ["b", "c.1"]

    def test_mislaid(self, root):
        (root / "none").mkdir()
        with pytest.raises(DataError, match="3 of 3 images have no masks in gt_folder .*none: a, b, c.1"):
            MaskFolderRawDataset(root / "images", root / "none")
        (root / "masks" / "b.png").rename(root / "masks" / "b.PNG")
        assert sample(self.open(root), 1).object_ids == (2, 7, 255)
        shutil.copy(root / "masks" / "b.PNG", root / "masks" / "b.png")
        with pytest.raises(DataError, match="b.PNG and b.png have the same name"):
            self.open(root)
        (root / "masks" / "b.PNG").unlink()
        shutil.copytree(root / "masks" / "c.1", root / "masks" / "a")
        with pytest.raises(DataError, match="1 of 3 images have both .*: a. Leave one."):
            self.open(root)
