"""Files of an upload have its source's size, rate and frames, and the masks' outlines at that size."""

import functools
import json
import os
from io import BytesIO

import av
import moving_shapes
import numpy as np
import pytest
import torch
from demo_client import DemoClient, pixels_of, unzipped
from PIL import Image
from tones import sound_of, write_with_sound
from torch.nn import functional

from sam2fast.demo.server import library
from sam2fast.demo.server.app import SERVICE
from sam2fast.demo.server.exports import FORMATS
from sam2fast.io.rle import decode_rle, encode_rle
from sam2fast.video_io import read_frames

SIZE, FRAMES, TIMES = (960, 1280), 4, (0.0, 0.04, 0.12, 0.16)  # the third frame comes late
ON_SQUARE, ON_DISC = (16 / 64, 19 / 48), (48 / 64, 36 / 48)
GREEN = (0x00, 0xB1, 0x40)


@pytest.fixture(scope="module")
def predictor(nano_predictor):
    return nano_predictor


def large(frame: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize(SIZE[::-1], Image.Resampling.NEAREST))


@pytest.fixture(scope="module")
def uploaded(make_server, tmp_path_factory):
    """A server, a client, and a session on an upload of 1280x960 with two tracked objects; frame 2 is shown twice."""
    frames = [large(frame) for frame in moving_shapes.make_frames(FRAMES)]
    source = moving_shapes.write_video(tmp_path_factory.mktemp("source") / "large.mp4", frames, TIMES)
    app = make_server(fps=25)
    client = DemoClient(app.test_client())
    video = client.upload(source.read_bytes())
    assert (video["height"], video["width"]) == (720, 960)
    session = client.start(video["path"])
    client.add(session, [ON_SQUARE])
    client.add(session, [ON_DISC], obj=2)
    client.track(session)
    return app, client, session, frames


def page_masks(app, session) -> dict:
    """What a page posts."""
    masks = app.extensions[SERVICE].sessions.get(session).masks
    frames = [
        {"frame": frame, "masks": [{"object": i, **mask.rle} for i, mask in entries.items()]}
        for frame, entries in sorted(masks.items())
    ]
    return {"objects": [{"id": i, "name": f"Object {i}"} for i in (1, 2)], "frames": frames}


@pytest.fixture(scope="module")
def exported(uploaded):
    """Files of the tracked masks; each is made once."""
    app, client, session, _ = uploaded
    masks = page_masks(app, session)
    return functools.cache(lambda kind, more="": client.export(session, kind + more, masks))


def upsampled(app, session, frame, *objects) -> np.ndarray:
    """The union of masks as the predictor makes them for the source's size."""
    tracked = app.extensions[SERVICE].sessions.get(session).state.objects
    logits = torch.cat([tracked[obj].result_on(frame, True).mask for obj in objects])
    return (functional.interpolate(logits, SIZE, mode="bilinear", align_corners=False) > 0).any(0)[0].numpy()


def test_a_session_says_the_sources_size(uploaded, client):
    _, of_upload, session, _ = uploaded
    assert of_upload.facts(session)["source"] == {"height": SIZE[0], "width": SIZE[1]}
    other = client.start()
    assert client.facts(other)["source"] is None
    client.close(other)


def test_masks_are_upsampled_from_logits(uploaded, exported):
    app, _, session, _ = uploaded
    document = json.loads(exported("coco_rle"))
    (video,) = document["videos"]
    assert (video["height"], video["width"], video["length"], video["fps"]) == (*SIZE, 5, 25)
    for annotation in document["annotations"]:
        for frame, rle in enumerate(annotation["segmentations"]):
            expected = upsampled(app, session, frame, annotation["object"])
            assert expected.any() == (rle is not None)
            if rle is not None:
                np.testing.assert_array_equal(decode_rle(rle), expected)
    seen = json.loads(exported("coco_rle", "&size=seen"))
    assert (seen["videos"][0]["height"], seen["videos"][0]["width"]) == (720, 960)


def test_masks_of_the_page_alone_are_resized(uploaded):
    """As those of the brush, and of work that the page has restored."""
    app, client, session, _ = uploaded
    page, box = page_masks(app, session), np.zeros((720, 960), bool)
    box[150:450, 300:600] = True
    page["frames"] = [{"frame": 1, "masks": [{"object": 1, **encode_rle(box)}]}]
    (annotation,) = json.loads(client.export(session, "coco_rle", page))["annotations"]
    expected = np.zeros(SIZE, bool)
    expected[200:600, 400:800] = True
    found = decode_rle(annotation["segmentations"][1])
    assert (found ^ expected).sum() <= 8  # the corners


def test_specks_and_holes_are_measured_in_pixels_of_the_file(uploaded):
    """At the size that a page sees, a limit is smaller."""
    app, client, session, _ = uploaded
    page, mask = page_masks(app, session), np.zeros((720, 960), bool)
    mask[150:450, 300:600] = mask[10:13, 10:15] = True  # a speck of 15 pixels, 27 of the source
    page["frames"] = [{"frame": 1, "masks": [{"object": 1, **encode_rle(mask)}]}]
    for limit, stays in ((20, True), (35, False)):
        page["objects"][0]["clean"] = limit / (SIZE[0] * SIZE[1])
        for more in ("", "&size=seen"):
            (annotation,) = json.loads(client.export(session, f"coco_rle{more}", page))["annotations"]
            assert decode_rle(annotation["segmentations"][1])[:100, :100].any() == stays


