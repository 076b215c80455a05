import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import document_stage
import pytest
import thread_workers


@pytest.fixture(scope="session")
def written_stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return document_stage.write_stage(tmp_path_factory.mktemp("stage"))


@pytest.fixture
def stage(written_stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with all files that the documents name; worker processes are threads."""
    document_stage.go_to(written_stage, tmp_path / "stage", monkeypatch)
    thread_workers.instead_of_processes(monkeypatch)
    return tmp_path / "stage"


@pytest.fixture
def official_names_free() -> Iterator[None]:
    """Removes the imported official package, so that ``import sam2fast.as_sam2`` can register its names."""

    def take() -> dict[str, ModuleType]:
        names = [name for name in sys.modules if name.split(".")[0] == "sam2" or name == "sam2fast.as_sam2"]
        return {name: sys.modules.pop(name) for name in names}

    before, finders = take(), list(sys.meta_path)
    yield
    take()
    sys.modules.update(before)
    sys.meta_path[:] = finders
