"""The sound of one video beside the frames of another."""

import logging
from unittest import mock

import numpy as np
import pytest

av = pytest.importorskip("av")

import moving_shapes  # noqa: E402
from tones import RATE, SIZE, sound_of, write_with_sound  # noqa: E402

from sam2fast.video_io.containers import VideoInput  # noqa: E402
from sam2fast.video_io.sound import add_sound  # noqa: E402


@pytest.mark.parametrize(
    ("name", "audio", "target"),
    [
        ("a.mp4", "aac", "b.mp4"),
        ("a.webm", "libopus", "b.mp4"),
        ("a.mkv", "flac", "b.mp4"),
        ("a.avi", "libmp3lame", "b.mp4"),
        ("a.mov", "pcm_s16le", "b.mp4"),
        ("a.mp4", "aac", "b.webm"),
    ],
)
def test_sound_is_added(tmp_path, name, audio, target):
    source = write_with_sound(tmp_path / name, 2.0, audio)
    file = write_with_sound(tmp_path / target, audio="libopus" if target.endswith("webm") else "aac")
    assert add_sound(file, VideoInput.of_file(source), 0.5, 1.0)
    seconds, pitch = sound_of(file)
    assert seconds == pytest.approx(1.0, abs=0.1) and pitch == pytest.approx(440, abs=5)
    frames, times = moving_shapes.decoded(file)
    assert len(frames) == 25 and times[-1] == pytest.approx(24 / RATE, abs=2e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({name, target})


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_sound_stays_in_step(tmp_path, name):
    """Sound that begins late; the times of MPEG-TS do not begin at 0."""
    source = write_with_sound(tmp_path / name, delay=0.6)
    file = write_with_sound(tmp_path / "b.mp4")
    assert add_sound(file, VideoInput.of_file(source), 0.2, 1.0)
    with av.open(str(file)) as container:
        loud = next(frame for frame in container.decode(audio=0) if np.abs(frame.to_ndarray()).max() > 0.2)
    assert loud.time == pytest.approx(0.4, abs=0.05)


def test_sound_leaves_a_video_transparent(tmp_path):
    """Browsers read alpha only if the track's header has an AlphaMode of 1."""
    file = tmp_path / "out.webm"
    opacity = np.zeros(SIZE, np.uint8)
    opacity[:, :32] = 255
    with av.open(str(file), "w") as container:
        video = container.add_stream("libvpx-vp9", rate=RATE)
        video.height, video.width, video.pix_fmt = *SIZE, "yuva420p"
        image = np.dstack([np.zeros((*SIZE, 3), np.uint8), opacity])
        container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgba")))
        container.mux(video.encode())
    alpha_mode = bytes.fromhex("53c08101")
    assert alpha_mode in file.read_bytes()
    assert add_sound(file, VideoInput.of_file(write_with_sound(tmp_path / "a.mp4")))
    assert alpha_mode in file.read_bytes() and sound_of(file)[0] > 0


def test_sound_that_is_not_there_or_not_accepted(tmp_path, caplog):
    file = write_with_sound(tmp_path / "silent.mp4")
    content = file.read_bytes()
    none = moving_shapes.write_video(tmp_path / "none.mp4", moving_shapes.make_frames())
    with caplog.at_level(logging.WARNING, "sam2fast"):
        assert not add_sound(file, VideoInput.of_file(none)) and not caplog.messages
        assert not add_sound(file, VideoInput.of_file(write_with_sound(tmp_path / "rare.mp4", audio="alac")))
    assert file.read_bytes() == content
    assert len(caplog.messages) == 1 and "its sound is not kept: it is alac" in caplog.messages[0]


def test_a_failure_leaves_the_video(tmp_path, monkeypatch):
    file, source = write_with_sound(tmp_path / "b.mp4"), write_with_sound(tmp_path / "a.mp4")
    content = file.read_bytes()
    full = mock.Mock(side_effect=OSError(28, "No space left on device"))
    monkeypatch.setattr("sam2fast.video_io.sound.AudioResampler", full)
    with pytest.raises(OSError, match="No space left"):
        add_sound(file, VideoInput.of_file(source))
    assert file.read_bytes() == content and len(list(tmp_path.iterdir())) == 2
