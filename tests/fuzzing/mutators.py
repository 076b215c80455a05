"""Mutations of files with little knowledge of their format. All choices come from the given generator."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from random import Random
from typing import Literal, NamedTuple

# Values for lengths, counts and offsets: signs, powers of two, and their neighbours.
BOUNDARIES = (
    *(0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF),
    *(1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
)
MOST_BYTES = 200_000  # maximum size of a mutated file

# Maps a file, the generator and other files of its kind to the changed file.
Mutator = Callable[[bytes, Random, Sequence[bytes]], bytes]


def change_bytes(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Flips bits, cuts the end off, or replaces a span by nothing, repeats, another span, zeros, ones or noise."""
    kind, (start, end) = rng.randrange(5), _span(data, rng)
    if kind == 0:
        out = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
        return bytes(out)
    if kind == 1:
        return data[: rng.randrange(len(data))]
    other = rng.choice((data, *others))
    first, last = _span(other, rng)
    size = rng.choice((0, end - start, 1, 64))
    new = (b"", data[start:end] * rng.choice((2, 4, 21)), other[first:last], bytes(size), b"\xff" * size)
    return data[:start] + rng.choice((*new, rng.randbytes(size))) + data[end:]


def splice(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Joins the beginning of this file and the end of another one."""
    other = rng.choice((data, *others))
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def set_integer(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Sets an integer of 1 to 8 bytes, of either byte order, to a boundary or to its value plus or minus one."""
    width = rng.choice((1, 2, 4, 4, 8))
    if len(data) < width:
        return data
    # Sizes and counts are in headers, mostly at the beginning.
    limit = len(data) - width + 1
    place = rng.randrange(min(limit, 64)) if rng.random() < 0.4 else rng.randrange(limit)
    order: Literal["big", "little"] = rng.choice(("big", "little"))
    before = int.from_bytes(data[place : place + width], order)
    value = rng.choice((*BOUNDARIES, before + 1, before - 1, before * 2, before // 2, len(data)))
    value &= (1 << 8 * width) - 1
    return data[:place] + value.to_bytes(width, order) + data[place + width :]


ANY_FILE: tuple[Mutator, ...] = (*[change_bytes] * 7, splice, *[set_integer] * 2)


def mutate(data: bytes, rng: Random, others: Sequence[bytes], structured: Sequence[Mutator]) -> bytes:
    """Applies one to three changes, about half of them format-aware."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not data:
            break
        known = structured and rng.random() < 0.6
        data = rng.choice(structured if known else ANY_FILE)(data, rng, others)[:MOST_BYTES]
    return data


def _span(data: bytes, rng: Random) -> tuple[int, int]:
    """A random span; short ones are more likely."""
    start = rng.randrange(len(data) + 1)
    return start, min(start + rng.choice((1, 2, 4, 8, 32, 256, len(data))), len(data))


class Piece(NamedTuple):
    """A box, chunk or segment: its name and content."""

    name: bytes
    body: bytes


def rearranged(pieces: list[Piece], rng: Random) -> list[Piece]:
    """Duplicates, removes, moves, renames or changes a piece."""
    if not pieces:
        return pieces
    pieces, place = list(pieces), rng.randrange(len(pieces))
    piece, action = pieces[place], rng.randrange(8)
    if action == 0:
        pieces.insert(place, piece)
    elif action == 1:
        del pieces[place]
    elif action == 2:
        pieces.insert(rng.randrange(len(pieces)), pieces.pop(place))
    elif action == 3:
        pieces[place] = Piece(rng.choice(pieces).name, piece.body)
    elif piece.body:
        pieces[place] = Piece(piece.name, rng.choice((*ANY_FILE, set_integer, set_integer))(piece.body, rng, ()))
    return pieces


def png_chunks(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Changes chunks, with correct checksums."""
    pieces, place = [], 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        pieces.append(Piece(data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    out = data[:8]
    for name, body in rearranged(pieces, rng):
        out += len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")
    return out


def png_claims(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Changes the size or color type of a PNG's header, with a correct checksum."""
    if data[12:16] != b"IHDR":
        return data
    width, height = (rng.choice((0, 1, 3, 9_000, 13_300, 100_000, 0x7FFFFFFF)) for _ in range(2))
    kind = bytes((rng.choice((1, 2, 4, 8, 16, 33)), rng.choice((0, 2, 3, 4, 6, 7)), 0, 0, rng.randrange(2)))
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + kind
    return data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]


def png_text_bomb(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Adds a text or colour profile that decompresses to a hundred megabytes."""
    name, head = rng.choice(((b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")))
    chunk = name + head + _packed_zeros()
    return data[:33] + (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + data[33:]


@cache
def _packed_zeros() -> bytes:
    return zlib.compress(bytes(100_000_000), 1)


def jpeg_segments(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Changes segments before the pixels."""
    pieces, place = [], 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        pieces.append(Piece(data[place : place + 2], data[place + 4 : place + 2 + length]))
        place += 2 + length
    out = data[:2]
    for name, body in rearranged(pieces, rng):
        body = body[:65_000]
        out += name + (len(body) + 2).to_bytes(2, "big") + body
    return out + data[place:]


BOXES_OF_BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"mvex", b"udta", b"dinf")


def boxes(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Changes a box of an MP4 at some depth, and corrects the lengths of the enclosing boxes."""
    pieces = list(_boxes_in(data))
    inner = [place for place, piece in enumerate(pieces) if piece.name in BOXES_OF_BOXES]
    if inner and rng.random() < 0.85:
        place = rng.choice(inner)
        pieces[place] = Piece(pieces[place].name, boxes(pieces[place].body, rng, others))
    else:
        pieces = rearranged(pieces, rng)
    return b"".join((len(body) + 8).to_bytes(4, "big") + name + body for name, body in pieces)


def _boxes_in(data: bytes) -> Iterator[Piece]:
    place = 0
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        if size < 8:
            break
        yield Piece(data[place + 4 : place + 8], data[place + 8 : place + size])
        place += size


def elements(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Changes the length or a byte after a Matroska element ID of sizes, times, codecs or tracks."""
    names: tuple[bytes, ...] = (
        *(b"\x18\x53\x80\x67", b"\x15\x49\xa9\x66", b"\x16\x54\xae\x6b", b"\xae", b"\xe0", b"\xb0", b"\xba", b"\x86"),
        *(b"\x2a\xd7\xb1", b"\x44\x89", b"\x1f\x43\xb6\x75", b"\xa3", b"\xe7", b"\x63\xa2", b"\x1c\x53\xbb\x6b"),
    )
    place = data.find(rng.choice(names), rng.randrange(max(len(data) // 4, 1)))
    if place < 0:
        return data
    place += rng.randrange(1, 8)
    return data[:place] + bytes((rng.choice((0, 1, 0x10, 0x40, 0x7F, 0x80, 0x81, 0xFE, 0xFF)),)) + data[place + 1 :]
