"""SA-1B's layout: the same images, objects and masks as the original's data set."""

import json
from pathlib import Path

import numpy as np
import pytest
from official_data import official_clips, vos_raw_dataset
from training_sets import HEIGHT, WIDTH, assert_same_clip, clips_of, write_image, write_sa1b

from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.training.data.json_datasets import SA1BRawDataset
from sam2fast.training.data.sampling import EvalSampler
from sam2fast.training.data.vos import VOSDataset

NAMES = ["sa_11", "sa_207", "sa_3"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_sa1b(tmp_path / "sa")
    return tmp_path / "sa"


def change(folder: Path, edit) -> None:
    """Edits the annotations of sa_11, which is the first image."""
    path = folder / "sa_11.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


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
def test_same_as_the_official_data_set(folder, settings, objects):
    theirs = official_clips(vos_raw_dataset.SA1BRawDataset(str(folder), str(folder), **settings))
    by_number = {datapoint.video_id: datapoint for datapoint in theirs}
    ours = clips_of(SA1BRawDataset(folder, folder, **settings))
    assert [clip.name for clip in ours] == NAMES and len(theirs) == 3
    for clip in ours:
        assert len(clip.object_ids) == objects and clip.masks.any(axis=(2, 3)).all()
        assert_same_clip(clip, by_number[int(clip.name.removeprefix("sa_"))])


def test_no_object_is_left(folder):
    video = SA1BRawDataset(folder, folder, mask_area_frac_thresh=0).get_video(0)
    assert video.visible_objects(0) == () and video.read_masks(0, (), (HEIGHT, WIDTH)).shape == (0, HEIGHT, WIDTH)


def test_lists(folder, tmp_path):
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


def other_size(folder):
    write_image(folder / "sa_11.jpg", np.random.default_rng(), (HEIGHT + 1, WIDTH))


def edit(function):
    return lambda folder: change(folder, function)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_size, f"sa_11.json, object 0: the mask has {WIDTH}x{HEIGHT} pixels, its frame {WIDTH}x{HEIGHT + 1}"),
        (edit(lambda content: content.pop("annotations")), 'expected the key "annotations"'),
        (edit(lambda content: content["annotations"].clear()), "no object is visible"),
    ],
)
def test_bad_images(folder, spoil, message):
    spoil(folder)
    dataset = VOSDataset([], True, SA1BRawDataset(folder, folder), EvalSampler())
    with pytest.raises(DatasetError, match=message):
        dataset.sample(0, np.random.default_rng(0))
    assert dataset.sample(1, np.random.default_rng(0)).name == "sa_207"
