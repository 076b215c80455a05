"""SA-V's annotation files, and the counterpart of the official class."""

import inspect
import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from annotated_videos import HEIGHT, SAV_FACTS, WIDTH, small_video, write_sav
from numbered_videos import number_in

from sam2fast.datasets import SAVDataset, read_masklets
from sam2fast.datasets.conversion import ConvertJob, convert_video
from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.datasets.layout import MASKLETS, Settings
from sam2fast.datasets.layout_registry import open_layout
from sam2fast.datasets.sav import decode_video, show_anns
from sam2fast.io.rle import decode_rle
from sam2fast.results import draw_masks


def test_masklets(tmp_path):
    content = write_sav(tmp_path, "clip")
    masklets = read_masklets(tmp_path / "clip_manual.json")
    assert len(masklets) == 5 and masklets.ids == (0, 1, 2) and masklets.size == (HEIGHT, WIDTH)
    assert masklets.video_id == "clip" and masklets.rate == 4 and masklets.frame_indices == (0, 4, 8, 12, 16)
    assert masklets.facts.items() >= SAV_FACTS.items() and "masklet" not in masklets.facts and masklets.ours == {}
    for position, rles in enumerate(content["masklet"]):
        assert masklets.rles(position) == rles
        np.testing.assert_array_equal(masklets.masks(position), [decode_rle(rle) for rle in rles])


def test_masks_that_are_null_are_not_annotated(tmp_path):
    content = write_sav(tmp_path, "clip")
    content["masklet"][1][0] = None
    (tmp_path / "clip_manual.json").write_text(json.dumps(content | {"fps": 12}))
    masklets = read_masklets(tmp_path / "clip_manual.json")
    assert masklets.rles(1)[0] is None and not masklets.masks(1)[0].any() and masklets.masks(1)[1:].any()
    assert masklets.rate == 2  # as the loader for training computes it


def broken(**changes):
    return lambda content: content.update(changes)


@pytest.mark.parametrize(
    "change, message",
    [
        (broken(masklet=None), 'the key "masklet"'),
        (lambda content: content["masklet"][3].pop(), r"masklet\[3\] .* 3 objects, got 2"),
        (
            lambda content: content["masklet"][2][1].update(size=[4, 5]),
            rf"masklet\[2\]\[1\]\.size .*\[{HEIGHT}, {WIDTH}\]",
        ),
        (broken(fps=0), "fps.* 24, got 0"),
        (broken(sam2fast={"rate": 0}), "rate .* got 0"),
    ],
)
def test_broken_files_are_named_with_the_key(change, message, tmp_path):
    content = write_sav(tmp_path, "clip")
    change(content)
    path = tmp_path / "clip_manual.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=f"{re.escape(str(path))}.*{message}"):
        read_masklets(path)


def test_damaged_masks_are_found_when_they_are_read(tmp_path):
    content = write_sav(tmp_path, "clip")
    content["masklet"][1][2]["counts"] = "0000"
    (tmp_path / "clip_manual.json").write_text(json.dumps(content))
    masklets = read_masklets(tmp_path / "clip_manual.json")
    assert masklets.masks(0).shape == (3, HEIGHT, WIDTH)
    with pytest.raises(DatasetError, match=r"clip_manual\.json: masklet\[1\]\[2\]: the run lengths do not add up"):
        masklets.masks(1)
    place = open_layout(tmp_path, "sav", Settings())
    with pytest.raises(DatasetError, match="clip, frame 00004, object 3: the run lengths"):
        convert_video(None, ConvertJob(place, open_layout(tmp_path / "b", "coco-jsonl", Settings()), "clip"))


@pytest.fixture
def dataset(tmp_path) -> SAVDataset:
    (tmp_path / "clip.mp4").write_bytes(small_video())
    write_sav(tmp_path, "clip", frames=5)
    write_sav(tmp_path, "clip", 1, "auto", objects=2, frames=5)
    return SAVDataset(tmp_path)


