"""``sam2fast track --boxes-from``: files of boxes, and the command with them."""

import json

import moving_shapes
import numpy as np
import pytest
from commands import ends, invoke, ok
from moving_shapes import HEIGHT, WIDTH, square_at
from PIL import Image
from track_runs import FRAMES, box_of_disc, interrupt_after, lines_of

from sam2fast.cli.boxes import DetectionFile, read_detections
from sam2fast.cli.left_out import LeftOut
from sam2fast.cli.user_errors import USER_ERRORS, UserError
from sam2fast.results import read_masks
from sam2fast.video_io import read_frames

COUNT = 10  # frames with boxes; those of the disc come later


def boxes_on(frame: int) -> list[tuple[str, tuple[int, ...], float]]:
    """Class, corners and score of what a detector finds."""
    return [("square", square_at(frame), 0.9), *([("disc", box_of_disc(frame), 0.75)] if frame >= 4 else [])]


def xywh(box) -> list[int]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def write_coco_list(path, name_of=lambda frame: {"image_id": frame}):
    entries = [
        {**name_of(t), "category_id": 1 + (label == "disc"), "bbox": xywh(box), "score": score}
        for t in range(COUNT) for label, box, score in boxes_on(t)
    ]  # fmt: skip
    path.write_text(json.dumps(entries))


