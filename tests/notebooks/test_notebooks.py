"""The stored notebooks; `make notebooks` runs them."""

import ast
import importlib
import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from public_api import MODULES

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 250_000  # bytes
KINDS = {"image/jpeg", "text/plain"}
# Paths of a user's machine.
FOLDERS = re.compile(r"(?<![\w.:/])/(home|root|tmp|Users|work|usr|opt|var|private)/|[A-Z]:\\")
PAGES = [path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md")]
CODE_DIGEST = runpy.run_path(str(ROOT / "notebooks" / "clean.py"))["code_digest"]
DOCUMENTED = {name for page in PAGES for name in re.findall(r"^::: ([\w.]+)", page, re.MULTILINE)}


def notebook(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in notebook(path)["cells"] if cell["cell_type"] == "code"]


def parsed(path: Path) -> ast.Module:
    """All code of a notebook, without IPython magics."""
    lines = [line for cell in code_cells(path) for line in [*"".join(cell["source"]).splitlines(), ""]]
    return ast.parse("\n".join(line for line in lines if not line.startswith("%")))


def test_the_page_lists_all_notebooks():
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[(.+)\]\(\.\./notebooks/\1\) \|", page, re.MULTILINE)) == [
        p.name for p in NOTEBOOKS
    ]
    assert len(NOTEBOOKS) == 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_was_run_from_top_to_bottom(self, path):
        cells = code_cells(path)
        assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
        outputs = [output for cell in cells for output in cell["outputs"]]
        assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
        kinds = {kind for output in outputs for kind in output.get("data", ())}
        assert "image/jpeg" in kinds and kinds <= KINDS

    def test_outputs_belong_to_this_code(self, path):
        found = notebook(path)
        is_that = found["metadata"]["sam2fast"] == {"code_sha256": CODE_DIGEST(found)}
        assert is_that, "the code has changed since it was run: make notebooks WRITE=1"

    def test_is_small_and_machine_independent(self, path):
        assert path.stat().st_size < LARGEST
        found = notebook(path)
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        assert found["metadata"].keys() == {"kernelspec", "language_info", "sam2fast"}
        assert found["metadata"]["kernelspec"] == kernel and found["metadata"]["language_info"] == {"name": "python"}
        for cell in found["cells"]:
            assert cell["metadata"] == {}
            texts = ["".join(cell["source"])]
            for output in cell.get("outputs", ()):
                texts += ["".join(output.get("text", ())), "".join(output.get("data", {}).get("text/plain", ()))]
            assert not [text for text in texts if FOLDERS.search(text)]

    def test_uses_promised_names_only(self, path):
        for node in ast.walk(parsed(path)):
            names = []
            if isinstance(node, ast.Attribute):
                names = [node.attr]
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = [part for alias in node.names for part in alias.name.split(".")]
            assert not [name for name in names if name.startswith("_")], ast.unparse(node)
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "sam2fast":
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), ast.unparse(node)
                    is_promised = node.module in MODULES or {node.module, f"{node.module}.{alias.name}"} & DOCUMENTED
                    # The demonstration's drawings are not promised.
                    assert is_promised or node.module.startswith("sam2fast.demo."), ast.unparse(node)