def test_frames_are_those_that_are_annotated(dataset, tmp_path):
    frames = dataset.read_frames(str(tmp_path / "clip.mp4"))
    assert [number_in(torch.from_numpy(frame)) for frame in frames] == [0, 4, 8, 12, 16]
    assert all(frame.dtype == np.uint8 and frame.shape == (HEIGHT, WIDTH, 3) for frame in frames)
    bar = frames[0][HEIGHT * 7 // 8, 3]
    assert bar[2] > bar[0] + 100, "red, green and blue, in this order"
    assert len(SAVDataset(tmp_path, 5).read_frames(tmp_path / "clip.mp4")) == 4
    assert [number_in(torch.from_numpy(frame)) for frame in decode_video(tmp_path / "clip.mp4")] == list(range(18))


def test_frames_and_annotations(dataset, tmp_path):
    frames, manual, auto = dataset.get_frames_and_annotations("clip")
    assert len(frames) == 5
    assert manual == json.loads((tmp_path / "clip_manual.json").read_text())
    assert auto == json.loads((tmp_path / "clip_auto.json").read_text())
    (tmp_path / "clip_auto.json").unlink()
    assert dataset.get_frames_and_annotations("clip")[1:] == (manual, None)
    assert dataset.get_frames_and_annotations("other") == (None, None, None)
    assert dataset.read_frames(tmp_path / "other.mp4") is None and decode_video("other.mp4") == []


def test_signatures_of_the_original():
    """Those of the class are in the snapshot of the public API."""
    assert str(inspect.signature(decode_video)).startswith("(video_path: ")
    assert list(inspect.signature(show_anns).parameters) == ["masks", "colors", "borders"]


def sav_frames(count: int = 5) -> list[np.ndarray]:
    return [np.full((HEIGHT, WIDTH, 3), 10 * t, dtype=np.uint8) for t in range(count)]


@pytest.mark.parametrize("show_auto, show_manual", [(True, True), (False, True), (True, False), (False, False)])
def test_annotations_drawn_without_a_display(show_auto, show_manual, tmp_path):
    manual, auto = write_sav(tmp_path, "clip"), write_sav(tmp_path, "clip", 1, "auto", objects=2)
    sav = SAVDataset(tmp_path)
    image = sav.draw_annotation(sav_frames(), auto, manual, 3, show_auto, show_manual)
    rles, colours = [], []
    for wanted, annotations, palette in (
        (show_manual, manual, sav.manual_mask_colors),
        (show_auto, auto, sav.auto_mask_colors),
    ):
        if wanted:
            rles += annotations["masklet"][3]
            colours += [
                tuple(np.round(colour * 255).astype(int)) for colour in palette[: len(annotations["masklet"][3])]
            ]
    masks = [decode_rle(rle) for rle in rles]
    order = sorted(range(len(masks)), key=lambda number: -masks[number].sum())
    stacked = np.array([masks[i] for i in order]).reshape(-1, HEIGHT, WIDTH)
    expected = draw_masks(sav_frames()[3], stacked, colours=[colours[i] for i in order])
    np.testing.assert_array_equal(image, expected)
    assert (image != sav_frames()[3]).any() == bool(rles)


@pytest.fixture
def pyplot(monkeypatch):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    monkeypatch.setattr(pyplot, "show", lambda: None)
    pyplot.close("all")  # figures of other tests
    yield pyplot
    pyplot.close("all")


def test_annotations_shown_by_matplotlib(tmp_path, pyplot):
    manual = write_sav(tmp_path, "clip")
    sav = SAVDataset(tmp_path)
    sav.visualize_annotation(sav_frames(), None, manual, 2)
    frame, canvas = pyplot.gca().images
    np.testing.assert_array_equal(frame.get_array(), sav_frames()[2])
    canvas = np.asarray(canvas.get_array())
    masks = [decode_rle(rle) for rle in manual["masklet"][2]]
    assert (canvas[..., 3] == 0)[~np.any(masks, axis=0)].all(), "a line one pixel wide is inside"
    order = sorted(range(3), key=lambda number: -masks[number].sum())
    covered = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for number in reversed(order):
        inside = masks[number] & ~covered & (canvas[..., 3] != 1)
        np.testing.assert_allclose(canvas[inside], [(*sav.manual_mask_colors[number], 0.55)] * inside.sum())
        covered |= masks[number]
    assert (canvas[covered][:, 3] > 0).all() and not pyplot.gca().axison


def test_borders(pyplot):
    mask = np.zeros((400, 400), dtype=bool)
    mask[100:200, 100:200] = True
    mask[140:160, 140:160] = False
    pyplot.figure()
    show_anns([mask], [(1, 0, 0)])
    show_anns([mask], [(1, 0, 0)], borders=False)
    show_anns([], [])
    with_lines, without = (np.asarray(image.get_array()) for image in pyplot.gca().images)
    dark = (with_lines == (0.05, 0.05, 0.05, 1)).all(-1)
    # A line is 4 pixels wide in the official class, and 5 here, since its width is odd.
    assert dark[150, 98:103].all() and not dark[150, [97, 103]].any()
    assert dark[150, 137:142].all() and not dark[150, 136] and not dark[150, 142:158].any()
    assert not (without[..., 3] == 1).any()


@pytest.mark.parametrize("position", [-1, 5])
def test_frames_that_are_not_there(position, tmp_path):
    with pytest.raises(IndexError, match="annotated_frame_id must be from 0 to 4"):
        SAVDataset(tmp_path).visualize_annotation(sav_frames(), None, None, position)


@pytest.fixture
def real(data_folder) -> Path:
    folder = data_folder / "sav_example"
    if not folder.is_dir():
        pytest.skip("there is no sav_example/ in the folder")
    return folder


@pytest.mark.weights
@pytest.mark.parametrize("kind", MASKLETS)
@pytest.mark.parametrize("to", ["sav-png", "coco-jsonl", "sav"])
def test_real_files_there_and_back(kind, to, real, tmp_path):
    places = [(real, "sav"), (tmp_path / "b", to), (tmp_path, "sav")]
    locations = [open_layout(root, layout, Settings(kind)) for root, layout in places]
    for source, target in pairwise(locations):
        convert_video(None, ConvertJob(source, target, "sav_000001"))
    file = f"sav_000001_{kind}.json"
    assert json.loads((tmp_path / file).read_text()) == json.loads((real / file).read_text())
