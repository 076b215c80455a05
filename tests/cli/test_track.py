"""``sam2fast track``: its files match the predictor's results."""

import json

import av
import moving_shapes
import numpy as np
import pytest
from commands import ends, ok
from file_contents import names
from PIL import Image
from pycocotools import mask as coco_masks
from tones import write_with_sound
from track_runs import FIRST, FRAMES, LATER, ONE, PROMPTS, QuickTrack, box_of_disc, lines_of, middle_of_square, text

from sam2fast.cli import track_overlay
from sam2fast.cli.track_overlay import FrameDrawing
from sam2fast.io.label_maps import palette
from sam2fast.results import read_masks
from sam2fast.video_io import video_writer


@pytest.mark.parametrize("strategy", ["sam2", "samurai", "dam4sam"])
def test_masks_match_the_predictor(strategy, whole, video_file, track, tmp_path):
    """The reference keeps the whole history; the command only keeps the frames that memory attention can use."""
    out = whole if strategy == "sam2" else tmp_path / "out"
    if strategy == "dam4sam":  # of more pixels, so that it finds a distractor, whose frame it remembers for long
        track = QuickTrack(tmp_path, 128)
    if strategy != "sam2":
        options = ["--reverse", "--strategy", strategy, "--format", "json", "--out", out, "--overwrite"]
        assert track(video_file, *PROMPTS, *options).exit_code == 0
    state = track.predictor.init_state(str(video_file), strategy=strategy)
    track.predictor.add_new_points_or_box(state, FIRST, 1, points=[middle_of_square(FIRST)], labels=[1])
    track.predictor.add_new_points_or_box(state, FIRST, "disc", box=box_of_disc(FIRST))
    track.predictor.add_new_points_or_box(state, LATER, 1, points=[middle_of_square(14)], labels=[1])
    expected = {}
    for reverse in (False, True):
        for frame, ids, masks, scores in track.predictor.propagate_in_video(
            state, reverse=reverse, return_scores=True, progress=False
        ):
            assert ids == [1, "disc"]
            expected.setdefault(frame, ((masks[:, 0] > 0).numpy(), scores.iou.tolist()))
    found = list(read_masks(out / "masks.jsonl"))
    assert [item.frame for item in found] == list(range(FRAMES)) == sorted(expected)
    for item in found:
        masks, iou = expected[item.frame]
        assert item.ids == [1, "disc"] and item.scores.tolist() == pytest.approx(iou, abs=1e-6)
        np.testing.assert_array_equal(item.masks, masks, f"frame {item.frame}")
    assert sum(item.masks.any(axis=(1, 2)).all() for item in found) > FRAMES / 2


def test_every_format_holds_the_same_masks(whole):
    assert names(whole) == ["masks", "masks.json", "masks.jsonl", "overlay.mp4", "track.json"]
    assert names(whole / "masks") == [f"{t:05d}.png" for t in range(FRAMES)]
    document = json.loads((whole / "masks.json").read_text())
    assert [annotation["object"] for annotation in document["annotations"]] == [1, "disc"]
    assert document["videos"][0]["length"] == FRAMES
    for t, line in lines_of(whole).items():
        assert line["time"] == pytest.approx(t / 25, abs=1e-3)
        labels = Image.open(whole / f"masks/{t:05d}.png")
        assert labels.mode == "P" and labels.getpalette() == palette().ravel().tolist()
        for i, entry in enumerate(line["objects"]):
            rle, area = entry["rle"], entry["area"]
            assert area == coco_masks.area(rle)
            assert entry["box"] == (coco_masks.toBbox(rle).tolist() if area else None)
            assert document["annotations"][i]["segmentations"][t] == (rle if area else None)
            np.testing.assert_array_equal(np.asarray(labels) == i + 1, coco_masks.decode(entry.get("visible", rle)) > 0)


def test_overlay_shows_the_masks_on_the_video(whole, video_file):
    (frames, times), (plain, _) = moving_shapes.decoded(whole / "overlay.mp4"), moving_shapes.decoded(video_file)
    assert len(frames) == FRAMES and times == pytest.approx([t / 25 for t in range(FRAMES)], abs=1e-3)
    for found, drawn, ground in zip(read_masks(whole / "masks.jsonl"), frames, plain, strict=True):
        shown = found.masks.any(axis=0)
        change = np.abs(drawn.astype(int) - ground).mean(axis=2)
        assert change[shown].mean() > 20 and change[~shown].mean() < 6


