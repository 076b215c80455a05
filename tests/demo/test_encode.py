"""Videos of drawn frames, and the sound of videos."""

import zipfile
from io import BytesIO
from pathlib import Path

import av
import moving_shapes
import numpy as np
import pytest
from PIL import Image

from sam2fast.demo.server.sound import add_sound

RATE, SIZE = 25, (48, 64)
HALF = np.zeros(SIZE, bool)
HALF[:, :32] = True


def write_with_sound(
    path: Path, seconds: float = 1.0, audio: str = "aac", frames: int = 25, delay: float = 0.0
) -> Path:
    """A video of moving shapes with a tone of 440 Hz after a delay; its container follows from the name."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264" if path.suffix == ".mp4" else "libvpx", rate=RATE)
        video.height, video.width, video.pix_fmt = *SIZE, "yuv420p"
        sound = container.add_stream(audio, rate=48000)
        sound.layout = "stereo"
        for image in moving_shapes.make_frames(frames):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
        tone = np.sin(2 * np.pi * 440 * np.arange(int(48000 * seconds)) / 48000).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.stack([tone, tone]), format="fltp", layout="stereo")
        frame.rate, frame.pts = 48000, round(48000 * delay)
        resampler = av.AudioResampler(sound.format.name, "stereo", 48000, frame_size=sound.codec_context.frame_size)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(sound.encode(piece))
        container.mux(sound.encode())
    return path


def sound_of(path: Path) -> tuple[float, float]:
    """Seconds of sound, and the frequency of its tone in Hz; (0, 0) without sound."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return 0.0, 0.0
        frames = list(container.decode(audio=0))
    rate = frames[0].rate
    samples = np.concatenate(
        [frame.to_ndarray()[0] if frame.format.is_planar else frame.to_ndarray()[0][::2] for frame in frames]
    )
    middle = samples[len(samples) // 4 : 3 * len(samples) // 4]
    spectrum = np.abs(np.fft.rfft(middle))
    return len(samples) / rate, float(np.argmax(spectrum[1:]) + 1) * rate / len(middle)


@pytest.mark.parametrize(
    ("name", "audio", "target"), [("a.mp4", "aac", "b.mp4"), ("a.webm", "libopus", "b.mp4"), ("a.mp4", "aac", "b.webm")]
)
def test_sound_is_added(tmp_path, name, audio, target):
    source = write_with_sound(tmp_path / name, 2.0, audio)
    silent = write_with_sound(
        tmp_path / f"silent{Path(target).suffix}", audio="libopus" if target.endswith("webm") else "aac"
    )
    assert add_sound(silent, source, tmp_path / target, 0.5, 1.0)
    seconds, pitch = sound_of(tmp_path / target)
    assert seconds == pytest.approx(1.0, abs=0.1) and pitch == pytest.approx(440, abs=5)
    frames, times = moving_shapes.decoded(tmp_path / target)
    assert len(frames) == 25 and times[-1] == pytest.approx(24 / RATE, abs=2e-3)


def test_sound_that_begins_late_stays_in_step(tmp_path):
    source, silent = write_with_sound(tmp_path / "a.mp4", delay=0.6), write_with_sound(tmp_path / "silent.mp4")
    assert add_sound(silent, source, tmp_path / "b.mp4", 0.2, 1.0)
    with av.open(str(tmp_path / "b.mp4")) as container:
        loud = next(frame for frame in container.decode(audio=0) if np.abs(frame.to_ndarray()).max() > 0.2)
    assert loud.time == pytest.approx(0.4, abs=0.05)


def test_sound_leaves_a_video_transparent(tmp_path):
    """Browsers read alpha only if the track's header has an AlphaMode of 1."""
    silent = tmp_path / "silent.webm"
    with av.open(str(silent), "w") as container:
        video = container.add_stream("libvpx-vp9", rate=RATE)
        video.height, video.width, video.pix_fmt = *SIZE, "yuva420p"
        image = np.dstack([np.zeros((*SIZE, 3), np.uint8), np.where(HALF, 255, 0).astype(np.uint8)])
        container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgba")))
        container.mux(video.encode())
    assert add_sound(silent, write_with_sound(tmp_path / "a.mp4"), tmp_path / "out.webm")
    alpha_mode = bytes.fromhex("53c08101")
    assert alpha_mode in silent.read_bytes() and alpha_mode in (tmp_path / "out.webm").read_bytes()


def test_sound_that_is_not_there_or_not_accepted(tmp_path, clip_file):
    silent = write_with_sound(tmp_path / "silent.mp4")
    rare = write_with_sound(tmp_path / "rare.mp4", audio="alac")
    for source in (clip_file, rare):
        assert not add_sound(silent, source, tmp_path / "out.mp4")
        assert not (tmp_path / "out.mp4").exists()


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
    source = write_with_sound(tmp_path / "clip.mp4", frames=5, seconds=0.2)
    app = make_server()
    (app.extensions["sam2fast"].library.root / "gallery" / "tone.mp4").write_bytes(source.read_bytes())
    from demo_client import DemoClient

    other = DemoClient(app.test_client())
    session = other.start("gallery/tone.mp4")
    images = [np.full((*SIZE, 3), 40 * number, np.uint8) for number in range(5)]
    (tmp_path / "out.mp4").write_bytes(encode(other, session, "mp4", zipped(images, "JPEG")).data)
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


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("gif", zipped([np.zeros((*SIZE, 3), np.uint8)])),
        ("mp4", b"no zip"),
        ("mp4", zipped([])),
        ("webm", zipped([])),
        ("mp4", zipped([np.zeros((9, 9, 3), np.uint8)])),
        ("mp4", zipped([np.zeros((*SIZE, 3), np.uint8)] * 6)),  # the video has five frames
    ],
)
def test_invalid_frames_are_refused(client, app, session, kind, content):
    answer = encode(client, session, kind, content)
    assert answer.status_code == 400 and answer.get_json()["error"]["code"] == "BAD_INPUT"
    assert list(app.extensions["sam2fast"].library.incoming.iterdir()) == []


def test_uploads_keep_their_sound_and_rate(make_server, tmp_path):
    from demo_client import DemoClient

    app = make_server(fps=None, max_seconds=0.6)
    video = DemoClient(app.test_client()).upload(write_with_sound(tmp_path / "up.mp4").read_bytes())
    file = app.extensions["sam2fast"].library.root / video["path"]
    seconds, pitch = sound_of(file)
    assert seconds == pytest.approx(0.6, abs=0.1) and pitch == pytest.approx(440, abs=5)
    assert len(moving_shapes.decoded(file)[0]) == 15  # 25 frames per second, as in the upload