def write_coco(path, scale=1):
    size = {"height": scale * HEIGHT, "width": scale * WIDTH}
    images = [{"id": 100 + t, "file_name": f"clip/{t:05d}.jpg", **size} for t in range(COUNT)]
    annotations = [
        {"image_id": 100 + t, "category_id": 1 + (label == "disc"), "bbox": [scale * x for x in xywh(box)]}
        for t in range(COUNT) for label, box, _ in boxes_on(t)
    ]  # fmt: skip
    categories = [{"id": 1, "name": "square"}, {"id": 2, "name": "disc"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def write_coco_video(path):
    tracks = [[None] * COUNT, [None] * COUNT]
    for t in range(COUNT):
        for label, box, _ in boxes_on(t):
            tracks[label == "disc"][t] = xywh(box)
    annotations = [
        {"video_id": 1, "category_id": i, "bboxes": boxes, "score": 0.8} for i, boxes in enumerate(tracks, 1)
    ]
    video = {"id": 1, "height": HEIGHT, "width": WIDTH}
    categories = [{"id": 1, "name": "square"}, {"id": 2, "name": "disc"}]
    path.write_text(json.dumps({"videos": [video], "annotations": annotations, "categories": categories}))


def write_mot(path):
    """Frames and pixels count from 1."""
    lines = []
    for t in range(COUNT):
        for _, box, score in boxes_on(t):
            x, y, width, height = xywh(box)
            lines.append(f"{t + 1},-1,{x + 1},{y + 1},{width},{height},{score},-1,-1,-1")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")  # as Excel saves text


def write_yolo(path, name="{:05d}", first=0):
    path.mkdir()
    (path / "classes.txt").write_text("square\ndisc\n")
    for t in range(COUNT):
        lines = []
        for label, (x0, y0, x1, y1), score in boxes_on(t):
            numbers = (x0 + x1) / 2 / WIDTH, (y0 + y1) / 2 / HEIGHT, (x1 - x0) / WIDTH, (y1 - y0) / HEIGHT, score
            lines.append(" ".join(map(str, (int(label == "disc"), *numbers))))
        (path / f"{name.format(t + first)}.txt").write_text("\n".join(lines))


FORMATS = {
    "coco_list.json": write_coco_list,
    "coco.json": write_coco,
    "larger_coco.json": lambda path: write_coco(path, scale=3),
    "coco_video.json": write_coco_video,
    "det.txt": write_mot,
    "labels": write_yolo,
    "ultralytics": lambda path: write_yolo(path, "clip.2_{}", first=1),
}
CLASSES = {"coco_list.json": ["class1", "class2"], "det.txt": None}
SCORES = {"coco.json": [1.0, 1.0], "larger_coco.json": [1.0, 1.0], "coco_video.json": [0.8, 0.8]}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(tmp_path, name):
    FORMATS[name](tmp_path / name)
    found = DetectionFile(read_detections(tmp_path / name, []))
    for t in range(COUNT + 1):
        given, expected = found.on(t, HEIGHT, WIDTH), boxes_on(t) if t < COUNT else []
        assert np.allclose(np.reshape(given.boxes, (-1, 4)), np.reshape([box for _, box, _ in expected], (-1, 4)))
        if expected:
            labels, scores = CLASSES.get(name, ["square", "disc"]), SCORES.get(name, [0.9, 0.75])
            assert given.labels == (labels and labels[: len(expected)]) and given.scores == scores[: len(expected)]


def test_frames_of_a_folder(tmp_path):
    """Images are found by their names, tracks and lines of MOT by their places."""
    names = [f"img{t}" for t in range(COUNT)]
    write_yolo(tmp_path / "labels", "img{}")
    (tmp_path / "labels/other.txt").write_text("0 0.5 0.5 0.2 0.2")
    expected = {t: len(boxes_on(t)) for t in range(COUNT)}
    left_out = LeftOut()
    assert {t: len(found) for t, found in read_detections(tmp_path / "labels", names, left_out).items()} == expected
    assert str(left_out) == f"1 box (the video has no such frame; other in {tmp_path / 'labels'})"
    write_coco_list(tmp_path / "a.json", lambda t: {"image_id": 5, "file_name": f"x/img{t}.png"})
    assert {t: len(found) for t, found in read_detections(tmp_path / "a.json", names).items()} == expected
    numbers = [f"{t + 7:04d}" for t in range(COUNT)]
    write_coco_list(tmp_path / "b.json", lambda t: {"image_id": t + 7})
    assert {t: len(found) for t, found in read_detections(tmp_path / "b.json", numbers).items()} == expected
    write_mot(tmp_path / "det.txt")
    assert {t: len(found) for t, found in read_detections(tmp_path / "det.txt", numbers).items()} == expected
    with pytest.raises(
        UserError, match="no boxes for this video; left out: 16 boxes .the video has no such frame; first: 0 in"
    ):
        write_coco_list(tmp_path / "c.json")
        read_detections(tmp_path / "c.json", names)
    with pytest.raises(UserError, match="the name of its image has no frame number; .*cat.txt, line 1"):
        (tmp_path / "cats").mkdir()
        (tmp_path / "cats/cat.txt").write_text("0 0.5 0.5 0.2 0.2")
        read_detections(tmp_path / "cats", [])


VIDEO = '{"videos": [{"height": 4, "width": 4}], "annotations": [%s]}'


@pytest.mark.parametrize(("name", "content", "reason"), [
    ("a.txt", "\n0,-1,5,5,10,10,0.9", "line 2"),
    ("a.txt", "1.5,-1,5,5,10,10,0.9", "line 1"),
    ("a.txt", "1,-1,5,5,10", "line 1"),
    ("a.txt", "1,-1,5,5,0,10,1", "line 1"),
    ("a.txt", "0 0.5 0.5 0.2 0.2 0.9", "is not a line of MOT Challenge"),
    ("a.json", '[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": "high"}]', "score has not 1"),
    ("a.json", '{"videos": [], "annotations": []}', "COCO's format of one video"),
    ("a.json", VIDEO % '{"category_id": 1}', "'bboxes' is missing"),
    ("a.json", VIDEO % '{"category_id": 1, "bboxes": [[1]]}', "bbox has not 4"),
    ("a.json", "3", "is not COCO's format"),
    ("nowhere.txt", None, "nowhere.txt"),
])  # fmt: skip
def test_invalid_files(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(USER_ERRORS, match=reason):
        read_detections(tmp_path / name, [])


ALL = "json,overlay,png,coco,yolo"
OPTIONS = ["--every", 2, "--max-unseen", 4]


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    write_coco_video(path := tmp_path_factory.mktemp("boxes") / "boxes.json")
    return path


@pytest.fixture(scope="module")
def whole(track, video_file, boxes, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    ok(track(video_file, "--boxes-from", boxes, *OPTIONS, "--format", ALL, "--show-ids", "--out", out))
    return out


def test_equals_a_stream(whole, track, video_file):
    """Objects enter with their first box, and leave when they have had none for four frames."""
    expected = {}
    with track.predictor.open_stream() as stream, read_frames(video_file, track.predictor.image_size) as reader:
        for frame in reader:
            result = stream.step(frame)
            if frame.index % 2 == 0:
                found = boxes_on(frame.index) if frame.index < COUNT else []
                labels, boxes = [name for name, *_ in found], [box for _, box, _ in found]
                result = stream.add_detections(boxes, labels, max_unseen=4).result
            names = {1: "square_1", 2: "disc_2"}
            expected[frame.index] = [names[i] for i in result.obj_ids], result.masks[:, 0].numpy() > 0
    lines = lines_of(whole)
    assert [len(line["objects"]) for line in lines.values()] == [1] * 4 + [2] * 8 + [0] * (FRAMES - 12)
    for item in read_masks(whole / "masks.jsonl"):
        ids, masks = expected.pop(item.frame)
        assert item.ids == ids and np.array_equal(item.masks.reshape(masks.shape), masks)
    assert not expected


def test_files(whole):
    manifest = json.loads((whole / "track.json").read_text())
    assert manifest["objects"] == ["square_1", "disc_2"] and manifest["made_from"]["options"]["every"] == 2
    assert len(moving_shapes.decoded(whole / "overlay.mp4")[0]) == FRAMES
    labels = [set(np.unique(np.asarray(Image.open(whole / f"masks/{t:05d}.png")))) for t in (0, 6, FRAMES - 1)]
    assert labels == [{0, 1}, {0, 1, 2}, {0}]
    document = json.loads((whole / "masks.json").read_text())
    assert [one["object"] for one in document["annotations"]] == ["square_1", "disc_2"]
    assert document["videos"][0]["length"] == FRAMES and document["annotations"][1]["bboxes"][:4] == [None] * 4


def test_resumed(track, video_file, boxes, whole, tmp_path, monkeypatch):
    """After an interruption while both are there, and one when the first objects are gone."""
    command = [video_file, "--boxes-from", boxes, *OPTIONS, "--format", "json,png", "--out", tmp_path / "out"]
    for frame in (6, 16 - 6):
        with monkeypatch.context() as patch:
            interrupt_after(patch, frame)
            assert track(*command).exit_code == 130
    assert track(*command).exit_code == 0
    assert (tmp_path / "out/masks.jsonl").read_bytes() == (whole / "masks.jsonl").read_bytes()
    manifest = json.loads((tmp_path / "out/track.json").read_text())
    assert manifest["objects"] == ["square_1", "disc_2"] and manifest["complete"]
    ends(track(*command, "--start-score", 0.6), 1, "differs in --start-score (0.5, now 0.6)")


def test_later_start_and_scores(track, video_file, boxes, tmp_path):
    """Frames count from the first tracked one; the disc's score is too low."""
    write_mot(tmp_path / "det.txt")
    options = ["--start", 3, "--end", 12, "--every", 2, "--start-score", 0.8, "--format", "json"]
    ok(track(video_file, "--boxes-from", tmp_path / "det.txt", *options, "--out", tmp_path / "out"))
    lines = lines_of(tmp_path / "out")
    assert {frame: [one["id"] for one in line["objects"]] for frame, line in lines.items()} == {
        t: [1] for t in range(3, 13)
    }


def test_nothing_was_found(track, video_file, tmp_path):
    (tmp_path / "none.json").write_text("[]")
    options = ["--format", "json,png,overlay,coco", "--out", tmp_path / "out"]
    ends(track(video_file, "--boxes-from", tmp_path / "none.json", *options), 0, "no boxes in")
    assert [line["objects"] for line in lines_of(tmp_path / "out").values()] == [[]] * FRAMES
    assert not np.asarray(Image.open(tmp_path / "out/masks/00003.png")).any()


REFUSED = {
    "--every 2 --point 0,1,20,20": "--every needs --boxes-from",
    "--max-unseen 2 --point 0,1,20,20": "--max-unseen needs --boxes-from",
    "--start-score 2 --point 0,1,20,20": "--start-score needs --boxes-from",
    "--boxes-from BOXES --point 0,1,20,20": "leave out the prompts",
    "--boxes-from BOXES --reverse": "--boxes-from reads it once",
    "--boxes-from BOXES --every 0": "0 is not in the range",
    "--boxes-from nowhere.json": "nowhere.json",
    "VIDEO --boxes-from BOXES": "the boxes of one video, but there are 2 videos",
}


@pytest.mark.parametrize("options", REFUSED)
def test_refused(track, video_file, boxes, options, tmp_path):
    words = {"BOXES": boxes, "VIDEO": moving_shapes.write_video(tmp_path / "b.mp4", moving_shapes.make_frames(2))}
    result = track(video_file, *(words.get(word, word) for word in options.split()), "--out", tmp_path / "out")
    assert result.exit_code in (1, 2) and REFUSED[options] in result.stderr and not (tmp_path / "out").exists()


def test_live_videos_and_missing_scipy(boxes, video_file, tmp_path, monkeypatch):
    result = invoke("track", "rtsp://nowhere/1", "--stream", "--boxes-from", boxes, "--out", tmp_path / "out")
    assert result.exit_code == 2 and "boxes of numbered frames" in result.stderr
    monkeypatch.setattr("sam2fast.cli.track.find_spec", lambda name: None)
    result = invoke("track", video_file, "--boxes-from", boxes, "--out", tmp_path / "out")
    assert result.exit_code == 1 and "pip install 'sam2fast[detections]'" in result.stderr
