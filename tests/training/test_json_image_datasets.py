"""Images with masks in JSON files: SA-1B as the official data set reads it, COCO as pycocotools does."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from official_data import official_clips, vos_raw_dataset
from PIL import Image
from pycocotools.coco import COCO
from training_sets import HEIGHT, WIDTH, assert_same_clip, clips_of, sample, write_coco, write_image, write_sa1b

from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.training.data.clip import DataError
from sam2fast.training.data.json_datasets import CocoRawDataset, SA1BRawDataset


def change(file, edit):
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def rotate_files(folder, orientation, to_stored):
    """Gives images an EXIF orientation; with ``to_stored`` also pixels with which they are displayed as before."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    for path in folder.glob("*.jpg"):
        with Image.open(path) as file:
            image = file.transpose(undo) if to_stored else file.copy()
        image.save(path, exif=exif)


class TestSA1B:
    @pytest.fixture
    def folder(self, tmp_path):
        write_sa1b(tmp_path / "sa")
        return tmp_path / "sa"

    @pytest.mark.parametrize(
        ("settings", "objects"),
        [
            ({}, 4),
            ({"num_frames": 3}, 4),
            ({"mask_area_frac_thresh": 0.3}, 2),
            ({"uncertain_iou": 0.7}, 3),
            ({"uncertain_iou": 0.7, "mask_area_frac_thresh": 0.3}, 1),
        ],
    )
    def test_same_as_the_official_data_set(self, folder, settings, objects):
        theirs = official_clips(vos_raw_dataset.SA1BRawDataset(str(folder), str(folder), **settings))
        by_number = {datapoint.video_id: datapoint for datapoint in theirs}
        ours = clips_of(SA1BRawDataset(folder, folder, **settings))
        assert [clip.name for clip in ours] == ["sa_11", "sa_207", "sa_3"] and len(theirs) == 3
        for clip in ours:
            assert len(clip.object_ids) == objects and clip.masks.any(axis=(2, 3)).all()
            assert_same_clip(clip, by_number[int(clip.name.removeprefix("sa_"))])

    def test_no_object_is_left(self, folder):
        video = SA1BRawDataset(folder, folder, mask_area_frac_thresh=0).get_video(0)
        assert video.visible_objects(0) == () and video.read_masks(0, (), (HEIGHT, WIDTH)).shape == (0, HEIGHT, WIDTH)

    def test_lists(self, folder, tmp_path):
        (tmp_path / "wanted.txt").write_text("sa_207.jpg\nsa_11\nsa_3.json\n")
        (tmp_path / "unwanted.txt").write_text("sa_11.jpg\n")
        (tmp_path / "more.txt").write_text("sa_3\n")
        lists = tmp_path / "wanted.txt", tmp_path / "unwanted.txt"
        theirs = vos_raw_dataset.SA1BRawDataset(str(folder), str(folder), *map(str, lists))
        assert SA1BRawDataset(folder, folder, *lists).video_names == sorted(theirs.video_names) == ["sa_207", "sa_3"]
        both = [tmp_path / "unwanted.txt", tmp_path / "more.txt"]
        assert SA1BRawDataset(folder, folder, None, both).video_names == ["sa_207"]
        (tmp_path / "deep.txt").write_text("sa/sa_3.jpg\n")
        deep = SA1BRawDataset(tmp_path, tmp_path, tmp_path / "deep.txt")
        assert deep.video_names == ["sa/sa_3"]
        assert np.array_equal(clips_of(deep)[0].masks, clips_of(SA1BRawDataset(folder, folder))[2].masks)

    def test_images_of_other_formats(self, folder, tmp_path):
        for name in ("a.JPG", "b.png"):
            Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name)
        with pytest.raises(DataError, match="2 images in img_folder .*: a.JPG, b.png"):
            SA1BRawDataset(folder, folder)
        (tmp_path / "list.txt").write_text("sa_3")
        assert SA1BRawDataset(folder, folder, tmp_path / "list.txt").video_names == ["sa_3"]

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (None, f"sa_11.json, object 0: .*{WIDTH}x{HEIGHT} pixels, its frame {WIDTH}x{HEIGHT + 1}"),
            (lambda content: content.pop("annotations"), "annotations"),
            (lambda content: content["annotations"].clear(), "no object is visible"),
        ],
    )
    def test_refusals(self, folder, edit, message):
        if edit is None:
            write_image(folder / "sa_11.jpg", np.random.default_rng(), (HEIGHT + 1, WIDTH))
        else:
            change(folder / "sa_11.json", edit)
        raw = SA1BRawDataset(folder, folder)
        with pytest.raises(DatasetError, match=message):
            sample(raw)
        assert sample(raw, 1).name == "sa_207"

    @pytest.mark.parametrize("orientation", [6, 8])
    def test_photographs_are_displayed(self, folder, orientation):
        before = clips_of(SA1BRawDataset(folder, folder))
        rotate_files(folder, orientation, to_stored=False)
        stored = clips_of(SA1BRawDataset(folder, folder))
        rotate_files(folder, orientation, to_stored=True)
        shown = clips_of(SA1BRawDataset(folder, folder))
        for a, b, c in zip(before, stored, shown, strict=True):
            assert np.array_equal(np.rot90(a.masks[0], {6: -1, 8: 1}[orientation], axes=(1, 2)), b.masks[0])
            assert np.array_equal(a.masks, c.masks) and a.frames.shape == c.frames.shape


