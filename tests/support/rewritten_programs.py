"""A small exported program, and its file with other things in it."""

import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from sam2fast.exported import save_program

# Where the graph stands, in files of newer and of older versions of torch.
GRAPH = ("models/model.json", "serialized_exported_program.json")
# A name and the content of an entry, to the entries in its place.
Change = Callable[[str, bytes], Iterable[tuple[str, bytes | str]]]


class Rows(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.register_buffer("offset", torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.gelu(self.linear(x)) + self.offset


def save_rows(path: Path) -> Path:
    """One with a dynamic size, so that there are expressions."""
    shapes = ({0: torch.export.Dim("rows", min=2, max=64)},)
    save_program(torch.export.export(Rows().eval(), (torch.ones(6, 4),), dynamic_shapes=shapes, strict=False), path)
    return path


def rewritten(program: Path, out: Path, change: Change, packing: int = zipfile.ZIP_STORED) -> Path:
    """The program's file with ``change(name, content)`` in the place of each entry, and what that adds."""
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(out, "w", packing) as new:
        for name in old.namelist():
            for changed, content in change(name, old.read(name)):
                new.writestr(changed, content)
    return out


def with_graph(edit: Callable[[dict[str, Any]], object]) -> Change:
    """``edit`` is given every mapping of the graph."""

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            edit(value)
        for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(child)

    def change(name: str, content: bytes) -> list[tuple[str, bytes | str]]:
        if not name.endswith(GRAPH):
            return [(name, content)]
        graph = json.loads(content)
        walk(graph)
        return [(name, json.dumps(graph))]

    return change


def with_target(target: str) -> Change:
    def edit(node: dict[str, Any]) -> None:
        if str(node.get("target", "")).startswith("torch.ops.aten.linear"):
            node["target"] = target

    return with_graph(edit)


def with_text(old: str, new: str) -> Change:
    """Another text in all places of one, also where it names something in a mapping."""

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {new if key == old else key: changed(child) for key, child in value.items()}
        if isinstance(value, list):
            return [changed(child) for child in value]
        return new if value == old else value

    def change(name: str, content: bytes) -> list[tuple[str, bytes | str]]:
        return [(name, json.dumps(changed(json.loads(content))) if name.endswith(".json") else content)]

    return change
