"""Small videos of moving shapes, for tests of tracking."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

FRAMES, HEIGHT, WIDTH = 12, 48, 64


def square_at(frame: int) -> tuple[int, int, int, int]:
    """Corners (x0, y0, x1, y1), the last ones exclusive, of the bright square on a frame."""
    x, y = 6 + 2 * frame, 10 + frame
    return x, y, x + 20, y + 18


def disc_at(frame: int) -> tuple[int, int, int]:
    """Middle (x, y) and radius of the red disc, which comes to overlap the square."""
    return 50 - frame, 34, 8


def make_frames(count: int = FRAMES, height: int = HEIGHT, width: int = WIDTH) -> list[np.ndarray]:
    """Frames ``(H, W, 3)`` uint8 of a square and a disc that move on a dull background."""
    rng = np.random.default_rng(0)
    ground = rng.integers(40, 70, (height, width, 3), dtype=np.uint8)
    rows, columns = np.mgrid[:height, :width]
    frames = []
    for t in range(count):
        image = ground.copy()
        x, y, radius = disc_at(t)
        image[(columns - x) ** 2 + (rows - y) ** 2 <= radius**2] = (200, 30, 30)
        x0, y0, x1, y1 = square_at(t)
        image[y0:y1, x0:x1] = (230, 220, 60)
        frames.append(image)
    return frames


def write_video(path: Path, frames: Sequence[np.ndarray], times: Sequence[float] | None = None) -> Path:
    """An H.264 file, hardly lossy; ``times`` in seconds, by default at 25 frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = [t / 25 for t in range(len(frames))] if times is None else times
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "12", "bf": "2"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.gop_size = "yuv420p", 5
        stream.codec_context.time_base = Fraction(1, 1000)
        for image, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def jpeg_folder(folder: Path, frames: Sequence[np.ndarray]) -> Path:
    """Writes a folder of numbered JPEG files, which the official predictor also reads."""
    folder.mkdir(parents=True, exist_ok=True)
    for t, image in enumerate(frames):
        Image.fromarray(image).save(folder / f"{t:05d}.jpg", quality=95)
    return folder


def decoded(path: Path) -> tuple[list[np.ndarray], list[float]]:
    """The frames of a video as RGB, and the times at which they are shown, in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        return [f.to_ndarray(format="rgb24") for f in frames], [float(f.pts * stream.time_base) for f in frames]