class TestCoco:
    @pytest.fixture
    def root(self, tmp_path):
        write_coco(tmp_path)
        return tmp_path

    def open(self, root, **settings):
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

    def test_ids_and_areas_of_home_made_files(self, root):
        """Ids that are equal, missing or text, and areas of 0, lose no object."""
        before = clips_of(self.open(root))
        for ids in ([0] * 9, [None] * 9, list("abcdefghi")):

            def edit(content, ids=ids):
                for i, annotation in zip(ids, content["annotations"], strict=False):
                    annotation |= {"id": i, "area": 0}

            change(root / "instances.json", edit)
            for clip, other in zip(before, clips_of(self.open(root)), strict=True):
                assert np.array_equal(clip.masks, other.masks) and len(set(other.object_ids)) == len(clip.object_ids)

    def test_empty_masks_are_no_objects(self, root):
        def edit(content):
            empty = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}
            content["annotations"][0] |= {"segmentation": empty, "area": 0}
            content["annotations"][1] |= {"segmentation": [[5, 5, 5.2, 5, 5, 5.2]], "area": 0}

        change(root / "instances.json", edit)
        assert [clip.object_ids for clip in clips_of(self.open(root))] == [(903, 904), (906,)]

    def test_categories_of_one_name(self, root):
        change(root / "instances.json", lambda content: content["categories"][0].update(name="dog"))
        found = [clip.object_ids for clip in clips_of(self.open(root, categories=["dog"]))]
        assert found == [(900, 901), (903, 904), (906,)]
        assert [clip.object_ids for clip in clips_of(self.open(root, categories=[1]))] == [(900,), (904,), (906,)]

    def test_images_of_one_id(self, root):
        change(root / "instances.json", lambda content: content["images"][0].update(id=70))
        with pytest.raises(DataError, match="1 ids belong to several images, such as 70"):
            self.open(root)

    def test_without_pycocotools(self, root, monkeypatch):
        monkeypatch.setitem(sys.modules, "pycocotools", None)
        with pytest.raises(ImportError, match=r"polygons need pycocotools: pip install 'sam2fast\[train\]'"):
            self.open(root)
        (root / "list.txt").write_text("000000000001\n")  # run lengths alone
        assert clips_of(self.open(root, file_list_txt=root / "list.txt"))[0].object_ids == (903, 904)

    @pytest.mark.parametrize(
        ("segmentation", "message"),
        [
            ([[1, 2, 3, 4]], "annotation 900: .*three corners"),
            ({"size": [2, 3], "counts": [6]}, f"annotation 900: .* 3x2 pixels, its frame {WIDTH}x{HEIGHT}"),
            ("rotated", f"displayed with {HEIGHT}x{WIDTH} pixels, .* for {WIDTH}x{HEIGHT}"),
            ("missing", "000000000000.jpg"),
        ],
    )
    def test_bad_samples(self, root, segmentation, message):
        if not isinstance(segmentation, str):
            edit = lambda content: content["annotations"][0].update(segmentation=segmentation)  # noqa: E731
            change(root / "instances.json", edit)
        raw, image = self.open(root), root / "images/000000000000.jpg"
        if segmentation == "rotated":
            write_image(image, np.random.default_rng(), (WIDTH, HEIGHT))
        elif segmentation == "missing":
            image.unlink()
        with pytest.raises(DatasetError, match=message):
            sample(raw)
        assert sample(raw, 1).object_ids == (903, 904)

    @pytest.mark.parametrize("orientation", [6, 8])
    @pytest.mark.parametrize("is_stated", [True, False])
    def test_photographs_are_displayed(self, root, orientation, is_stated):
        """With masks of the displayed and of the stored pixels, polygons and run lengths."""
        if not is_stated:
            change(root / "instances.json", lambda content: [image.pop("height") for image in content["images"]])
            change(root / "instances.json", lambda content: [image.pop("width") for image in content["images"]])
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

    @pytest.mark.parametrize("stated", ["images/{}", "C:\\images\\{}", "IMAGES/{}", "old/{}"])
    def test_names_that_are_no_paths(self, root, stated):
        plain = clips_of(self.open(root))

        def rename(content):
            for image in content["images"]:
                image["file_name"] = stated.format(image["file_name"])

        change(root / "instances.json", rename)
        for clip, before in zip(clips_of(self.open(root)), plain, strict=True):
            assert np.array_equal(clip.masks, before.masks) and np.array_equal(clip.frames, before.frames)

    def test_images_that_differ_by_the_suffix(self, root):
        (root / "images/000000000001.jpg").rename(root / "images/000000000003.png")
        old, new = "000000000001.jpg", "000000000003.png"

        def rename(content):
            next(image for image in content["images"] if image["file_name"] == old)["file_name"] = new

        change(root / "instances.json", rename)
        raw = self.open(root)
        assert raw.video_names == ["000000000000", "000000000003.jpg", "000000000003.png"]
        (root / "list.txt").write_text("000000000003.png\n000000000000\n")
        assert self.open(root, file_list_txt=root / "list.txt").video_names == ["000000000000", "000000000003.png"]

    @pytest.mark.parametrize(
        ("edit", "settings", "message"),
        [
            (None, {"annotation_file": None}, "annotation_file is not set"),
            (None, {"img_folder": "empty"}, "3 of 3 images .*: 000000000000.jpg"),
            (None, {"categories": ["cat", "cow"]}, "cow; there are cat, dog"),
            (None, {"file_list_txt": "list.txt"}, "1 of the 1 images .*: 000000000002"),
            (
                lambda content: content["images"][1].update(file_name="000000000003.jpg"),
                {},
                "several .*000000000003.jpg",
            ),
            (lambda content: content.update(annotations=[]), {}, "no images in .*instances.json"),
        ],
    )
    def test_refusals(self, root, edit, settings, message, monkeypatch):
        monkeypatch.chdir(root)
        Path("list.txt").write_text("000000000002\n")
        Path("empty").mkdir()
        if edit is not None:
            change(Path("instances.json"), edit)
        with pytest.raises(DataError, match=message):
            CocoRawDataset(**{"img_folder": "images", "annotation_file": "instances.json", **settings})
