"""Valid, tiny videos, images and masks."""

import io
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from numbered_videos import encode
from PIL import Image
from PIL.PngImagePlugin import PngInfo

WIDTH, HEIGHT, FRAMES = 48, 32, 5
SECRET_SIZE = (176, 208)  # height and width of the forbidden video
# With AVX-512, x264's macroblock tree is not deterministic for such small videos.
X264 = {"mbtree": "0"}
# Container, codec, its options and pixel format, options of the container.
VIDEO_FORMATS: tuple[tuple[str, str, dict[str, str], str, dict[str, str]], ...] = (
    ("mp4", "libx264", {**X264, "preset": "ultrafast", "g": "3"}, "yuv420p", {}),
    ("mp4", "libx264", {**X264, "bf": "2", "b-adapt": "0", "preset": "fast"}, "yuv420p", {}),
    ("mp4", "libx264", {**X264, "preset": "ultrafast", "g": "2"}, "yuv420p", {"movflags": "frag_keyframe+empty_moov"}),
    ("mov", "mpeg4", {}, "yuv420p", {}),
    ("matroska", "libx264", {**X264, "preset": "ultrafast", "g": "3"}, "yuv420p", {}),
    ("matroska", "ffv1", {}, "yuv420p", {}),
    ("webm", "libvpx", {"deadline": "realtime"}, "yuv420p", {}),
    ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, "yuv420p", {}),
    ("avi", "mpeg4", {}, "yuv420p", {}),
    ("avi", "mjpeg", {}, "yuvj420p", {}),
    ("gif", "gif", {}, "rgb8", {}),
    ("flv", "flv", {}, "yuv420p", {}),
    ("mpegts", "mpeg2video", {}, "yuv420p", {}),
    ("apng", "apng", {}, "rgb24", {}),
    ("nut", "rawvideo", {}, "yuv420p", {}),
)


def image(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 ``(H, W, 3)``: a bright square on a slope."""
    ground = np.linspace(30, 120, width, dtype=np.uint8)[None, :, None].repeat(height, 0).repeat(3, 2)
    ground[8:20, 4 + number : 18 + number] = (220, 60, 90)
    return ground


def video(
    form: str,
    codec: str,
    options: dict[str, str],
    pixels: str,
    more: dict[str, str],
    sound: float = 0.0,
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> bytes:
    def draw(number: int) -> np.ndarray:
        return image(number, *size)

    muxing = {"fflags": "+bitexact", **more}  # without Matroska's random ID
    return encode(codec, form, options, FRAMES, None, muxing, pixels, draw, sound=sound, rate=10)


def videos() -> Iterator[bytes]:
    for kind in VIDEO_FORMATS:
        # Empty if PyAV cannot write it, so that the other files keep their numbers.
        yield video(*kind) if kind[1] in av.codecs_available else b""
    yield video("matroska", "mpeg4", {}, "yuv420p", {}, sound=0.5)
    # Playlists for FFmpeg.
    yield b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n../outside/secret.ts\n#EXT-X-ENDLIST\n"
    yield b"ffconcat version 1.0\nfile secret.mp4\nduration 1\n"


def written(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def images() -> Iterator[bytes]:
    rgb = Image.fromarray(image(0))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "an image"
    text = PngInfo()
    text.add_text("Title", "an image", zip=True)
    deep = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 40
    yield written(rgb, "JPEG", exif=exif)
    yield written(rgb, "JPEG", progressive=True, quality=40)
    yield written(rgb.convert("CMYK"), "JPEG")
    yield written(rgb.convert("L"), "JPEG")
    yield written(rgb, "PNG", pnginfo=text, exif=exif)
    yield written(rgb.convert("RGBA"), "PNG")
    yield written(rgb.convert("P"), "PNG", transparency=3)
    yield written(Image.fromarray(deep), "PNG")
    yield written(rgb.convert("1"), "PNG")
    yield written(rgb.convert("LA"), "PNG")
    for form in ("GIF", "BMP", "TIFF", "PPM", "TGA", "WEBP", "ICO"):
        yield written(rgb, form)
    yield written(rgb, "TIFF", compression="tiff_lzw")
    yield written(rgb.convert("P"), "GIF", save_all=True, append_images=[rgb.convert("P")])


def masks() -> Iterator[bytes]:
    labels = Image.fromarray(label_map(1))
    labels.putpalette(bytes(range(256)) * 3)
    yield written(labels, "PNG")
    yield written(labels, "PNG", bits=2)
    yield written(Image.fromarray(label_map(1) * 100), "PNG")
    yield written(Image.fromarray(label_map(1).astype(np.uint16) * 300), "PNG")
    yield written(Image.fromarray(label_map(1) > 0), "PNG")
    yield written(Image.fromarray(image(0)), "PNG")


def label_map(number: int) -> np.ndarray:
    """uint8 ``(H, W)`` with objects 1 and 2."""
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    labels[8:20, 4 + number : 18 + number], labels[22:30, 30:40] = 1, 2
    return labels
