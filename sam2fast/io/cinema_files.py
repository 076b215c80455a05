"""Reads OpenEXR and DPX files, which contain frames of cinema. FFmpeg decodes these files, since Pillow cannot."""

import re
import struct
from functools import cache
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sam2fast.io.value_scale import Scale

EXR, DPX = b"\x76\x2f\x31\x01", (b"SDPX", b"XPDS")
HAS_PARTS = 0x10  # flag of EXR files with several parts
DWA, DWA_SINCE = (b"\x08", b"\x09"), 17  # compressions, and first PyAV that decodes them; older PyAV returns black
DPX_HEADER = 1634  # minimum bytes that FFmpeg requires
PRINTING_DENSITY, LINEAR, LOGARITHMIC = 1, 2, 3  # transfer characteristics of DPX
VIDEO = range(4, 11)
LOG_BLACK, LOG_WHITE, LOG_STEPS = 95, 685, 300  # 10-bit codes of black and white, and codes per factor of 10
# Names of FFmpeg's pixel formats: letters of the channels, f for floats, number of bits, and byte order.
PIXEL_FORMAT = re.compile(r"(gbra?p|gray|ya|rgba?|abgr)(f?)\d*(be)?(?:le)?")


class CinemaFile(NamedTuple):
    """An EXR or DPX file with a valid header."""

    codec: str  # name of FFmpeg's decoder
    content: bytes
    width: int
    height: int
    transfer: int  # transfer characteristic of DPX; LINEAR for EXR
    remark: str  # description of the values for notes; empty for values of video
    advice: str  # advice for files that cannot be decoded
    since: int = 0  # oldest PyAV that decodes the file

    @property
    def is_linear(self) -> bool:
        """True if :meth:`decode` returns linear light."""
        return self.transfer in (PRINTING_DENSITY, LINEAR, LOGARITHMIC)

    def decode(self) -> NDArray[Any]:
        """Returns values ``(H, W)`` or ``(H, W, 3)`` without alpha: linear light as floats (white is 1), or uint8.

        Raises ValueError if the file cannot be decoded, or PyAV is missing.
        """
        try:
            import av
        except ImportError as error:
            raise ValueError("it is decoded by PyAV: pip install 'sam2fast[video]' to read it") from error
        if int(av.__version__.split(".")[0]) < self.since:
            raise ValueError(
                f"its compression, DWAA or DWAB, is decoded by PyAV {self.since} or newer, and this is PyAV "
                f"{av.__version__}: pip install 'av>={self.since}', or compress it by ZIP"
            )
        decoder: Any = av.CodecContext.create(self.codec, "r")
        try:
            frame = [*decoder.decode(av.Packet(self.content)), *decoder.decode(None)][0]
        except (av.FFmpegError, IndexError) as error:
            why = getattr(error, "strerror", error)
            raise ValueError(f"FFmpeg cannot decode it ({why}); {self.advice}") from error
        values, bits = _read_planes(frame)
        if values.dtype.kind == "f":
            return values
        if not self.is_linear:
            return np.rint(values * np.float32(255 / (2**bits - 1))).astype(np.uint8)
        if self.transfer == LINEAR:
            return values / np.float32(2**bits - 1)
        return _light_of_codes(bits)[values]


def read_cinema_file(stream: BinaryIO) -> CinemaFile | None:
    """Reads the header of an EXR or DPX file. Returns None for other files.

    Raises ValueError or LookupError if the file is damaged or incomplete.
    """
    stream.seek(0)
    magic = stream.read(4)
    stream.seek(0)
    if magic != EXR and magic not in DPX:
        return None
    file = (_read_exr if magic == EXR else _read_dpx)(stream.read())
    if file.width < 1 or file.height < 1:
        raise ValueError(f"its header says {file.width}x{file.height} pixels")
    return file


def show_light(values: NDArray[Any], scale: Scale) -> NDArray[np.uint8]:
    """Converts linear light to 8 bits by the curve of sRGB. Values beyond the scale are clipped, and NaN is black."""
    with np.errstate(invalid="ignore", over="ignore"):  # NaN, infinity, and values beyond half floats
        if scale != (0, 1):
            values = (values.astype(np.float32) - scale.black) / (scale.white - scale.black)
        return _srgb_of_halfs()[values.astype(np.float16).view(np.uint16)]


@cache
def _srgb_of_halfs() -> NDArray[np.uint8]:
    """Returns a table of sRGB values of all 65,536 half floats."""
    light = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    light = np.nan_to_num(light, nan=0).clip(0, 1)
    shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * shown).astype(np.uint8)


@cache
def _light_of_codes(bits: int) -> NDArray[np.float32]:
    """Returns a table of linear light of Cineon's logarithmic codes."""
    codes = np.arange(1 << bits) * (1023 / (2**bits - 1))
    black = 10 ** ((LOG_BLACK - LOG_WHITE) / LOG_STEPS)
    return ((10 ** ((codes - LOG_WHITE) / LOG_STEPS) - black) / (1 - black)).astype(np.float32)


