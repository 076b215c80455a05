"""Exported programs from elsewhere: what in their files torch would run as Python, and no export of ours holds."""

import ast
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sam2fast.exported.errors import ArtifactError

# What nodes of a graph may call: operators, and Python's arithmetic of sizes. Not torch.hub.load, say.
TARGETS = re.compile(
    r"torch\.ops\.\w+\.\w+(\.\w+)?|math\.\w+|torch\.sym_\w+|torch\._check\w*|"
    r"_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
)
# Entries that torch turns into Python code, or evaluates by way of sympy.
EXPRESSIONS = ("expr_str", "guards_code")
# All that torch.export.save writes of our programs: since 2.8 below a folder, before that not. Others are native code,
# pickles under names of no meaning, or objects that bring their own way of being unpickled.
ENTRY = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|(\.data/)?version|\.data/serialization_id|models/model\.json|"
    r"data/(sample_inputs/model\.pt|weights/(model\.pt|weight_\d+|model_weights_config\.json)|"
    r"constants/(model\.pt|tensor_\d+|model_constants_config\.json)))|"
    r"version|serialized_exported_program\.json|serialized_(state_dict|constants|example_inputs)\.pt"
)
RAW = re.compile(r"(weight|tensor)_\d+")  # entries that are a tensor's bytes
CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")  # of arguments and results
SYMBOL = re.compile(r"[A-Za-z_]*\d+")
FUNCTIONS = frozenset(
    (
        *("Max", "Min", "Mod", "PythonMod", "FloorDiv", "CeilDiv", "CleanDiv", "ModularIndexing", "IntTrueDiv"),
        *("FloatTrueDiv", "TruncToInt", "FloorToInt", "CeilToInt", "RoundToInt", "ToFloat", "Where", "PowByNatural"),
        *("Eq", "Ne", "Ge", "Le", "Gt", "Lt", "And", "Or", "Not", "Identity", "oo", "int_oo", "L"),
        *("Equality", "Unequality", "GreaterThan", "LessThan", "StrictGreaterThan", "StrictLessThan", "Abs"),
        *("Symbol", "Integer", "Rational", "Float", "Add", "Mul", "Pow", "true", "false"),  # as sympy writes them
    )
)
# A text as an argument would be evaluated in its turn.
NAME = re.compile(r"[\w.+-]*")
SIZES = frozenset(("size", "stride", "shape", "storage_offset"))
ARITHMETIC = (
    *(ast.Expression, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Call, ast.Constant, ast.Name, ast.Attribute),
    *(ast.Subscript, ast.Load, ast.keyword, ast.boolop, ast.operator, ast.unaryop, ast.cmpop),
)


def check_program(path: str | Path) -> None:
    """Refuses the file of an exported program that would run code while it is loaded or used.

    torch reads such a file as its own: it unpickles objects of any kind, evaluates the text of sizes as Python, and
    calls whatever functions the graph names. A file is still a program: what operators compute is not looked at.

    Raises:
        ArtifactError: there is such code in it, or it is damaged.
    """
    try:
        for entries in (_as_python_reads(path), _as_torch_reads(path)):
            seen: set[str] = set()
            for name, read in entries:
                # torch finds entries whatever their case, and takes another one of the same name than Python does.
                if not ENTRY.fullmatch(name) or name.casefold() in seen:
                    raise ArtifactError(
                        f"{path} holds more than an exported program ({name}), which could be code, and was not loaded"
                    )
                seen.add(name.casefold())
                if name.endswith(".pt"):
                    _check_pickle(path, name, read())
                elif name.endswith(".json"):
                    _check_graph(path, json.loads(read()))
    except (ArtifactError, MemoryError):
        raise
    except Exception as error:  # what is damaged makes readers of archives raise almost anything, zlib.error included
        raise ArtifactError(f"{path} is damaged, or no exported program: {error}") from error


Entries = Iterator[tuple[str, Callable[[], bytes]]]  # names, and what reads them


def _as_python_reads(path: str | Path) -> Entries:
    """As torch before 2.8 does, and later ones where their own reader fails."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            yield entry.filename, partial(archive.read, entry)


def _as_torch_reads(path: str | Path) -> Entries:
    """By the reader of torch since 2.8, which may find another list of entries in a file than Python does."""
    try:
        reader = torch._C.PyTorchFileReader(str(path))
        names = reader.get_all_records()
    except RuntimeError:
        return
    for name in names:
        yield f"archive/{name}", partial(reader.get_record, name)


def _check_pickle(path: str | Path, name: str, content: bytes) -> None:
    if not content:
        return
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch would now try again, and run what is in it
        raise ArtifactError(
            f"{path} holds something else than tensors in {name}, which could run code, and was not loaded"
        ) from error


def _check_graph(path: str | Path, graph: Any) -> None:
    for key, text in _leaves(graph, ""):
        if key == "use_pickle" and text is not False:
            raise ArtifactError(f"{path} holds tensors as pickles, which could run code, and was not loaded")
        if not isinstance(text, str):
            continue
        if key == "path_name" and not RAW.fullmatch(text):
            raise ArtifactError(f"{path} holds a tensor in {text[:80]!r}, which could run code, and was not loaded")
        if key in ("in_spec", "out_spec") and not _is_plain(json.loads(text)):
            raise ArtifactError(f"{path} has arguments or results in {text[:80]!r}, which could import code")
        if key in ("target", "as_operator") and (not TARGETS.fullmatch(text) or "__" in text):
            raise ArtifactError(f"{path} calls {text[:80]!r}, which is no operator, and was not loaded")
        if key in EXPRESSIONS and not _is_arithmetic(text):
            raise ArtifactError(f"{path} evaluates {text[:80]!r}, which is no arithmetic, and was not loaded")


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Everything in nested dicts and lists that is neither, with the key of the mapping that it lies under."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _leaves(child, name)
    elif isinstance(value, list):
        for child in value:
            yield from _leaves(child, key)
    else:
        yield key, value


def _is_plain(spec: Any) -> bool:
    """Whether a tree of arguments or results has tuples, lists and dicts only; others name modules to be imported."""
    version, top = spec
    trees = [top]
    while trees:
        tree = trees.pop()
        if tree["type"] not in CONTAINERS:
            return False
        keys = json.loads(tree["context"] or "null")
        if keys is not None and not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
            return False
        trees += tree["children_spec"]
    return version == 1


def _is_arithmetic(text: str) -> bool:
    """Whether an expression has nothing but numbers, symbols, sizes of tensors, and functions of these."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError):
        return False
    for node in ast.walk(tree):
        if not isinstance(node, ARITHMETIC):
            return False
        if isinstance(node, ast.Name) and node.id not in FUNCTIONS and not SYMBOL.fullmatch(node.id):
            return False
        if isinstance(node, ast.Constant) and not (
            isinstance(node.value, int | float) or (isinstance(node.value, str) and NAME.fullmatch(node.value))
        ):
            return False
        if isinstance(node, ast.Attribute) and node.attr not in SIZES:
            return False
    return True
