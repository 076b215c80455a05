"""Videos of drawn frames, with the sound of the video that they were drawn on."""

from io import BytesIO

import moving_shapes
import numpy as np
import pytest
from demo_client import DemoClient, zipped
from PIL import Image
from tones import RATE, SIZE, sound_of, write_with_sound

from sam2fast.demo.server.app import SERVICE
from sam2fast.video_io import read_frames


def drawn(images: list[np.ndarray], form: str = "PNG") -> bytes:
    """Returns a ZIP file of numbered images."""
    files = {}
    for number, image in enumerate(images):
        content = BytesIO()
        Image.fromarray(image).save(content, form)
        files[f"{number:05d}"] = content.getvalue()
    return zipped(files)


def encode(client, session, content, more=""):
    return client.http.post(f"/api/sessions/{session}/encode{more}", data=content)


def test_drawn_frames_become_a_video_with_sound(client, make_server, tmp_path):
    source = write_with_sound(tmp_path / "clip.mp4", frames=5, seconds=0.2, pixel_aspect=2)
    app = make_server()
    (app.extensions[SERVICE].library.root / "gallery" / "tone.mp4").write_bytes(source.read_bytes())
    other = DemoClient(app.test_client())
    session = other.start("gallery/tone.mp4")
    images = [np.full((*SIZE, 3), 40 * number, np.uint8) for number in range(5)]
    (tmp_path / "out.mp4").write_bytes(encode(other, session, drawn(images, "JPEG")).data)
    with read_frames(tmp_path / "out.mp4", 32) as reader:
        assert reader.width * reader.pixel_aspect == 2 * SIZE[1]
    frames, times = moving_shapes.decoded(tmp_path / "out.mp4")
    assert times == pytest.approx([t / RATE for t in range(5)], abs=1e-3)
    for number, frame in enumerate(frames):
        assert np.abs(frame.astype(int) - 40 * number).mean() < 4
    assert sound_of(tmp_path / "out.mp4")[0] == pytest.approx(0.2, abs=0.1)
    other.close(session)


def test_smaller_files(client, session):
    noise = np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3), dtype=np.uint8)
    plain, high, smaller = (
        encode(client, session, drawn(list(noise)), more).data for more in ("", "?quality=high", "?quality=smaller")
    )
    assert plain == high and len(smaller) < 0.8 * len(high)
