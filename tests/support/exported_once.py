"""ONNX exports of nano that share their graphs: an export takes a quarter of a minute, another precision a second."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from sam2fast.deploy.onnx import export


@contextmanager
def exporting_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each graph is exported by the first test of the run that needs it, whichever process runs that.

    All exports of the block have to be nano's. Each compares its graphs with the model.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "graphs of nano"
    folder.mkdir(exist_ok=True)
    write = export.export_graph

    def export_once(graph: export.OnnxGraph, file: Path) -> None:
        kept = folder / file.name
        with FileLock(kept.with_suffix(".lock")):
            if not kept.exists():
                write(graph, file)
                shutil.copyfile(file, kept)
        shutil.copyfile(kept, file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "export_graph", export_once)
        yield


@pytest.fixture
def nano_exported_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with exporting_once(tmp_path_factory):
        yield
