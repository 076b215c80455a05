"""Exported programs: changes to their files that know what is in them, and what reads them."""

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
from documents import json_values, places_in
from mutators import ANY_FILE
from pickles import COMMAND

# Operators, names and texts that reach beyond a program's tensors where a reader is careless.
CALL = f"__import__('os').system({COMMAND!r})"
TARGETS = (
    *("torch.ops.aten.from_file.default", "torch.ops.aten.set_.source_Storage", "torch.ops.aten.resize_.default"),
    *("torch.ops.aten.relu.default", "torch.ops.aten.fill_.Scalar", "torch.ops.aten.view.default", "torch.hub.load"),
    *("_operator.pow", "_operator.add", "math.factorial", "torch.ops.higher_order.cond", "torch.sym_max", "eval"),
)
ESCAPED = "".join(c if c.isalnum() or c == "_" else f"\\\nx{ord(c):02x}" for c in CALL)
SPEC = [1, {"type": "builtins.dict", "context": json.dumps([f"x={CALL}"]), "children_spec": []}]
TEXTS = (
    *("../outside/secret", f"x={CALL}", f'x"+{CALL}+"', CALL, "9**9**9", "Max(s0, 2)", "tanh", "self", "torch.x"),
    *(f"Abs('{ESCAPED}')", f"'{ESCAPED}' == 1", json.dumps(SPEC)),
)
PICTURE = np.zeros((20, 30, 3), dtype=np.uint8)


def members(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """A program with one entry changed, gone, twice or under another name: as JSON where it is JSON."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            content = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:  # damaged by the change before
        return data
    if not content:
        return data
    texts = [place for place, (name, _) in enumerate(content) if name.endswith(".json")]
    chosen = rng.choice(texts) if texts and rng.random() < 0.8 else rng.randrange(len(content))
    name, body = content[chosen]
    action = rng.randrange(10)
    if action == 0:
        del content[chosen]
    elif action == 1:
        content.append((rng.choice((name.upper(), f"{name}x", "../outside/x", "m/data/aotinductor/x.so")), body))
    elif name.endswith(".json"):
        content[chosen] = name, hostile_values(body, rng) if rng.random() < 0.4 else json_values(body, rng, ())
    elif body:
        content[chosen] = name, rng.choice(ANY_FILE)(body, rng, ())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for entry, bytes_of_it in content:
            out.writestr(zipfile.ZipInfo(entry), bytes_of_it)
    return buffer.getvalue()


def hostile_values(data: bytes, rng: Random) -> bytes:
    """JSON with another operator, or with a text that would be Python, or a file's name."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return data
    calls = [(holder, key) for holder, key in places_in(tree) if key == "target"]
    texts = [(holder, key) for holder, key in places_in(tree) if isinstance(holder[key], str)]
    for places, values in ((calls, TARGETS), (texts, TEXTS)):
        if places and rng.random() < 0.6:
            holder, key = rng.choice(places)
            holder[key] = rng.choice(values)
    return json.dumps(tree).encode()


def program(path: Path) -> None:
    from sam2fast.exported import load_program

    load_program(path)


def prepare(folder: Path) -> None:
    from small_artefact import write_small_artefact

    write_small_artefact(folder)


def predictor(path: Path) -> None:
    """A file of an artefact, which says how large its files are; and what is computed with it."""
    from small_artefact import artefact

    from sam2fast.exported import load_predictor

    if path.suffix == ".pt2":
        facts = json.loads(artefact()["artifact.json"])
        facts["sizes"][path.name] = path.stat().st_size
        (path.parent / "artifact.json").write_text(json.dumps(facts))
    loaded = load_predictor(path.parent)
    loaded.set_image(PICTURE)
    loaded.predict([[5, 5]], [1])