def test_manifest(whole, video_file):
    manifest = json.loads((whole / "track.json").read_text())
    assert manifest["complete"] and manifest["done"] == FRAMES and manifest["state"] is None
    assert manifest["objects"] == [1, "disc"] and manifest["source"] == str(video_file) and manifest["frames"] == FRAMES
    assert manifest["size"] == {"width": 64, "height": 48}
    assert [prompt["frame"] for prompt in manifest["made_from"]["prompts"]] == [FIRST, FIRST, LATER]
    assert manifest["made_from"]["options"]["device"] == "cpu"


def test_tracking_begins_with_the_first_prompt_without_reverse(track, video_file, whole, tmp_path):
    result = track(video_file, *PROMPTS, "--start", 4, "--end", 12, "--out", tmp_path, "--format", "overlay")
    assert result.exit_code == 1 and "object 1 on frame 14 is outside of the frames to be tracked" in result.stderr
    result = ok(track(video_file, *PROMPTS, "--start", 4, "--end", 15, "--out", tmp_path / "o", "--format", "overlay"))
    lines = lines_of(tmp_path / "o")
    assert list(lines) == list(range(FIRST, 16))
    assert all(lines[t] == lines_of(whole)[t] for t in lines)
    frames, _ = moving_shapes.decoded(tmp_path / "o/overlay.mp4")
    plain, _ = moving_shapes.decoded(video_file)
    assert len(frames) == 12  # from 4 to 15
    changes = [np.abs(a.astype(int) - b).mean() for a, b in zip(frames, plain[4:16], strict=True)]
    assert 1.5 * max(changes[:4]) < min(changes[4:])


def test_odd_sizes_and_uneven_times(track, tmp_path):
    images = moving_shapes.make_frames(6, 47, 65)
    times = [0, 0.04, 0.3, 0.35, 0.9, 1.0]
    frames = [np.pad(p, ((0, 1), (0, 1), (0, 0)), mode="edge") for p in images]
    video_file = moving_shapes.write_video(tmp_path / "vfr.mp4", frames, times)
    assert track(video_file, *ONE, "--out", tmp_path / "a").exit_code == 0
    assert moving_shapes.decoded(tmp_path / "a/overlay.mp4")[1] == pytest.approx(times, abs=2e-3)
    assert [line["time"] for line in lines_of(tmp_path / "a").values()] == pytest.approx(times, abs=2e-3)
    folder = moving_shapes.jpeg_folder(tmp_path / "odd", images)
    ends(track(folder, *ONE, "--progress", "--out", tmp_path / "b"), 0, "6/6")
    drawn, times = moving_shapes.decoded(tmp_path / "b/overlay.mp4")
    assert drawn[0].shape == (48, 66, 3) and len(drawn) == 6
    assert {line["time"] for line in lines_of(tmp_path / "b").values()} == {None}


@pytest.mark.parametrize("options", [[], ["--stream"]], ids=["file", "stream"])
def test_overlay_keeps_sound_and_pixel_aspect(track, tmp_path, options):
    """Of the frames that it shows: here from 0.2 s on, where the tone begins 0.3 s later."""
    video_file = write_with_sound(tmp_path / "a.mkv", delay=0.5, pixel_aspect=2)
    options = ["--start", 5, "--end", 19, "--format", "overlay", *options]
    result = track(video_file, "--point", text(5, 1, *middle_of_square(5)), *options, "--out", tmp_path / "out")
    assert result.exit_code == 0 and result.stderr == ""
    overlay = tmp_path / "out/overlay.mp4"
    with av.open(str(overlay)) as container:
        assert container.streams.video[0].sample_aspect_ratio == 2 and container.streams.video[0].frames == 15
        frames = list(container.decode(audio=0))
    loud = next(frame for frame in frames if np.abs(frame.to_ndarray()).max() > 0.2)
    assert loud.time == pytest.approx(0.3, abs=0.05) and frames[-1].time == pytest.approx(0.6, abs=0.05)
    assert names(tmp_path / "out") == ["masks.jsonl", "overlay.mp4", "track.json"]


