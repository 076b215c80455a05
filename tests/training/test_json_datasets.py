"""SA-V's layout: the same videos, frames, objects and masks as the official data set, also from video files."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest
from official_data import official_clips, vos_raw_dataset
from training_sets import (
    HEIGHT,
    WIDTH,
    assert_same_clip,
    clips_of,
    masklet,
    sample,
    write_frames,
    write_masklets,
    write_video,
)

from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.training.data.clip import DataError
from sam2fast.training.data.json_datasets import JSONRawDataset
from sam2fast.training.data.sampling import RandomUniformSampler
from sam2fast.training.data.vos import VOSDataset
from sam2fast.video_io import read_frames

CONTENTS = {
    "sav": (lambda m: {"video_id": "x", "masklet": m}, {}),
    "masks": (lambda m: {"masks": m}, {}),
    "list": (lambda m: m, {}),
    "fps": (lambda m: {"masklet": m, "fps": 6}, {"ann_every": 1, "frames_fps": 24}),
    "fps_list": (lambda m: {"masklet": m, "fps": [15.0]}, {"ann_every": 1, "frames_fps": 60}),
}


def write_set(root, content=CONTENTS["sav"][0]):
    """Three videos of 18 frames with masks for every fourth; in one, the third of them lacks an object."""
    for seed, name in enumerate(("cat", "dog", "eel")):
        write_frames(root / "frames" / name, range(18), seed)
        masks = masklet(seed)
        if name == "dog":
            masks[2][1] = None
        write_masklets(root / "json", name, content(masks))


@pytest.fixture
def root(tmp_path):
    write_set(tmp_path)
    return tmp_path


def videos(root):
    """Two videos, one of them one folder deeper."""
    write_video(root / "videos" / "cat.mp4")
    write_video(root / "videos" / "sav_001" / "dog.mp4")
    write_masklets(root / "videos", "cat", CONTENTS["sav"][0](masklet(0)))
    write_masklets(root / "videos" / "sav_001", "dog", CONTENTS["sav"][0](masklet(1)))
    return root / "videos"


@pytest.mark.parametrize("kind", CONTENTS)
def test_same_as_the_official_data_set(tmp_path, kind):
    content, settings = CONTENTS[kind]
    write_set(tmp_path, content)
    settings = {"ann_every": 4, **settings}
    folders = tmp_path / "frames", tmp_path / "json"
    theirs = official_clips(vos_raw_dataset.JSONRawDataset(*map(str, folders), **settings))
    ours = clips_of(JSONRawDataset(*folders, **settings))
    assert [clip.name for clip in ours] == ["cat", "dog", "eel"] and len(theirs) == 3
    for clip, datapoint in zip(ours, theirs, strict=True):
        assert clip.object_ids == (0, 1, 2) and clip.masks.any(axis=(2, 3)).all()
        assert_same_clip(clip, datapoint)
    assert ours[0].frame_indices == (0, 4, 8, 12, 16) and ours[1].frame_indices == (0, 4, 12, 16)


@pytest.mark.parametrize(
    "settings", [{"sample_rate": 3}, {"sample_rate": 4, "rm_unannotated": False}, {"ann_every": 3}]
)
def test_same_frames_as_the_official_data_set(root, settings):
    (root / "unwanted.txt").write_text("dog\n")
    (root / "list.txt").write_text("eel.mp4\ndog\ncat")
    settings = {"ann_every": 4, **settings}
    arguments = [root / name for name in ("frames", "json", "list.txt", "unwanted.txt")]
    theirs = vos_raw_dataset.JSONRawDataset(*map(str, arguments), **settings)
    ours = JSONRawDataset(*arguments, **settings)
    assert ours.video_names == theirs.video_names == ["cat", "eel"]
    for index, clip in enumerate(clips_of(ours)):
        assert clip.frame_indices == tuple(frame.frame_idx for frame in theirs.get_video(index)[0].frames)
    assert_same_clip(clips_of(ours)[1], official_clips(theirs)[1])
    assert JSONRawDataset(*arguments[:2], None, [arguments[3]], **settings).video_names == ["cat", "eel"]


def test_videos_have_their_own_frames(root):
    folder = videos(root)
    raw = JSONRawDataset(folder, folder, ann_every=4)
    assert raw.video_names == ["cat", "sav_001/dog"]
    assert raw.get_video(0).read_masks(0, (), (24, 32)).shape == (0, 24, 32)  # a frame that shows no object
    with read_frames(folder / "cat.mp4", 32) as reader:
        images = [frame.rgb for frame in reader]
    assert len(images) == 18
    for clip, seed in zip(clips_of(raw), (0, 1), strict=True):
        assert clip.frame_indices == (0, 4, 8, 12, 16)
        assert np.array_equal(clip.frames, np.stack(images)[::4])
        write_masklets(root / "again", "cat", CONTENTS["sav"][0](masklet(seed)))
        same = clips_of(JSONRawDataset(root / "frames", root / "again", _list(root, "cat"), ann_every=4))[0]
        assert np.array_equal(clip.masks, same.masks) and clip.object_ids == same.object_ids
    everything = JSONRawDataset(folder, folder, ann_every=4, rm_unannotated=False).get_video(0)
    assert everything.frame_indices == tuple(range(18))
    for number, frame in zip((17, 3, 3, 9), everything.read_frames((17, 3, 3, 9)), strict=True):
        assert np.array_equal(frame, images[number])


def _list(root, *names):
    (root / "some.txt").write_text("\n".join(names))
    return root / "some.txt"


def test_clips_of_videos_backwards_and_closed(root):
    folder = videos(root)
    raw = JSONRawDataset(folder, folder, ann_every=4)
    whole = clips_of(raw)[0]
    dataset = VOSDataset([], True, raw, RandomUniformSampler(3, 2, reverse_time_prob=0.5))
    dataset.sample(0, np.random.default_rng())
    gc.freeze()  # the collection passes over what is older
    before = len(os.listdir("/dev/fd"))
    directions = set()
    for seed in range(4):
        clip = dataset.sample(0, np.random.default_rng(seed))
        positions = [whole.frame_indices.index(i) for i in clip.frame_indices]
        assert np.array_equal(clip.frames, whole.frames[positions])
        assert np.array_equal(clip.masks, whole.masks[positions][:, list(clip.object_ids)])
        directions.add(clip.frame_indices[0] < clip.frame_indices[-1])
    assert directions == {True, False}
    gc.collect()
    assert len(os.listdir("/dev/fd")) <= before


def test_annotations_past_the_videos_end_are_left_out(root):
    folder = root / "short"
    write_video(folder / "cat.mp4", frames=10)
    write_masklets(folder, "cat", masklet(0))
    (clip,) = clips_of(JSONRawDataset(folder, folder, ann_every=4))
    assert clip.frame_indices == (0, 4, 8)


def test_automatic_masklets(root):
    write_masklets(root / "json", "eel", masklet(9, objects=5), kind="auto")
    raw = JSONRawDataset(root / "frames", root / "json", _list(root, "eel"), ann_every=4, annotator="auto")
    assert clips_of(raw)[0].object_ids == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cat_manual.json is not JSON"),
        ('{"masklet": [], "fps": 7}', "fps.* 24, got 7"),
        (f'[[{{"size": [{HEIGHT}, {WIDTH}], "counts": "?"}}]]', r"masklet\[0\]"),
        ('[[{"size": [2, 3], "counts": [0, 6]}]]', "mask has 3x2 pixels, its frame 46x34"),
    ],
)
def test_bad_files(root, content, message):
    (root / "json" / "cat_manual.json").write_text(content)
    raw = JSONRawDataset(root / "frames", root / "json", ann_every=4)
    with pytest.raises(DatasetError, match=message):
        sample(raw)
    assert sample(raw, 1).name == "dog"


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"no video"), lambda path: path.unlink()])
def test_bad_videos(root, spoil):
    folder = videos(root)
    raw = JSONRawDataset(folder, folder, ann_every=4)
    video = raw.get_video(0)
    spoil(folder / "cat.mp4")
    with pytest.raises(DatasetError, match="cat.mp4"):
        video.read_frames([0])
    with pytest.raises(DatasetError, match="cat"):
        raw.get_video(0)
    assert len(raw.get_video(1)) == 5


@pytest.mark.parametrize(
    ("index", "rate", "message"),
    [(0, 1, "none for frame 1: leave rm_unannotated on"), (1, 4, r"masklet\[2\]\[1\]: .* not annotated in frame 8")],
)
def test_frames_without_masks(root, index, rate, message):
    raw = JSONRawDataset(root / "frames", root / "json", ann_every=4, sample_rate=rate, rm_unannotated=False)
    with pytest.raises(DatasetError, match=message):
        sample(raw, index)


@pytest.mark.parametrize("name", ["eel.MP4", "sav_001/eel.mov"])
def test_videos_of_other_formats(root, name):
    folder = videos(root)
    (folder / name).write_bytes(b"")
    with pytest.raises(DataError, match=f"1 videos in img_folder .* are not .*: {Path(name).name}"):
        JSONRawDataset(folder, folder)
    (root / "list.txt").write_text("cat\n")
    assert JSONRawDataset(folder, folder, root / "list.txt").video_names == ["cat"]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"img_folder": "empty"}, DataError, "no videos in empty: expected <video>.mp4"),
        ({"gt_folder": "empty"}, DataError, "3 of 3 .*_manual.json .*cat, dog, eel"),
        ({"annotator": "auto"}, DataError, "3 of 3 .*_auto.json .*cat, dog, eel"),
        ({"annotator": "robot"}, ValueError, "annotator"),
        ({"ann_every": 0}, ValueError, "ann_every"),
    ],
)
def test_refusals(root, settings, error, message, monkeypatch):
    monkeypatch.chdir(root)
    Path("empty").mkdir()
    with pytest.raises(error, match=message):
        JSONRawDataset(**{"img_folder": "frames", "gt_folder": "json", **settings})
