"""Hostile pickles, and checkpoints that contain them."""

import io
import pickle
import warnings
import zipfile
from collections.abc import Sequence
from random import Random
from typing import Any

import torch
from hostile import Calls
from mutators import ANY_FILE

# The file that hostile code would create in the work folder.
CANARY = "EXECUTED"
COMMAND = f"touch {CANARY}"
PYTHON = f"open('{CANARY}', 'w')"


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    return b"X" + len(text.encode()).to_bytes(4, "little") + text.encode()


def _storage(key: str, count: bytes) -> bytes:
    return b"(" + _text("storage") + _global("torch", "FloatStorage") + _text(key) + _text("cpu") + count + b"tQ."


def hostile_pickles() -> list[bytes]:
    """Programs for the pickle machine: function calls by every opcode, and broken programs."""
    import os
    import subprocess

    whole = [
        pickle.dumps(Calls(function, *arguments), protocol)
        for function, *arguments in (
            (os.system, COMMAND),
            (eval, PYTHON),
            (exec, PYTHON),
            (subprocess.call, COMMAND.split()),
            (__import__, "this"),
            (os.popen, COMMAND),
        )
        for protocol in range(5)
    ]
    argument = b"(" + _text(COMMAND) + b"t"
    by_hand = [
        _global("posix", "system") + argument + b"R.",
        b"(" + _text(COMMAND) + b"iposix\nsystem\n.",  # INST
        b"(" + _global("posix", "system") + _text(COMMAND) + b"o.",  # OBJ
        _global("posix", "system") + argument + b"\x81.",  # NEWOBJ
        _global("posix", "system") + argument + b"}\x92.",  # NEWOBJ_EX
        _text("posix") + _text("system") + b"\x93" + argument + b"R.",  # STACK_GLOBAL
        _global("torch", "load") + argument + b"R.",
        _global("torch.utils.cpp_extension", "load") + argument + b"R.",
        _global("torch.serialization", "os.system") + argument + b"R.",
        _global("collections", "OrderedDict") + b")R}(" + _text("__class__") + _text("os") + b"ub.",  # BUILD
        _global("collections", "OrderedDict") + b"(" + _text("abc") + b"tR.",
        _global("torch", "Tensor") + b")\x81.",
        _global("torch._utils", "_rebuild_tensor_v2") + b"(N(K\x01tJ\xff\xff\xff\x7ftR.",
        _global("torch._utils", "_rebuild_parameter") + b"(NNNtR.",
        _global("torch._tensor", "_rebuild_from_type_v2") + b"(NNNNtR.",
        _global("torch", "Size") + b"((K\x01K\x02ttR.",
        _global("torch", "device") + b"(" + _text("cuda:99") + b"tR.",
        _global("torch", "FloatStorage") + b"(J\xff\xff\xff\x7ftR.",
        b"\x82\x01.",  # EXT1
        b"P123\n.",  # PERSID
        b"K\x01Q.",  # BINPERSID of a number
        b"(" + _text("storage") + b"tQ.",
        _storage("../../x", b"K\x04"),
        _storage("0", b"J\xff\xff\xff\xff"),
        _storage("0", b"\x8a\x08" + bytes(7) + b"\x10"),
        b"g99\n.",  # GET of nothing
        b"h\x63.",
        b"0.",  # POP of nothing
        b"R.",
        b"u.",
        b"a.",
        b"(" * 2000 + b"t" * 2000 + b".",
        b"]" * 2000 + b"a" * 1999 + b".",
        b"N" * 5000 + b".",
        b"X\xff\xff\xff\x7f.",  # a string of 2 GiB
        b"\x8d" + (1 << 62).to_bytes(8, "little") + b".",
        b"\x8b\xff\xff\xff\x7f.",  # LONG4
        b"X\x04",  # ends within a length
        b"\x95\x01",
        b"}(" + _text("model") + b"K\x01u.",
        b"}(K\x01K\x02u.",
        b"}(" + _text("model") + b"}" + b"u.",
        b"}(" + _text("model") + b"h\0u.",  # itself, if memoized
        b"}q\0(" + _text("model") + b"h\0u.",
        b".",
    ]
    return whole + [b"\x80\x02" + program for program in by_hand]


