"""Small videos with sound."""

from fractions import Fraction
from pathlib import Path

import av
import moving_shapes
import numpy as np

RATE, SIZE = 25, (48, 64)


def write_with_sound(
    path: Path, seconds: float = 1.0, audio: str = "aac", frames: int = 25, delay: float = 0.0, pixel_aspect: int = 1
) -> Path:
    """A video of moving shapes with a tone of 440 Hz after a delay; its container follows from the name."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libvpx" if path.suffix == ".webm" else "libx264", rate=RATE)
        video.height, video.width, video.pix_fmt = *SIZE, "yuv420p"
        video.sample_aspect_ratio = Fraction(pixel_aspect)
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
