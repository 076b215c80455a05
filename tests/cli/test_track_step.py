"""``sam2fast track --step``: only each N-th frame is tracked, with the numbers that it has in the video."""

import json

import moving_shapes
import numpy as np
import pytest
from commands import ends, ok
from file_contents import names
from PIL import Image
from track_runs import interrupt_after, lines_of, middle_of_square, text

FRAMES, STEP, FIRST = 21, 3, 7
TRACKED = [1, 4, 7, 10, 13, 16, 19]  # backwards, too
PROMPTS = [
    *("--point", text(FIRST, "one", *middle_of_square(FIRST))),
    *("--point", text(13, "one", *middle_of_square(13))),
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A video, and a video of its tracked frames alone."""
    folder = tmp_path_factory.mktemp("step")
    frames = moving_shapes.make_frames(FRAMES)
    moving_shapes.jpeg_folder(folder / "all", frames)
    moving_shapes.write_video(folder / "all.mp4", frames)
    (folder / "some").mkdir()
    for index, frame in enumerate(TRACKED):
        (folder / f"some/{index:05d}.jpg").write_bytes((folder / f"all/{frame:05d}.jpg").read_bytes())
    return folder


def objects_of(folder):
    return {frame: line["objects"] for frame, line in lines_of(folder).items()}


@pytest.mark.parametrize("mode", ["forwards", "--reverse", "--stream"])
def test_as_a_video_of_these_frames(track, clips, tmp_path, mode):
    more = [] if mode == "forwards" else [mode]
    ok(track(clips / "all", *PROMPTS, *more, "--step", STEP, "--format", "json", "--out", tmp_path / "all"))
    moved = [
        *("--point", text(TRACKED.index(FIRST), "one", *middle_of_square(FIRST))),
        *("--point", text(TRACKED.index(13), "one", *middle_of_square(13))),
    ]
    ok(track(clips / "some", *moved, *more, "--format", "json", "--out", tmp_path / "some"))
    found, expected = objects_of(tmp_path / "all"), objects_of(tmp_path / "some")
    assert list(found) == (TRACKED if mode == "--reverse" else TRACKED[2:])
    assert list(found.values()) == list(expected.values())


def test_files_have_the_numbers_of_the_video(track, clips, tmp_path):
    formats = "png,overlay,coco,mot,npz"
    out = tmp_path / "out"
    ok(track(clips / "all.mp4", *PROMPTS, "--step", STEP, "--format", formats, "--start", 2, "--out", out))
    shown = [4, *TRACKED[2:]]  # also before the first prompt
    assert names(out / "masks") == [f"{frame:05d}.png" for frame in shown]
    assert names(out / "npz") == [f"{frame:05d}.npz" for frame in shown]
    document = json.loads((out / "masks.json").read_text())
    assert document["videos"][0]["length"] == FRAMES
    (annotation,) = document["annotations"]
    assert {t for t, rle in enumerate(annotation["segmentations"]) if rle} <= set(TRACKED[2:])
    assert annotation["segmentations"][FIRST]
    assert [line["time"] for line in lines_of(out).values()] == pytest.approx([t / 25 for t in TRACKED[2:]], abs=1e-3)
    assert {int(line.split(",")[0]) for line in (out / "mot.txt").read_text().splitlines()} <= {t + 1 for t in TRACKED}
    drawn, times = moving_shapes.decoded(out / "overlay.mp4")
    assert times == pytest.approx([STEP * i / 25 for i in range(len(shown))], abs=1e-3)  # as fast as the video
    plain = moving_shapes.decoded(clips / "all.mp4")[0]
    changes = [np.abs(image.astype(int) - plain[frame]).mean() for image, frame in zip(drawn, shown, strict=True)]
    assert changes[0] < min(changes[1:])  # without masks


def test_overlay_of_a_folder_has_a_step_of_the_rate(track, clips, tmp_path):
    ok(track(clips / "all", *PROMPTS, "--step", STEP, "--format", "overlay", "--out", tmp_path))
    times = moving_shapes.decoded(tmp_path / "overlay.mp4")[1]
    assert times == pytest.approx([STEP * i / 25 for i in range(len(times))], abs=1e-3)


@pytest.mark.parametrize("more", [["--reverse"], ["--stream"]])
def test_continues_after_ctrl_c(track, clips, tmp_path, monkeypatch, more):
    arguments = [clips / "all.mp4", *PROMPTS, "--step", STEP, *more, "--format", "json", "--out"]
    ok(track(*arguments, tmp_path / "whole"))
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        ends(track(*arguments, tmp_path / "out"), 130, "stopped after 3 frames")
    ok(track(*arguments, tmp_path / "out"))
    assert objects_of(tmp_path / "out") == objects_of(tmp_path / "whole")
    ends(track(*arguments, tmp_path / "out", "--step", 2), 1, "step")  # of another run


def test_start_and_end_need_not_be_tracked_themselves(track, clips, tmp_path):
    bounds = ["--start", 2, "--end", 15]
    ok(track(clips / "all", *PROMPTS, *bounds, "--reverse", "--step", STEP, "--format", "json", "--out", tmp_path))
    assert list(lines_of(tmp_path)) == [4, 7, 10, 13]


def test_a_prompt_on_a_frame_between(track, clips, tmp_path):
    prompts = [*PROMPTS[:2], "--point", text(12, "one", 5, 5)]
    said = "--step 3 leaves this frame out, as the first prompt is on frame 7; give frame 10 or 13, or another --step"
    ends(track(clips / "all", *prompts, "--step", STEP, "--out", tmp_path / "out"), 2, said)
    assert not (tmp_path / "out").exists()


def test_boxes_of_each_third_tracked_frame(track, clips, tmp_path):
    """Boxes are read on the frames 0, 9 and 18."""
    for frame, expected in ((9, [9, 12, 15, 18]), (6, []), (10, [])):
        x0, y0, x1, y1 = moving_shapes.square_at(frame)
        boxes = tmp_path / f"{frame}.txt"
        boxes.write_text(f"{frame + 1},-1,{x0 + 1},{y0 + 1},{x1 - x0},{y1 - y0},0.9,-1,-1,-1\n")
        out = tmp_path / f"out{frame}"
        options = ["--boxes-from", boxes, "--every", 3, "--step", STEP, "--max-unseen", 99, "--format", "json"]
        result = track(clips / "all.mp4", *options, "--out", out)
        lines = lines_of(out)
        assert list(lines) == list(range(0, FRAMES, STEP)), result.stderr
        assert [t for t, line in lines.items() if line["objects"]] == expected


def test_png_of_the_first_prompt_shows_it(track, clips, tmp_path):
    ok(track(clips / "all", *PROMPTS, "--step", STEP, "--format", "png", "--out", tmp_path))
    x, y = map(int, middle_of_square(FIRST))
    assert np.asarray(Image.open(tmp_path / f"masks/{FIRST:05d}.png"))[y, x] == 1
