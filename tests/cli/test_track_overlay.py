"""The times of overlays: equal durations at a constant rate, the source's times otherwise, and sound in sync."""

import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sam2fast.cli.track_overlay import OverlayWriter, copy_sound
from sam2fast.video_io import read_frames

CINEMA, NTSC, DOUBLE = Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001)
SOUND = 44100
COUNT = 40


def write_source(path: Path, rate: Fraction, times: list[float] | None = None, has_sound: bool = False) -> None:
    """A video of a constant rate, or with frames at ``times`` in seconds; its sound clicks at each 0.5 seconds."""
    unit = 1 / rate if times is None else Fraction(1, 90_000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt, stream.codec_context.time_base = 48, 64, "yuv420p", unit
        sound = container.add_stream("aac", rate=SOUND) if has_sound else None
        if sound is not None:
            sound.layout = "stereo"
        for index in range(COUNT):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), index * 5, np.uint8), format="rgb24")
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = index if times is None else round(times[index] / unit), unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            samples = np.zeros((2, SOUND * 2), np.float32)
            samples[:, SOUND // 2 :: SOUND // 2] = 1.0
            for start in range(0, samples.shape[1], 1024):
                piece = np.ascontiguousarray(samples[:, start : start + 1024])
                block = av.AudioFrame.from_ndarray(piece, format="fltp", layout="stereo")
                block.sample_rate, block.pts = SOUND, start
                container.mux(sound.encode(block))
            container.mux(sound.encode())


def overlay_of(source: Path, out: Path, start: int = 0) -> list[float | None]:
    """Writes the overlay of a source from a frame on, with its sound; returns the times of the source's frames."""
    times = []
    with read_frames(str(source), 32) as reader:
        writer = OverlayWriter(out, reader.height, reader.width, reader.rate, reader.pixel_aspect, reader.time_unit)
        for frame in reader:
            if frame.index >= start:
                writer.add(frame.rgb, frame.time)
                times.append(frame.time)
        writer.finish()
    copy_sound(source, out, *writer.part)
    return times


def packets_of(path: Path) -> tuple[set[Fraction], list[float]]:
    """The different durations of a video's packets, and the times of its frames, in seconds."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.dts is not None]
        durations = {packet.duration * packet.time_base for packet in packets}
        return durations, sorted(float(packet.pts * packet.time_base) for packet in packets)


def clicks_of(path: Path) -> list[float]:
    """The times of the loudest samples of the sound, in seconds."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        sound = np.concatenate([np.abs(frame.to_ndarray()[0]) for frame in frames])
        loud = np.flatnonzero(sound > 0.5 * sound.max()) / SOUND + frames[0].time
    return [float(time) for index, time in enumerate(loud) if index == 0 or time - loud[index - 1] > 0.1]


@pytest.mark.parametrize(
    ("ending", "rate"),
    [
        *(("mp4", rate) for rate in (CINEMA, Fraction(25), Fraction(15))),
        *(("mkv", rate) for rate in (CINEMA, NTSC, DOUBLE, Fraction(29), Fraction(25, 2))),
    ],
)
def test_frames_of_a_constant_rate_last_equally_long(tmp_path, rate, ending):
    source, out = tmp_path / f"source.{ending}", tmp_path / "overlay.mp4"
    write_source(source, rate, has_sound=ending == "mp4")
    times = overlay_of(source, out)
    durations, shown = packets_of(out)
    (duration,) = durations
    assert float(duration) == pytest.approx(float(1 / rate), rel=1e-6)
    assert shown == pytest.approx([float(i / rate) for i in range(COUNT)], abs=1e-6)
    assert shown == pytest.approx(times, abs=1e-3)  # Matroska's are in milliseconds
    if shutil.which("ffprobe"):
        asked = ("ffprobe", "-v", "error", "-select_streams", "v", "-show_entries", "packet=duration", "-of", "csv=p=0")
        found = subprocess.run([*asked, out], check=True, capture_output=True, text=True).stdout.split()
        assert len(found) == COUNT and len(set(found)) == 1


@pytest.mark.parametrize("has_sound", [False, True])
@pytest.mark.parametrize(("ending", "unit"), [("mp4", 1 / 90_000), ("mkv", 1e-3)])
def test_frames_of_a_variable_rate_keep_their_times(tmp_path, ending, unit, has_sound):
    source, out = tmp_path / f"source.{ending}", tmp_path / "overlay.mp4"
    gaps = np.random.default_rng(2).integers(15, 90, COUNT) / 1000
    write_source(source, Fraction(24), list(np.cumsum(gaps) - gaps[0]), has_sound)
    times = overlay_of(source, out)
    durations, shown = packets_of(out)
    assert len(durations) > 10 and shown == pytest.approx(times, abs=unit)


def test_a_slow_second_half_keeps_its_times(tmp_path):
    source, out = tmp_path / "source.mp4", tmp_path / "overlay.mp4"
    write_source(source, Fraction(30), [i / 30 for i in range(20)] + [2 / 3 + i / 10 for i in range(20)])
    times = overlay_of(source, out)
    assert packets_of(out)[1] == pytest.approx(times, abs=2e-5)


@pytest.mark.parametrize("rate", [CINEMA, Fraction(25)])
@pytest.mark.parametrize("start", [0, 9])
def test_sound_stays_in_sync(tmp_path, rate, start):
    source, out = tmp_path / "source.mp4", tmp_path / "overlay.mp4"
    write_source(source, rate, has_sound=True)
    overlay_of(source, out, start)
    before = clicks_of(source)
    assert len(before) >= 2
    expected = [time - float(start / rate) for time in before if time > float(start / rate)]
    found = [time for time in clicks_of(out) if time < float((COUNT - start) / rate)]
    assert found == pytest.approx(expected[: len(found)], abs=0.03) and len(found) >= 2


def test_images_last_a_25th_of_a_second(tmp_path):
    writer = OverlayWriter(tmp_path / "overlay.mp4", 48, 64, None)
    for grey in range(5):
        writer.add(np.full((48, 64, 3), grey, np.uint8), None)
    writer.finish()
    assert packets_of(tmp_path / "overlay.mp4") == ({Fraction(1, 25)}, pytest.approx([0, 0.04, 0.08, 0.12, 0.16]))
