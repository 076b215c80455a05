"""Notebooks as pages of the site."""

import base64
import json
import re
import runpy

import pytest
from checkout import ROOT

notebook_page = runpy.run_path(str(ROOT / "docs" / "hooks" / "notebook_pages.py"))["notebook_page"]
IMAGE = b"\xff\xd8 an image"
SHOWN = {"output_type": "display_data", "data": {"image/jpeg": base64.b64encode(IMAGE).decode()}, "metadata": {}}
PRINTED = {"output_type": "stream", "name": "stdout", "text": ["a\n", "b\n"]}
RESULT = {"output_type": "execute_result", "data": {"text/plain": ["[1,\n", " 2]"]}, "metadata": {}}


def words(*lines):
    return {"cell_type": "markdown", "source": list(lines)}


def code(source, *outputs):
    return {"cell_type": "code", "source": [source], "outputs": list(outputs)}


def test_contents_in_order():
    cells = [words("# One\n", "\n", "Said."), code("f()", PRINTED, SHOWN, RESULT), words("## Two"), code("g()", SHOWN)]
    page = notebook_page({"cells": cells}, "some")
    assert page.markdown.split("\n\n") == [
        "# One",
        "Said.",
        "```python\nf()\n```",
        "```text\na\nb\n```",
        "![Drawn by the code above: One](some-01.jpg)",
        "```text\n[1,\n 2]\n```",
        "## Two",
        "```python\ng()\n```",
        "![Drawn by the code above: Two](some-02.jpg)",
        'This page as a notebook, to be run: <a href="some.ipynb" download>some.ipynb</a>\n',
    ]
    assert page.images == {"some-01.jpg": IMAGE, "some-02.jpg": IMAGE}


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_our_notebooks_are_in_the_navigation(path):
    page = notebook_page(json.loads(path.read_text(encoding="utf-8")), path.stem)
    assert page.markdown.startswith("# ") and page.images
    assert set(re.findall(r"!\[.+\]\((.+)\)", page.markdown)) == page.images.keys()
    assert f"- repository/notebooks/{path.stem}.md\n" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
