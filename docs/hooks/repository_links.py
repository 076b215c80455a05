"""MkDocs hook: the documents link to files of the repository; the site carries these files along.

A document in ``docs/`` refers to ``../bench/tune.py`` so that the link works where the repository is browsed. On the
site each such file lies under ``repository/``; Markdown is a page there, and so is a notebook, beside its file.
Links to folders become plain text.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from notebook_pages import notebook_page  # MkDocs loads hooks with their folder on the path

CARRIED = "repository"
LINK = re.compile(r"\[(?P<text>[^\]\n]*(?:\n[^\]\n]*)?)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what the documents refer to outside their folder, and what these refer to in turn."""
    root = Path(config.docs_dir).parent
    waiting = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    while waiting:
        uri, text = waiting.pop()
        for match in LINK.finditer(text):
            name = _in_repository(uri, match["target"])
            if name is None or name.startswith("docs/") or not (root / name).is_file():
                continue
            carried = f"{CARRIED}/{name}"
            if files.get_file_from_path(carried) is None:
                for file in _carried_files(carried, root / name, config):
                    files.append(file)
                    if file.is_documentation_page():
                        waiting.append((file.src_uri, file.content_string))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to carried files lead to them."""

    def replaced(match: re.Match[str]) -> str:
        name = _in_repository(page.file.src_uri, match["target"])
        if name is None:
            return match[0]
        uri = name.removeprefix("docs/") if name.startswith("docs/") else f"{CARRIED}/{name}"
        uri = _page_of(uri)
        if files.get_file_from_path(uri) is None:
            is_folder = (Path(config.docs_dir).parent / name).is_dir()
            return match["text"] if is_folder else match[0]  # a link to nothing is MkDocs's to complain of
        start = PurePosixPath(page.file.src_uri).parent
        return f"[{match['text']}]({os.path.relpath(uri, start)}{match['anchor'] or ''})"

    return LINK.sub(replaced, markdown)


def _carried_files(uri: str, path: Path, config: MkDocsConfig) -> Iterator[File]:
    """A file under its name on the site; with a notebook its page and the images on that."""
    yield File.generated(config, uri, abs_src_path=str(path))
    if path.suffix == ".ipynb":
        page = notebook_page(json.loads(path.read_text(encoding="utf-8")), path.stem)
        yield File.generated(config, _page_of(uri), content=page.markdown)
        for name, content in page.images.items():
            yield File.generated(config, str(PurePosixPath(uri).with_name(name)), content=content)


def _page_of(uri: str) -> str:
    """Where links to a carried file lead: to itself, but for notebooks."""
    return f"{uri.removesuffix('.ipynb')}.md" if uri.endswith(".ipynb") else uri


def _in_repository(uri: str, target: str) -> str | None:
    """What a link on a page means, from the repository's root; nothing for addresses and places outside."""
    if re.match(r"[a-z]+:", target):
        return None
    home = uri.removeprefix(f"{CARRIED}/") if uri.startswith(f"{CARRIED}/") else f"docs/{uri}"
    name = os.path.normpath(PurePosixPath(home).parent / target)
    return None if name.startswith("..") else name
