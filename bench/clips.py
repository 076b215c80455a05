"""Writes clips with a moving pattern, as video files or folders of JPEG files."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

CODECS = {
    "h264": ("libx264", "mp4", {"preset": "veryfast"}),
    "hevc": ("libx265", "mp4", {"preset": "ultrafast", "x265-params": "log-level=none"}),
    "vp9": ("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "8"}),
}


def images(width: int, height: int, count: int) -> Iterator[np.ndarray]:
    """Yields pixels of a moving pattern with noise."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 128, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
    pattern, noise = blocks.repeat(16, 0).repeat(16, 1), rng.integers(0, 30, (height, width, 3), np.uint8)
    for i in range(count):
        yield np.roll(pattern, (3 * i, 5 * i), (0, 1))[:height, :width] + noise


def write_clip(folder: Path, codec: str, size: str, count: int) -> Path:
    """Writes a clip, or a folder of JPEG files, and returns its path."""
    width, height = map(int, size.split("x"))
    frames = images(width, height, count)
    if codec == "jpeg":
        path = folder / f"{size} jpeg"
        path.mkdir()
        for i, pixels in enumerate(frames):
            Image.fromarray(pixels).save(path / f"{i:05d}.jpg", quality=90)
        return path
    import av

    encoder, form, options = CODECS[codec]
    path = folder / f"{size} {codec}.{form}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())
    return path
