"""Objects have the colours in films to take away that they have on the screen."""

import re
from pathlib import Path

from sam2fast.demo.server.colours import COLOURS, colour_of

SCENE = Path(__file__).parents[2] / "sam2fast" / "demo" / "frontend" / "src" / "state" / "scene.ts"


def test_page_and_server_have_one_table():
    table = re.search(r"export const COLOURS = \[(.*?)\] as const;", SCENE.read_text(encoding="utf-8"), re.DOTALL)
    assert table is not None
    assert re.findall(r'"(#\w+)"', table[1]) == ["#{:02x}{:02x}{:02x}".format(*colour) for colour in COLOURS]


def test_page_and_server_count_alike():
    """The page's first object is 1."""
    assert "COLOURS[(id - 1) % COLOURS.length]" in SCENE.read_text(encoding="utf-8")
    assert [colour_of(number) for number in (1, 9, 10, 0)] == [COLOURS[0], COLOURS[8], COLOURS[0], COLOURS[8]]