def test_sound_that_cannot_be_kept_is_named(track, tmp_path):
    video_file = write_with_sound(tmp_path / "a.mp4", audio="alac")
    result = track(video_file, *ONE, "--end", 1, "--format", "overlay", "--out", tmp_path / "out")
    assert result.exit_code == 0 and "a.mp4: its sound is not kept: it is alac" in result.stderr


def test_mask_prompts_and_prompt_files(track, video_file, tmp_path):
    mask = np.zeros((48, 64), dtype=bool)
    x0, y0, x1, y1 = moving_shapes.square_at(0)
    mask[y0:y1, x0:x1] = True
    Image.fromarray(mask).save(tmp_path / "square.png")
    box = list(box_of_disc(0))
    entries = [{"frame": 0, "object": 5, "box": box}, {"frame": 0, "object": "square", "mask": "square.png"}]
    (tmp_path / "prompts.json").write_text(json.dumps({"prompts": entries}))
    options = ["--end", 3, "--format", "json", "--out"]
    assert track(video_file, "--prompts", tmp_path / "prompts.json", *options, tmp_path / "a").exit_code == 0
    same = ["--mask", f"0,square,{tmp_path / 'square.png'}", "--box", text(0, 5, *box)]
    ok(track(video_file, *same, *options, tmp_path / "b"))
    assert (tmp_path / "a/masks.jsonl").read_bytes() == (tmp_path / "b/masks.jsonl").read_bytes()
    first = next(iter(read_masks(tmp_path / "b/masks.jsonl")))
    assert first.ids == [5, "square"] and (first.masks[1] & mask).sum() / (first.masks[1] | mask).sum() > 0.9


def write_overlay(path, *images):
    writer = track_overlay.OverlayWriter(path, *images[0].shape[:2], 25.0)
    for image in images:
        writer.add(image, None)
    writer.finish()


def test_colours_of_videos_are_not_guessed(tmp_path):
    """Players assume BT.709 for large untagged videos, BT.601 for small ones."""
    write_overlay(tmp_path / "x.mp4", np.full((720, 1280, 3), (200, 30, 90), dtype=np.uint8))
    with av.open(str(tmp_path / "x.mp4")) as container:
        frame = next(container.decode(video=0))
        assert frame.colorspace == 1 and frame.color_range == 1
        np.testing.assert_allclose(frame.to_ndarray(format="rgb24")[360, 640], (200, 30, 90), atol=3)


def test_the_same_images_are_the_same_bytes(tmp_path):
    """With AVX-512, x264's macroblock tree is not deterministic for videos of this size."""
    rows, columns = np.mgrid[:64, :96]
    ground = np.stack([columns * 3, rows * 5, rows + columns], -1).astype(np.uint8)
    videos = set()
    for _ in range(10):
        write_overlay(tmp_path / "x.mp4", *(np.roll(ground, turn * 2, axis=1) for turn in range(8)))
        videos.add((tmp_path / "x.mp4").read_bytes())
    assert len(videos) == 1


def test_ids_beside_the_objects(whole):
    line = lines_of(whole)[10]
    grey = np.full((48, 64, 3), 100, dtype=np.uint8)
    plain, named = (FrameDrawing([1, "disc"], show_ids).draw(grey, line) for show_ids in (False, True))
    x, y = line["objects"][0]["box"][:2]
    change = (plain != named).any(axis=2)
    assert change[max(y - 18, 0) : y + 3, x : x + 8].any() and not change[y + 18 :, :x].any()
    assert (grey == 100).all()


def test_no_encoder(track, video_file, tmp_path, monkeypatch):
    monkeypatch.setattr(video_writer, "ENCODERS", ())
    result = ok(track(video_file, *ONE, "--end", 1, "--out", tmp_path))
    assert result.stderr == "sam2fast: note: no overlay.mp4, since this PyAV has no encoder for H.264\n"
    assert names(tmp_path) == ["masks.jsonl", "track.json"]
