"""Changes to JSON and to the headers of safetensors files: as text and as values."""

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from saved_states import put_together, taken_apart

LONE_SURROGATE = "\ud800"
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 255, 256, 65_536, 2**31 - 1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 10**30),
    *(0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")),
    *("", "0", "1", "a", "a\0b", "..", "../outside/secret", "/outside/secret", "\u202e\u0301", LONE_SURROGATE),
    *("x" * 3000, [], {}, [[]], [None], [0], [1, 2], [2**40, 2**40], [-1, -1], [1e308, 1], [[], {}], ["0", "1"]),
    *({"a": 1}, {"": None}),
)
# Placeholders for text that is not a serialized value.
DEEP_LISTS, DEEP_MAPPINGS, LONG_NUMBER = "deepLists", "deepMappings", "longNumber"
DEPTH = 20_000


def changed_values(tree: Any, rng: Random) -> Any:
    """Replaces, removes, duplicates, renames or moves one to three values of a tree."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(places_in(tree))
        if not places:
            return any_value(rng)
        holder, key = rng.choice(places)
        action = rng.randrange(10)
        if action == 0:
            del holder[key]
        elif action == 1 and isinstance(holder, list):
            holder.insert(key, holder[key])
        elif action == 1:
            holder[rng.choice(("x", "", "0", LONE_SURROGATE, "_target_", "__metadata__"))] = holder.pop(key)
        elif action == 2:
            other, place = rng.choice(places)
            # A copy: the value may contain this position.
            holder[key] = json.loads(json.dumps(other[place])) if place in keys_of(other) else None
        elif action == 3 and isinstance(holder[key], int | float):
            value = holder[key]
            holder[key] = rng.choice((-value, value + 1, value - 1, value * 2, str(value), float(value), [value]))
        elif action == 4 and isinstance(holder[key], str):
            text = holder[key]
            holder[key] = rng.choice((text[:-1], text * 2, text[::-1], text + "0", "o" * len(text), f"~{text}", [text]))
        elif action == 5:
            holder[key] = rng.choice((DEEP_LISTS, DEEP_MAPPINGS, LONG_NUMBER))
        else:
            holder[key] = any_value(rng)
    return tree


def any_value(rng: Random) -> Any:
    return copy.deepcopy(rng.choice(VALUES))  # inserted values may be changed later


def places_in(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every value in nested lists and mappings, as its container and key."""
    for key in keys_of(tree):
        yield tree, key
        yield from places_in(tree[key])


def keys_of(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return list(tree)
    return list(range(len(tree))) if isinstance(tree, list) else []


def json_values(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Changes values of a JSON file or of one line of a JSON lines file."""
    lines = data.split(b"\n")
    place = rng.randrange(len(lines))
    try:
        tree = changed_values(json.loads(data), rng)
        lines = []
    except (ValueError, RecursionError):
        try:
            tree = changed_values(json.loads(lines[place]), rng)
        except (ValueError, RecursionError):
            return data
    text = _as_json(tree, rng)
    return b"\n".join((*lines[:place], text, *lines[place + 1 :])) if lines else text


def _as_json(tree: Any, rng: Random) -> bytes:
    # Some programs write non-ASCII characters unescaped, which is impossible for a lone surrogate.
    text = json.dumps(tree, ensure_ascii=rng.random() < 0.8)
    text = text.replace(f'"{DEEP_LISTS}"', "[" * DEPTH + "]" * DEPTH)
    text = text.replace(f'"{DEEP_MAPPINGS}"', '{"a":' * DEPTH + "1" + "}" * DEPTH)
    return text.replace(f'"{LONG_NUMBER}"', "9" * 6000).encode("utf-8", "surrogatepass")


def json_twice(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Duplicates a key with another value, adds a byte order mark, or changes the encoding."""
    action = rng.randrange(4)
    if action == 0:
        return b"\xef\xbb\xbf" + data
    if action == 1:
        return data.decode("latin-1").encode("utf-16")
    place = data.find(b'"', rng.randrange(max(len(data), 1)))
    end = data.find(b":", place)
    if place < 0 or end < 0:
        return data
    return data[:place] + data[place:end] + b": " + json.dumps(any_value(rng)).encode() + b", " + data[place:]


DTYPES = ("F32", "F16", "BF16", "F64", "I8", "U8", "I64", "U64", "BOOL", "F8_E4M3", "F8_E8M0", "F6_E2M3", "F4", "C64")

SHAPES = ([], [0], [2**32, 2**32], [2**63], [-1], [1, -4], [0, 2**62], ["4"], [1e3], None)


def safetensors_header(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Changes the header before the same bytes, mostly with a correct length."""
    length = int.from_bytes(data[:8], "little")
    try:
        tree = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        return data
    for _ in range(rng.choice((1, 1, 2))):
        entries = [entry for name, entry in tree.items() if name != "__metadata__" and isinstance(entry, dict)]
        if entries and rng.random() < 0.6:
            entry, action = rng.choice(entries), rng.randrange(3)
            if action == 0:
                entry["dtype"] = rng.choice((*DTYPES, "x", 1, None))
            elif action == 1:
                entry["shape"] = rng.choice(SHAPES)
            else:
                offsets = ([0, 0], [4, 0], [0, 2**63], [-4, 0], [0, len(data)], [1], [0.5, 4], None)
                entry["data_offsets"] = rng.choice(offsets)
        else:
            tree = changed_values(tree, rng)
            if not isinstance(tree, dict):
                break
    header = _as_json(tree, rng)
    length = rng.choice((len(header),) * 8 + (0, len(header) - 1, len(data), 2**40, 2**63))
    return length.to_bytes(8, "little") + header + data[8 + int.from_bytes(data[:8], "little") :]


def state_facts(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Changes the metadata of a saved state, with a correct digest."""
    try:
        facts, tensors = taken_apart(data)
    except Exception:  # damaged by an earlier change
        return data
    if rng.random() < 0.7:
        facts = changed_values(facts, rng)
    if rng.random() < 0.5:
        name = rng.choice(sorted(tensors))
        tensor = tensors.pop(name)
        kind = rng.randrange(6)
        if kind == 1:
            tensors[name] = tensor[..., :1].contiguous()
        elif kind == 2:
            tensors[name] = tensor.double()
        elif kind == 3:
            tensors[name] = tensor[None].contiguous()
        elif kind == 4:
            tensors[name] = tensor[:0].contiguous() if tensor.ndim else tensor[None]
        elif kind == 5:
            tensors["x"] = tensor
    text = _as_json(facts, rng).decode("utf-8", "replace")
    return put_together(text, tensors, None if rng.random() < 0.95 else hashlib.sha256(b"").hexdigest())
