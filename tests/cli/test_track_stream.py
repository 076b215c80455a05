"""``sam2fast track --stream``: files, cameras and URLs, read once."""

import moving_shapes
import numpy as np
import pytest
from commands import ends, ok
from file_contents import files_of, names
from track_runs import FRAMES, ONE, box_of_disc, interrupt_after, lines_of, middle_of_square, text

from sam2fast.cli import track_passes, track_run
from sam2fast.cli.sources import InputSource
from sam2fast.cli.track_request import VideoSource
from sam2fast.results import read_masks
from sam2fast.video_io import read_frames


@pytest.mark.parametrize("count", [3, FRAMES])
def test_a_stream_gives_the_same_as_the_video(track, video_file, tmp_path, count):
    """With all prompts on one frame there is one pass. Includes videos shorter than the model's memory."""
    if count < FRAMES:
        video_file = moving_shapes.write_video(tmp_path / "video.mp4", moving_shapes.make_frames(count))
    options = [*ONE, "--box", text(0, "disc", *box_of_disc(0)), "--format", "json", "--out"]
    assert track(video_file, *options, tmp_path / "a").exit_code == 0
    assert track(video_file, *options, tmp_path / "b", "--stream").exit_code == 0
    assert (tmp_path / "a/masks.jsonl").read_bytes() == (tmp_path / "b/masks.jsonl").read_bytes()


GROWING = [*ONE, "--box", text(5, "disc", *box_of_disc(5)), "--point", text(9, 1, 60, 45, 0)]


@pytest.fixture(scope="module")
def streamed(track, video_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("streamed") / "out"
    assert track(video_file, *GROWING, "--stream", "--out", out).exit_code == 0
    return out


def test_prompts_are_added_at_their_frames(streamed, video_file, track):
    lines = lines_of(streamed)
    assert [len(line["objects"]) for line in lines.values()] == [1] * 5 + [2] * (FRAMES - 5)
    found = read_masks(streamed / "masks.jsonl")
    with track.predictor.open_stream() as stream, read_frames(video_file, track.predictor.image_size) as reader:
        for frame in reader:
            result = stream.step(frame)
            if frame.index == 0:
                result = stream.add_new_points_or_box(1, points=[middle_of_square(0)], labels=[1])
            elif frame.index == 5:
                result = stream.add_new_points_or_box("disc", box=box_of_disc(5))
            elif frame.index == 9:
                result = stream.add_new_points_or_box(1, points=[[60, 45]], labels=[0])
            item = next(found)
            assert item.ids == result.obj_ids
            np.testing.assert_array_equal(item.masks, result.masks[:, 0].numpy() > 0)
    assert len(moving_shapes.decoded(streamed / "overlay.mp4")[0]) == FRAMES


def test_resumed_streams_give_the_same_bytes(track, video_file, streamed, tmp_path, monkeypatch):
    interrupt_after(monkeypatch, 10)
    command = [video_file, *GROWING, "--stream", "--format", "json", "--out", tmp_path]
    assert track(*command).exit_code == 130
    assert track(*command).exit_code == 0
    assert (tmp_path / "masks.jsonl").read_bytes() == (streamed / "masks.jsonl").read_bytes()


@pytest.fixture
def camera(monkeypatch, video_file):
    """Camera 3 shows the video in a loop."""

    def read(source, image_size):
        if source != 3:
            return read_frames(source, image_size)
        return read_frames(iter(moving_shapes.make_frames(FRAMES) * 100), image_size)

    monkeypatch.setattr(track_passes, "read_frames", read)


def test_camera(track, camera, tmp_path):
    prompt = ["--point", text(4, 1, *middle_of_square(4))]
    options = ["--stream", "--max-frames", 6, "--start", 2, "--format", "overlay,png,coco", "--out", tmp_path / "out"]
    ok(track("camera:3", *prompt, *options))
    assert list(lines_of(tmp_path / "out")) == [4, 5, 6, 7]
    drawn, _ = moving_shapes.decoded(tmp_path / "out/overlay.mp4")
    plain = moving_shapes.make_frames(8)[2:]
    changes = [np.abs(a.astype(int) - b).mean() for a, b in zip(drawn, plain, strict=True)]
    assert max(changes[:2]) < min(changes[2:])
    assert names(tmp_path / "out") == ["masks", "masks.json", "masks.jsonl", "overlay.mp4", "track.json"]
    ends(track("camera:3", *prompt, *options), 1, "cannot be continued")


def test_interrupted_camera(track, camera, tmp_path, monkeypatch):
    monkeypatch.setattr(track_run, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(track_run.RunFolder, "checkpoint", None)  # there is nothing to resume from
    interrupt_after(monkeypatch, 5)
    ends(track("camera:3", *ONE, "--stream", "--out", tmp_path / "out"), 130, "stopped after 5 frames\n")
    assert list(lines_of(tmp_path / "out")) == list(range(5))
    assert len(moving_shapes.decoded(tmp_path / "out/overlay.mp4")[0]) == 5
    assert names(tmp_path / "out") == ["masks.jsonl", "overlay.mp4", "track.json"]


def test_url(track, video_file, tmp_path, monkeypatch):
    """Tests of video_io read from servers."""
    url, options = "http://me:secret@host/video.mp4", [*ONE, "--stream", "--max-frames", 4, "--out", tmp_path / "out"]
    with monkeypatch.context() as patch:
        patch.setattr(track_passes, "read_frames", lambda source, size: read_frames({url: video_file}[source], size))
        assert track(url, *options).exit_code == 0
    assert list(lines_of(tmp_path / "out")) == list(range(4)) and "secret" not in str(files_of(tmp_path / "out"))
    missing = track("http://127.0.0.1:9/none.mp4", *ONE, "--stream", "--out", tmp_path / "none")
    assert missing.exit_code == 1 and "none.mp4" in missing.stderr and not (tmp_path / "none").exists()


@pytest.mark.parametrize("options", [[], ["--stream"], ["--step", "2"]])
def test_an_end_beyond_a_video_of_unknown_length(track, tmp_path, options):
    """Matroska files do not state the number of frames. With ``--step 2``, the length stays unknown."""
    moving_shapes.write_video(tmp_path / "video.mkv", moving_shapes.make_frames(3))
    result = track(tmp_path / "video.mkv", *ONE, *options, "--end", 9, "--out", tmp_path / "out")
    note = "sam2fast: note: --end 9 is beyond the last frame, 2\n"
    assert result.exit_code == 0 and (note in result.stderr) == ("--step" not in options)


def test_prompt_after_the_end_of_a_stream_of_unknown_length(track, tmp_path, monkeypatch):
    monkeypatch.setattr(
        track_passes, "read_frames", lambda source, size: read_frames(iter(moving_shapes.make_frames(4)), size)
    )
    late = ["--point", "9,2,5,5"]
    result = track("camera:0", *ONE, *late, "--stream", "--format", "json", "--out", tmp_path)
    assert result.exit_code == 1 and "object 2 on frame 9 is beyond the end" in result.stderr
    assert list(lines_of(tmp_path)) == list(range(4))


def test_passwords_are_neither_written_nor_shown():
    source = VideoSource.of(InputSource("rtsp://me:secret@host:554/1?x=a@b"), is_streamed=True)
    assert source.to_open == "rtsp://me:secret@host:554/1?x=a@b"
    assert source.name == "rtsp://host:554/1?x=a@b" and source.made_from() == {"source": source.name}
