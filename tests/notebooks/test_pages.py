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


def test_code_with_fences_stays_one_block():
    page = notebook_page({"cells": [code('"""\n```\n"""')]}, "some")
    assert page.markdown.startswith('````python\n"""\n```\n"""\n````\n')


def test_an_unsupported_output_is_an_error():
    table = {"output_type": "display_data", "data": {"text/html": ["<table></table>"]}, "metadata": {}}
    with pytest.raises(ValueError, match=r"some\.ipynb has an output of text/html"):
        notebook_page({"cells": [code("f()", table)]}, "some")


def test_an_unsupported_cell_is_an_error():
    with pytest.raises(ValueError, match=r"some\.ipynb has a cell of the kind raw"):
        notebook_page({"cells": [{"cell_type": "raw", "source": ["a"], "metadata": {}}]}, "some")


@pytest.mark.parametrize("nothing", ["", []])
def test_all_printed_text_is_shown(nothing):
    page = notebook_page({"cells": [code("f()", {**PRINTED, "text": nothing}, RESULT)]}, "some")
    assert page.markdown.split("\n\n")[1] == "```text\n[1,\n 2]\n```"


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_our_notebooks_are_in_the_navigation(path):
    page = notebook_page(json.loads(path.read_text(encoding="utf-8")), path.stem)
    assert page.markdown.startswith("# ") and page.images
    assert set(re.findall(r"!\[.+\]\((.+)\)", page.markdown)) == page.images.keys()
    assert f"- repository/notebooks/{path.stem}.md\n" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
