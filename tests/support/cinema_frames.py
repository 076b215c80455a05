"""Writes OpenEXR and DPX files by FFmpeg."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

LINEAR, LOGARITHMIC, REC_709 = 2, 3, 6
TRANSFER = 801  # its place in the header of DPX


def encoded(codec: str, values: np.ndarray, pixel_format: str, **options: str) -> bytes:
    """A file with these values, in an order of channels that PyAV knows."""
    context = av.CodecContext.create(codec, "w")
    context.height, context.width, context.pix_fmt = *values.shape[:2], pixel_format
    context.time_base, context.options = Fraction(1, 24), options
    frame = av.VideoFrame.from_ndarray(values, format=pixel_format)
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


def exr(values: np.ndarray, half: bool = True, compression: str = "zip16") -> bytes:
    """Linear light ``(H, W, 3)`` as an EXR file."""
    kind = "half" if half else "float"
    return encoded("exr", values.astype(np.float32), "gbrpf32le", format=kind, compression=compression)


def dpx(codes: np.ndarray, transfer: int, creator: bytes = b"a scanner") -> bytes:
    """Codes ``(H, W, 3)`` of 10 bits as a DPX file."""
    content = bytearray(encoded("dpx", codes.astype(np.uint16), "gbrp10be"))
    content[160:260], content[TRANSFER] = creator.ljust(100, b"\0"), transfer
    return bytes(content)


def write_shot(folder: Path, frames: list[bytes], suffix: str) -> Path:
    """Writes a folder with the numbered files of a shot."""
    folder.mkdir()
    for number, content in enumerate(frames, 1001):
        (folder / f"shot.{number}.{suffix}").write_bytes(content)
    return folder


def srgb(light: np.ndarray) -> np.ndarray:
    """Linear light as IEC 61966-2-1 shows it on a screen of 8 bits."""
    light = np.clip(np.asarray(light, np.float64), 0, 1)
    return np.rint(255 * np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055))
