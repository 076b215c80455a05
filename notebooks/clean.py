"""Takes executed notebooks to where they are kept, without what differs from run to run.

    python notebooks/clean.py FROM TO

`make notebooks WRITE=1` runs it. What is left is sources, printed text and images, and a digest of the code that was
run, by which tests see that it is still that; a notebook that has failed, or has warned of something, is refused, and
then none is written.
"""

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class RefusedError(Exception):
    """A notebook is not fit to be kept."""


def cleaned(notebook: dict[str, Any], name: str) -> dict[str, Any]:
    """The notebook with numbered cells, and only such outputs as are the same in every run.

    Raises:
        RefusedError: a cell was not run, has failed, or wrote to the error stream.
    """
    cells = [_cleaned_cell(cell, f"cell-{number:02d}", name) for number, cell in enumerate(notebook["cells"], start=1)]
    return notebook | {"cells": cells, "metadata": METADATA | {"sam2fast": {"code_sha256": code_digest(notebook)}}}


def code_digest(notebook: dict[str, Any]) -> str:
    """SHA-256 of the sources of the code cells, in their order."""
    sources = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def _cleaned_cell(cell: dict[str, Any], cell_id: str, name: str) -> dict[str, Any]:
    cell = cell | {"id": cell_id, "metadata": {}}
    if cell["cell_type"] == "code":
        if cell["execution_count"] is None:
            raise RefusedError(f"{name}, {cell_id} was not run")
        cell["outputs"] = _joined(_checked(output, f"{name}, {cell_id}") for output in cell["outputs"])
    return cell


def _checked(output: dict[str, Any], where: str) -> dict[str, Any]:
    if output["output_type"] == "error":
        raise RefusedError(f"{where} failed: {output['ename']}: {output['evalue']}")
    if output.get("name") == "stderr":
        raise RefusedError(f"{where} wrote to the error stream: {''.join(output['text']).strip()}")
    data = output.get("data", {})
    if any(kind.startswith("image/") for kind in data):
        images = {kind: value for kind, value in data.items() if kind != "text/plain"}  # the size of the figure
        return output | {"data": images, "metadata": {}}
    return output


def _joined(outputs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Printed text in one piece: where the kernel cuts it depends on the moment."""
    kept: list[dict[str, Any]] = []
    for output in outputs:
        if kept and output["output_type"] == kept[-1]["output_type"] == "stream":
            kept[-1] = output | {"text": [*kept[-1]["text"], *output["text"]]}
        else:
            kept.append(output)
    return kept


def main() -> None:
    source, target = (Path(argument) for argument in sys.argv[1:])
    try:
        notebooks = {
            path.name: cleaned(json.loads(path.read_text(encoding="utf-8")), path.stem)
            for path in sorted(source.glob("*.ipynb"))
        }
    except RefusedError as error:
        sys.exit(f"notebooks: {error}")
    for name, notebook in notebooks.items():
        text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)  # as Jupyter writes them
        (target / name).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
