"""Encodes large PNG files. Strips of rows are computed and compressed in threads."""

import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from sam2fast.utils.cores import available_cores

STRIP_BYTES = 1 << 23  # bytes of pixels per strip
LEVEL = 1  # zlib's level, since higher levels take several times longer but hardly compress photographs better
SIGNATURE = b"\x89PNG\r\n\x1a\n"
ZLIB_HEADER = b"\x78\x01"
GREY, RGB, PALETTE = 0, 2, 3  # colour types
NO_FILTER, SUB = 0, 1  # filters of a row: unchanged, or differences to the pixel on the left


def encode_png(pixels: np.ndarray, palette: np.ndarray | None = None) -> bytes:
    """Returns a PNG file.

    Args:
        pixels: Grey values ``(H, W)`` uint8 or uint16, indices ``(H, W)`` uint8, or RGB values ``(H, W, 3)`` uint8.
        palette: RGB colours ``(N, 3)`` uint8 of the indices, or None.
    """
    return encode_rows(lambda start, stop: pixels[start:stop], pixels.shape, pixels.dtype, palette)


def encode_image(image: Image.Image) -> bytes:
    """Returns a PNG file of an RGB image."""

    def rows(start: int, stop: int) -> np.ndarray:
        return np.asarray(image.crop((0, start, image.width, stop)))

    return encode_rows(rows, (image.height, image.width, 3), np.dtype(np.uint8))


def encode_rows(
    rows: Callable[[int, int], np.ndarray],
    shape: tuple[int, ...],
    dtype: np.dtype,
    palette: np.ndarray | None = None,
) -> bytes:
    """Returns the file of :func:`encode_png`. Computes strips of rows, ``rows(start, stop)``, in several threads."""
    height, width = shape[:2]
    colour = PALETTE if palette is not None else RGB if len(shape) == 3 else GREY
    step = max(1, STRIP_BYTES // (width * dtype.itemsize * (3 if colour == RGB else 1)))
    starts = range(0, height, step)

    def strip(start: int) -> tuple[bytes, bytes]:
        stop = min(start + step, height)
        lines = _filtered(rows(start, stop))
        packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, strategy=zlib.Z_RLE)
        # Each strip ends at a whole byte, so that concatenated strips are one stream.
        packed = packer.compress(lines) + packer.flush(zlib.Z_FINISH if stop == height else zlib.Z_FULL_FLUSH)
        return _chunk(b"IDAT", packed), lines

    head = struct.pack(">IIBBBBB", width, height, 8 * dtype.itemsize, colour, 0, 0, 0)
    chunks = [SIGNATURE, _chunk(b"IHDR", head)]
    if palette is not None:
        chunks.append(_chunk(b"PLTE", palette.tobytes()))
    checksum = 1
    chunks.append(_chunk(b"IDAT", ZLIB_HEADER))
    with ThreadPoolExecutor(available_cores()) as pool:
        for chunk, lines in (pool.map if len(starts) > 1 else map)(strip, starts):
            chunks.append(chunk)
            checksum = zlib.adler32(lines, checksum)
    return b"".join([*chunks, _chunk(b"IDAT", struct.pack(">I", checksum)), _chunk(b"IEND", b"")])


def _filtered(rows: np.ndarray) -> bytes:
    """Returns rows as input of PNG's compression: each row begins with the number of its filter."""
    height, width = rows.shape[:2]
    if rows.ndim == 3:
        flat = rows.reshape(height, 3 * width)
        lines = np.empty((height, 1 + 3 * width), dtype=np.uint8)
        lines[:, 0], lines[:, 1:4] = SUB, flat[:, :3]
        np.subtract(flat[:, 3:], flat[:, :-3], out=lines[:, 4:])
        return lines.tobytes()
    values = np.ascontiguousarray(rows.astype(rows.dtype.newbyteorder(">"), copy=False)).view(np.uint8)
    lines = np.empty((height, 1 + values.shape[1]), dtype=np.uint8)
    lines[:, 0], lines[:, 1:] = NO_FILTER, values
    return lines.tobytes()


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(name))
    return b"".join([struct.pack(">I", len(content)), name, content, struct.pack(">I", checksum)])
