"""Generated parts of a document lie between ``<!-- figures:NAME -->`` and ``<!-- /figures -->``.

A marker with a line of its own holds paragraphs and tables, one amid a line a piece of a sentence. Such a one must not
begin a line: Markdown would take the line for HTML.
"""

import re
from collections.abc import Callable, Iterator

from figures.results import FiguresError

BEGIN, END = r"<!-- figures:([a-z0-9-]+) -->", "<!-- /figures -->"
PART = re.compile(rf"{BEGIN}(.*?){re.escape(END)}", re.DOTALL)
ANY = re.compile(r"<!--\s*/?figures.*?-->")


def names(text: str) -> list[str]:
    """Of the generated parts, in their order."""
    return [name for name, _ in _parts(text)]


def replace(text: str, make: Callable[[str], str]) -> str:
    """The document with each part made anew by ``make(name)``.

    Raises:
        FiguresError: a marker is not closed, or does not stand where it can; ``make`` fails.
    """
    list(_parts(text))

    def part(match: re.Match[str]) -> str:
        name, content = match[1], make(match[1])
        own_line = match[2].startswith("\n")
        inside = f"\n\n{content}\n\n" if own_line else content
        return f"<!-- figures:{name} -->{inside}{END}"

    return PART.sub(part, text)


def _parts(text: str) -> Iterator[tuple[str, str]]:
    found = list(PART.finditer(text))
    if 2 * len(found) != len(ANY.findall(text)):
        raise FiguresError("a marker <!-- figures:NAME --> or <!-- /figures --> has no counterpart, or is misspelt")
    for match in found:
        name, content = match[1], match[2]
        begins_line = match.start() == 0 or text[match.start() - 1] == "\n"
        if "figures:" in content:
            raise FiguresError(f"the part {name!r} is not closed before the next one")
        if content.startswith("\n") != begins_line:
            raise FiguresError(f"the part {name!r} has to have lines of its own, or to stand amid a line")
        yield name, content