def other_checkpoints() -> list[Any]:
    """Checkpoints that ``torch.save`` writes but no model has: unusual tensors, names and nesting."""
    plain = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "sparse": plain.to_sparse(),
        "sparse_csr": plain.to_sparse_csr(),
        "meta": torch.empty(3, 4, device="meta"),
        "huge_meta": torch.empty(1 << 40, device="meta"),
        "complex": torch.zeros(3, 4, dtype=torch.complex64),
        "quantised": torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8),
        "bool": plain > 2,
        "integer": plain.long(),
        "expanded": torch.zeros(1).expand(1 << 40),
        "of no elements": torch.zeros(0, 3),
        "scalar": torch.tensor(1.0),
        "parameter": torch.nn.Parameter(plain),
        "conjugate": torch.zeros(3, 4, dtype=torch.complex64).conj(),
        "float8": plain.to(torch.float8_e4m3fn),
        "nested": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    }
    names = ("weight", "image_encoder.trunk.patch_embed.proj.weight", "vision_encoder.backbone.pos_embed")
    odd: list[Any] = [{"model": {name: tensor}} for tensor in tensors.values() for name in names]
    odd += [{name: tensor} for name, tensor in tensors.items()]
    odd += [{1: plain}, {None: plain}, {(1, 2): plain}, {b"weight": plain}, {"model": {3: plain}}, {"\ud800": plain}]
    odd += [plain, [plain], {}, {"model": {}}, {"model": None}, {"model": {"model": {"weight": plain}}}, "text", 7]
    odd += [{"model": {"image_encoder.trunk.blocks.": plain, names[1]: torch.zeros(32, 3, 7, 7)}}]
    odd += [{"image_encoder.trunk.blocks.0" * 100: plain}, {"": plain}, {"weight": plain, "state_dict": {"weight": 1}}]
    odd += [{"model": plain, "optimizer": {}, "steps": 1}, {"model": 1, "optimizer": 2, "steps": "3"}]
    return odd


def saved(content: Any, *, zipped: bool = True) -> bytes:
    """The bytes of ``torch.save``, in the current format or that before 1.6."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def members(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Changes, removes, duplicates or renames one member of a zip file, with correct checksums."""
    return _rezipped(data, rng, None)


def hostile_member(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Replaces the pickle of a zip file by a hostile one."""
    return _rezipped(data, rng, rng.choice(HOSTILE))


def hostile_file(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """A hostile pickle, alone or after the beginning of an old checkpoint."""
    beginning = rng.choice((b"", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)))
    return beginning + rng.choice(HOSTILE)


def odd_checkpoint(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    return saved(rng.choice(ODD), zipped=rng.random() < 0.7)


def _rezipped(data: bytes, rng: Random, program: bytes | None) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            content = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:  # damaged by an earlier change
        return data
    chosen = rng.randrange(len(content)) if content else -1
    buffer = io.BytesIO()
    packing = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(buffer, "w", packing) as out:
        for place, (name, body) in enumerate(content):
            if program is not None and name.endswith("data.pkl"):
                body = program
            elif program is None and place == chosen:
                action = rng.randrange(6)
                if action == 0:
                    continue
                if action == 1:
                    name = rng.choice(("../outside/x", "/tmp/x", "archive/data.pkl", name.upper(), ""))
                if action > 1 and body:
                    body = rng.choice(ANY_FILE)(body, rng, ())
            out.writestr(zipfile.ZipInfo(name or "x"), body)
    return buffer.getvalue()


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # some kinds of tensors are new, others are deprecated
    HOSTILE, ODD = hostile_pickles(), other_checkpoints()
