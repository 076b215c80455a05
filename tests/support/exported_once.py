"""ONNX exports of one model that share its graphs: an export takes a quarter of a minute, a precision a second."""

import shutil
from pathlib import Path

import pytest

from sam2fast.deploy.onnx import export


def keep_graphs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are exported into ``folder``, or copied from it: they are compared with the model either way."""
    write = export.export_graph

    def export_once(graph: export.OnnxGraph, file: Path) -> None:
        if not (folder / file.name).exists():
            write(graph, folder / file.name)
        shutil.copyfile(folder / file.name, file)

    monkeypatch.setattr(export, "export_graph", export_once)