def _read_planes(frame: Any) -> tuple[NDArray[Any], int]:
    """Returns the grey or RGB values of a decoded frame, and the number of bits of a value."""
    match = PIXEL_FORMAT.fullmatch(frame.format.name)
    if match is None:
        raise ValueError(f"its pixels have FFmpeg's format {frame.format.name}; convert it to RGB")
    channels, is_float, big = match.groups()
    bits = frame.format.components[0].bits
    kind = np.dtype(f"{'>' if big else '<'}{'f' if is_float else 'u'}{(bits + 7) // 8}")
    planes = [
        np.frombuffer(plane, kind).reshape(frame.height, plane.line_size // kind.itemsize)
        for plane in frame.planes[: 3 if channels.startswith("gbr") else 1]
    ]
    if len(planes) == 3:
        values = np.stack([planes[i][:, : frame.width] for i in (2, 0, 1)], axis=2)
    else:
        count = {"gray": 1, "ya": 2}.get(channels, len(channels))
        pixels = planes[0][:, : frame.width * count].reshape(frame.height, frame.width, count)
        values = pixels[..., 0] if count < 3 else pixels[..., [channels.index(name) for name in "rgb"]]
    return values.astype(kind.newbyteorder("=")), bits


def _read_dpx(content: bytes) -> CinemaFile:
    order = ">" if content.startswith(DPX[0]) else "<"
    if len(content) < DPX_HEADER:
        raise ValueError("it is truncated")
    width, height = struct.unpack_from(f"{order}II", content, 772)
    transfer = content[801]
    if transfer == LINEAR and content[160:].startswith(b"Lavc"):  # older FFmpeg wrote LINEAR into every file
        transfer = 0
    remarks = dict.fromkeys(VIDEO, "")
    remarks |= {LINEAR: "is linear", LOGARITHMIC: "is logarithmic", PRINTING_DENSITY: "is logarithmic"}
    remark = remarks.get(transfer, "has a header without its curve, so its values are shown unchanged")
    return CinemaFile("dpx", content, width, height, transfer, remark, "convert it to 10-bit RGB, or to PNG")


def _read_exr(content: bytes) -> CinemaFile:
    try:
        parts, at = _read_exr_parts(content)
        x0, y0, x1, y1 = struct.unpack("<4i", parts[0]["displayWindow"])
        names = parts[0]["channels"].decode("latin-1")
    except (ValueError, KeyError, struct.error) as error:
        raise ValueError("its header is damaged or truncated") from error
    _check_chunks(content, at, parts)
    channels = ", ".join(re.findall(r"([^\0]+)\0.{16}", names, re.DOTALL))
    advice = (
        f"its channels are {channels}; convert it to R, G and B of half floats with ZIP compression, for example by "
        "oiiotool in.exr --ch R,G,B -d half --compression zip -o out.exr"
    )
    since = DWA_SINCE if parts[0].get("compression") in DWA else 0
    return CinemaFile("exr", content, x1 - x0 + 1, y1 - y0 + 1, LINEAR, "is scene-linear", advice, since)


def _read_exr_parts(content: bytes) -> tuple[list[dict[str, bytes]], int]:
    """Returns the attributes of each part, and the offset of the table of chunks."""
    parts: list[dict[str, bytes]] = [{}]
    at, has_parts = 8, bool(content[5] & HAS_PARTS)
    while True:
        end = content.index(b"\0", at)
        name, at = content[at:end].decode("latin-1"), end + 1
        if not name:
            if has_parts and parts[-1]:
                parts.append({})
                continue
            return parts, at
        at = content.index(b"\0", at) + 1  # skips the attribute's type
        (size,) = struct.unpack_from("<I", content, at)
        parts[-1][name] = content[at + 4 : at + 4 + size]
        at += 4 + size


def _check_chunks(content: bytes, at: int, parts: list[dict[str, bytes]]) -> None:
    """Raises ValueError if chunks of pixels are missing. FFmpeg would show missing chunks as black."""
    table = np.frombuffer(content[at : at + (len(content) - at) // 8 * 8], "<u8")
    first = np.minimum.accumulate(table)  # the table ends where the first chunk begins
    ends = at + 8 * np.arange(1, len(table) + 1)
    offsets = table[: int(np.argmax(ends >= first)) + 1]
    last = int(offsets.max(initial=0))
    is_whole = len(offsets) and offsets.min() > 0 and last < len(content)
    if is_whole:
        has_parts = bool(content[5] & HAS_PARTS)
        part = int.from_bytes(content[last : last + 4], "little") if has_parts else 0
        last += 4 * has_parts + (16 if "tiles" in parts[part] else 4)
        is_whole = last + 4 + int.from_bytes(content[last : last + 4], "little") <= len(content)
    if not is_whole:
        raise ValueError("it is truncated, or was not written to its end")
