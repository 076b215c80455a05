"""Videos of drawn frames, with the sound of the video that they were drawn on."""

import zipfile
from io import BytesIO

import av
import moving_shapes
import numpy as np
import pytest
from demo_client import DemoClient
from PIL import Image
from tones import RATE, SIZE, sound_of, write_with_sound

from sam2fast.demo.server.app import SERVICE
from sam2fast.video_io import read_frames

HALF = np.zeros(SIZE, bool)
HALF[:, :32] = True


def zipped(images: list[np.ndarray], form: str = "PNG") -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, image in enumerate(images):
            content = BytesIO()
            Image.fromarray(image).save(content, form, **({"lossless": True} if form == "WEBP" else {}))
            archive.writestr(f"{number:05d}", content.getvalue())
    return file.getvalue()


def encode(client, session, kind, content):
    return client.http.post(f"/api/sessions/{session}/encode?format={kind}", data=content)


def test_drawn_frames_become_a_video_with_sound(client, make_server, tmp_path):
    source = write_with_sound(tmp_path / "clip.mp4", frames=5, seconds=0.2, pixel_aspect=2)
    app = make_server()
    (app.extensions[SERVICE].library.root / "gallery" / "tone.mp4").write_bytes(source.read_bytes())
    other = DemoClient(app.test_client())
    session = other.start("gallery/tone.mp4")
    images = [np.full((*SIZE, 3), 40 * number, np.uint8) for number in range(5)]
    for kind in ("webm", "mp4"):
        (tmp_path / f"out.{kind}").write_bytes(encode(other, session, kind, zipped(images, "JPEG")).data)
        with read_frames(tmp_path / f"out.{kind}", 32) as reader:
            assert reader.width * reader.pixel_aspect == 2 * SIZE[1]
    frames, times = moving_shapes.decoded(tmp_path / "out.mp4")
    assert times == pytest.approx([t / RATE for t in range(5)], abs=1e-3)
    for number, frame in enumerate(frames):
        assert np.abs(frame.astype(int) - 40 * number).mean() < 4
    assert sound_of(tmp_path / "out.mp4")[0] == pytest.approx(0.2, abs=0.1)
    other.close(session)


def test_transparency_is_kept(client, session, tmp_path):
    image = np.dstack([np.full((*SIZE, 3), (200, 40, 60), np.uint8), np.where(HALF, 255, 0).astype(np.uint8)])
    (tmp_path / "out.webm").write_bytes(encode(client, session, "webm", zipped([image] * 5, "WEBP")).data)
    with av.open(str(tmp_path / "out.webm")) as container:
        context = av.CodecContext.create("libvpx-vp9", "r")  # FFmpeg's own decoder ignores alpha
        frames = [f for packet in container.demux(video=0) for f in context.decode(packet)]
    assert len(frames) == 5
    found = frames[2].to_ndarray(format="rgba")
    assert np.abs(found[..., 3].astype(int) - np.where(HALF, 255, 0)).mean() < 4
    assert np.abs(found[HALF][:, :3].astype(int) - (200, 40, 60)).mean() < 12
