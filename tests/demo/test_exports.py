"""Downloads contain the session's masks."""

import os
from io import BytesIO
from pathlib import Path

import moving_shapes
import numpy as np
import pytest
from demo_client import unzipped
from PIL import Image

from sam2fast.demo.server.app import SERVICE
from sam2fast.demo.server.export_data import ExportData, object_colour
from sam2fast.io.label_maps import palette
from sam2fast.io.rle import encode_rle

ON_SQUARE, BOX_OF_DISC = (16 / 64, 19 / 48), ((41 / 64, 25 / 48), (59 / 64, 43 / 48))


def export(client, session, kind):
    return client.http.get(f"/api/sessions/{session}/export?format={kind}")


def unpacked(answer) -> dict[str, Image.Image]:
    assert answer.status_code == 200 and answer.content_type == "application/zip"
    return {name: Image.open(BytesIO(content)) for name, content in unzipped(answer.data).items()}


@pytest.fixture(scope="module")
def predictor(nano_predictor):
    return nano_predictor


@pytest.fixture
def tracked(client, session):
    """Two objects, 5 and 2, from frame 2 on, and one more prompt on frame 0."""
    client.add(session, [ON_SQUARE], frame=2, obj=5)
    client.add(session, BOX_OF_DISC, [2, 3], frame=2, obj=2)
    masks = dict(client.track(session, 2, direction="forward"))
    masks[0] = client.add(session, [ON_SQUARE], obj=5)
    return session, masks


@pytest.fixture(autouse=True)
def no_temporary_files_remain(app):
    yield
    assert os.listdir(app.extensions[SERVICE].library.incoming) == []


def test_masks_as_palette_images(client, tracked):
    session, masks = tracked
    answer = export(client, session, "masks_png")
    assert answer.headers["Content-Disposition"] == "attachment; filename=clip_masks.zip"
    images = unpacked(answer)
    assert list(images) == ["00000.png", "00002.png", "00003.png", "00004.png"]
    for name, image in images.items():
        found, labels = masks[int(name[:5])], np.asarray(image)
        np.testing.assert_array_equal(labels > 0, found[2] | found[5])
        # Numbers are ids; an overlap has one of both.
        assert not (labels == 2)[~found[2]].any() and not (labels == 5)[~found[5]].any()
        assert {*np.unique(labels)} <= {0, 2, 5}
        assert image.mode == "P" and bytes(image.getpalette()[:9]) == palette().tobytes()[:9]


def test_overlapping_objects_share_an_image_by_logit(client, session, predictor, clip_file):
    """Two objects from nearly the same click: each pixel belongs to the object with the greater logit."""
    points = [[16, 19]], [[20, 22]]
    state = predictor.init_state(clip_file)
    for obj, point in enumerate(points, 1):
        client.add(session, [(point[0][0] / 64, point[0][1] / 48)], obj=obj)
        logits = predictor.add_new_points_or_box(state, 0, obj, points=point, labels=[1])[2][:, 0].numpy()
    masks = logits > 0
    assert (masks[0] & masks[1]).any() and (masks[0] != masks[1]).any()
    expected = np.where(masks.any(0), logits.argmax(0) + 1, 0)
    labels = np.asarray(unpacked(export(client, session, "masks_png"))["00000.png"])
    np.testing.assert_array_equal(labels, expected)


def test_a_session_is_exported_clean(client, session):
    speckled = np.zeros((48, 64), dtype=bool)
    speckled[10:30, 10:30] = True
    speckled[38:43, 50:55] = True
    mask = {"objectId": 1, "frameIndex": 0, "mask": encode_rle(speckled)}
    assert client.http.post(f"/api/sessions/{session}/masks", json=mask).status_code == 200
    found = [
        np.asarray(unpacked(export(client, session, f"masks_png{more}"))["00000.png"]) for more in ("", "&clean=0.02")
    ]
    assert [(image[20, 20], image[40, 52]) for image in found] == [(1, 1), (1, 0)]
    answer = export(client, session, "masks_png&clean=much")
    assert answer.status_code == 400 and b"clean is 'much'" in answer.data


@pytest.mark.parametrize(
    ("file", "stem"),
    [
        ("kitchen.2024-05-17.camera 2.mp4", "kitchen.2024-05-17.camera 2"),
        ("0123456789abcdef" * 4 + ".mp4", "0123456789abcdef"),  # of an upload
    ],
)
def test_files_are_named_as_the_video(file, stem):
    assert ExportData(Path("gallery", file), 1, (4, 4), None, {}).stem == stem


def test_overlay(client, tracked, tmp_path, clip_file):
    session, masks = tracked
    answer = export(client, session, "overlay_mp4")
    assert answer.content_type == "video/mp4"
    assert answer.headers["Content-Disposition"] == "attachment; filename=clip_overlay.mp4"
    (tmp_path / "overlay.mp4").write_bytes(answer.data)
    drawn, times = moving_shapes.decoded(tmp_path / "overlay.mp4")
    plain, _ = moving_shapes.decoded(clip_file)
    checked = set()
    assert len(drawn) == 5 and times == pytest.approx([t / 25 for t in range(5)], abs=1e-3)
    for frame in range(5):
        difference = np.abs(drawn[frame].astype(int) - plain[frame]).max(axis=2)
        seen = np.logical_or.reduce(list(masks.get(frame, {0: np.zeros((48, 64), dtype=bool)}).values()))
        # Both videos are lossy, in blocks.
        assert np.median(difference[seen]) > 30 if seen.any() else difference.mean() < 15
        assert np.median(difference[~seen]) < 15
        for obj, mask in masks.get(frame, {}).items():
            alone = mask & (np.sum(list(masks[frame].values()), axis=0) == 1)
            if alone.sum() > 50:
                tints = 2 * drawn[frame][alone].astype(int) - plain[frame][alone]
                assert np.abs(np.median(tints, axis=0) - object_colour(obj)).max() < 40, (frame, obj)
                checked.add(obj)
    assert checked == {2, 5}


def test_invalid_exports(client, session):
    answer = export(client, session, "coco_rle")
    assert answer.status_code == 404 and "no masks yet" in answer.get_json()["error"]["message"]
    client.add(session)
    for kind in ("", "png", "../masks_png", "coco_rle,cutout"):
        answer = export(client, session, kind)
        assert answer.status_code == 400 and "masks_png, coco, coco_rle, overlay_mp4, source_mp4" in answer.get_data(
            as_text=True
        )
    # The exported file is deleted all the same, as after every test here.
    answer = client.http.get(f"/api/sessions/{session}/export?format=cutout", headers={"Range": "bytes=9999999999-"})
    assert answer.status_code == 416


def test_frames_as_images(client, session, clip_file):
    plain, _ = moving_shapes.decoded(clip_file)
    for frame in (3, 0, 4):
        answer = client.http.get(f"/api/sessions/{session}/frames/{frame}.jpg")
        assert answer.content_type == "image/jpeg"
        image = np.asarray(Image.open(BytesIO(answer.data))).astype(int)
        errors = [np.abs(image - other).mean() for other in plain]
        assert np.argmin(errors) == frame and errors[frame] < 10
    for name in ("5", "-1", "x", "0x1", "99999999999999999999"):
        assert client.http.get(f"/api/sessions/{session}/frames/{name}.jpg").status_code == 404