def test_images_are_the_sources(uploaded, exported):
    app, _, session, frames = uploaded
    files = unzipped(exported("cutout"))
    assert list(files) == [f"{frame:05d}.png" for frame in range(5)]
    for number, shown in enumerate((0, 1, 1, 2, 3)):
        image = pixels_of(files[f"{number:05d}.png"])
        inside = upsampled(app, session, number, 1, 2)
        np.testing.assert_array_equal(image[..., 3] == 255, inside)
        assert not image[~inside].any()
        assert np.abs(image[inside][:, :3].astype(int) - frames[shown][inside]).mean() < 6


@pytest.mark.parametrize(("quality", "most"), [("", 3), ("&quality=smaller", 4)])
@pytest.mark.parametrize("kind", [kind for kind, form in FORMATS.items() if form.suffix.endswith(".mp4")])
def test_mp4_files_are_bt709_of_limited_range(uploaded, exported, kind, quality, most):
    app, _, session, frames = uploaded
    with av.open(BytesIO(exported(kind, quality))) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.height, context.width) == ("h264", "yuv420p", *SIZE)
        tags = context.color_range, context.colorspace, context.color_primaries, context.color_trc
        assert tags == (1, 1, 1, 1)
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(images) == 5
    inside = upsampled(app, session, 4, 1, 2)
    plain = frames[3].astype(int)
    expected = {
        "green_mp4": np.where(inside[..., None], plain, GREEN),
        "matte_mp4": np.where(inside[..., None], 255, 0),
        "source_mp4": plain,
        "overlay_mp4": np.where(inside[..., None], images[4], plain),
    }[kind]
    difference = np.abs(images[4].astype(int) - expected).max(axis=2)
    assert difference.mean() < 6 and np.median(difference) <= most


@pytest.mark.parametrize("kind", [kind for kind, form in FORMATS.items() if form.suffix.endswith((".mp4", ".webm"))])
def test_smaller_files(exported, kind):
    assert len(exported(kind, "&quality=smaller")) < 0.9 * len(exported(kind))


def test_high_quality_is_the_default(exported):
    assert len(exported("matte_mp4", "&quality=high")) == len(exported("matte_mp4"))


@pytest.mark.parametrize(
    ("kind", "quality", "most"),
    [("transparent_webm", "", 4), ("transparent_webm", "&quality=smaller", 4), ("prores_mov", "", 0)],
)
def test_transparent_video(uploaded, exported, kind, quality, most):
    """``most`` is the largest mean difference of alpha."""
    app, _, session, frames = uploaded
    with av.open(BytesIO(exported(kind, quality))) as container:
        context = container.streams.video[0].codec_context
        if kind == "prores_mov":
            assert (context.name, context.profile, context.height, context.width) == ("prores", "4444", *SIZE)
            assert (context.color_range, context.colorspace) == (1, 1)
        else:
            context = av.CodecContext.create("libvpx-vp9", "r")  # FFmpeg's own decoder ignores alpha
        images = [image for packet in container.demux(video=0) for image in context.decode(packet)]
    assert len(images) == 5
    image = images[4].to_ndarray(format="rgba").astype(int)
    inside = upsampled(app, session, 4, 1, 2)
    assert np.abs(image[..., 3] - np.where(inside, 255, 0)).mean() <= most
    assert np.abs(image[inside][:, :3] - frames[3][inside]).mean() < 12


def test_sources_are_deleted_with_their_uploads(make_server, monkeypatch):
    """Where the disk is full, old uploads make room; those in use stay."""
    app = make_server()
    store, client = app.extensions[SERVICE].library, DemoClient(app.test_client())
    stems = []
    for count in (1, 2, 3):
        frames = [np.zeros((800, 1000, 3), np.uint8)] * count
        source = moving_shapes.write_video(store.root / "source.mp4", frames)
        stems.append(client.upload(source.read_bytes())["path"].removeprefix("uploads/").removesuffix(".mp4"))
        if count == 1:
            client.start(f"uploads/{stems[0]}.mp4")
        os.utime(store.root / "uploads" / f"{stems[-1]}.mp4", (count, count))
    kept = lambda: {path.name for path in (store.root / "sources").iterdir()}  # noqa: E731
    assert kept() == {name for stem in stems for name in (stem, f"{stem}.json")}
    monkeypatch.setattr(library, "MIN_FREE_BYTES", 1 << 62)
    store._delete_old_uploads({f"uploads/{stems[0]}.mp4"})
    assert kept() == {stems[0], f"{stems[0]}.json"}


@pytest.mark.parametrize(
    ("kind", "is_kept"),
    [
        ("green_mp4", True),
        ("transparent_webm", True),
        ("prores_mov", True),
        ("overlay_mp4", True),
        ("matte_mp4", False),
    ],
)
def test_sound_is_kept_where_the_video_is_seen(make_server, tmp_path, kind, is_kept):
    app = make_server()
    gallery = app.extensions[SERVICE].library.root / "gallery"
    write_with_sound(gallery / "tone.mp4", frames=5, seconds=0.2, pixel_aspect=2)
    client = DemoClient(app.test_client())
    session = client.start("gallery/tone.mp4")
    client.add(session, [ON_SQUARE])
    file = tmp_path / f"out.{kind.rpartition('_')[2]}"
    file.write_bytes(client.export(session, kind))
    with read_frames(file, 32) as reader:
        assert reader.width * reader.pixel_aspect == 128 and reader.count in (None, 5)
    assert sound_of(file)[0] == pytest.approx(0.2 if is_kept else 0, abs=0.1)
