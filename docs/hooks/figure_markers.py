"""MkDocs hook: takes out the marks between which figures are generated; a line that begins with one would be HTML."""

import re
from typing import Any

MARK = re.compile(r"(?<!`)<!-- (figures:[a-z-]+|/figures) -->(?!`)")  # not where a document explains them


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    return MARK.sub("", markdown)
