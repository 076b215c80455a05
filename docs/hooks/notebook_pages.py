"""Turns a notebook, as it is kept with what it has shown, into a page of the site; repository_links.py uses it."""

import base64
import re
from typing import Any, NamedTuple

SUFFIXES = {"image/jpeg": ".jpg", "image/png": ".png"}
HEADING = re.compile(r"^#+ (?P<title>.+)$", re.MULTILINE)


class NotebookPage(NamedTuple):
    """Markdown, and the images that it shows by their file names."""

    markdown: str
    images: dict[str, bytes]


def notebook_page(notebook: dict[str, Any], stem: str) -> NotebookPage:
    """Words, code, printed text and images in their order.

    Args:
        notebook: nbformat 4, parsed.
        stem: of the notebook's file, ``stem.ipynb``, and of its images' names.

    Raises:
        ValueError: a cell or an output of a kind that no page has, such as raw text or HTML.
    """
    parts, images = [], {}
    section = stem
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            section = next((match["title"] for match in HEADING.finditer(source)), section)
            continue
        if cell["cell_type"] != "code":
            raise ValueError(f"{stem}.ipynb has a cell of the kind {cell['cell_type']}")
        parts.append(_fenced(source, "python"))
        for output in cell["outputs"]:
            data = output.get("data", {})
            kind = next((kind for kind in SUFFIXES if kind in data), None)
            if kind is not None:
                name = f"{stem}-{len(images) + 1:02d}{SUFFIXES[kind]}"
                images[name] = base64.b64decode("".join(data[kind]))
                parts.append(f"![Drawn by the code above: {section}]({name})")
            elif "text" in output or "text/plain" in data:
                text = "".join(output["text"] if "text" in output else data["text/plain"])
                if text:
                    parts.append(_fenced(text.rstrip("\n"), "text"))
            else:
                raise ValueError(f"{stem}.ipynb has an output of {', '.join(data) or output['output_type']}")
    file = f'<a href="{stem}.ipynb" download>{stem}.ipynb</a>'
    return NotebookPage("\n\n".join([*parts, f"This page as a notebook, to be run: {file}"]) + "\n", images)


def _fenced(text: str, language: str) -> str:
    """A block that no line of the text ends."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return f"{fence}{language}\n{text}\n{fence}"
