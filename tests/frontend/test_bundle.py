"""The built front end: complete, offline, small, licensed, and made for this server's API."""

import gzip
import json
import re
from pathlib import Path

import pytest
from graphql import build_schema, lexicographic_sort_schema, print_schema

from sam2fast.demo.server.export_data import COLOURS, object_colour
from sam2fast.demo.server.graphql_api import make_schema

ROOT = Path(__file__).parents[2]
BUNDLE, SOURCES = ROOT / "sam2fast" / "demo" / "server" / "static", ROOT / "frontend"
OFFICIAL = Path(__file__).parents[1] / "demo" / "schema.graphql"
LARGEST = 450_000  # bytes of all scripts and styles, compressed
# XML namespaces, and URLs in messages for developers: nothing is loaded from them.
NAMESPACES = (
    *("http://www.w3.org/", "https://react.dev/errors/", "https://aomediacodec.github.io/av1-isobmff/"),
    *("https://www.w3.org/TR/webcodecs-", "https://www.webmproject.org/vp9/mp4/"),
)


@pytest.fixture(scope="module")
def page() -> str:
    return (BUNDLE / "index.html").read_text(encoding="utf-8")


def scripts_and_styles() -> list[Path]:
    return [file for file in (BUNDLE / "assets").iterdir() if file.suffix in (".js", ".css")]


@pytest.mark.parametrize("file", [SOURCES / "schema.graphql", OFFICIAL], ids=["the page's", "the original demo's"])
def test_schema_of_the_server(file):
    def comparable(sdl: str) -> str:
        undescribed = re.sub(r'"""(?:.|\n)*?"""', "", sdl)
        return print_schema(lexicographic_sort_schema(build_schema(undescribed)))

    assert comparable(file.read_text()) == comparable(make_schema().as_str())


def test_the_page_names_exactly_its_files(page):
    named = set(re.findall(r'(?:src|href)="/([^"]+)"', page))
    assert len([name for name in named if name.startswith("assets/")]) == 2
    files = {str(file.relative_to(BUNDLE)) for file in BUNDLE.rglob("*") if file.is_file()}
    others = files - named - {"index.html", "licences.txt", "runtime.json"}
    assert sorted(re.sub("-.{8}[.]", ".", name) for name in others) == [
        *("assets/cat.jpg", "assets/client.js", "assets/coffee.jpg", "assets/worker.js")
    ]


def test_nothing_is_loaded_from_other_sites(page):
    """The server's content policy also forbids inline scripts."""
    assert not re.search(r"<script(?![^>]* src=)|<style| on\w+=", page)
    for file in [*scripts_and_styles(), BUNDLE / "index.html", BUNDLE / "favicon.svg"]:
        addresses = re.findall(r"""https?://[^\s"'`)]+""", file.read_text(encoding="utf-8"))
        assert [address for address in addresses if not address.startswith(NAMESPACES)] == [], file.name


def test_bundle_is_small():
    assert sum(len(gzip.compress(file.read_bytes())) for file in scripts_and_styles()) < LARGEST


def test_licences_of_the_packages():
    licences = (BUNDLE / "licences.txt").read_text(encoding="utf-8")
    heads = re.findall(r"^(\S+) (\S+), (\S+)$", licences, re.MULTILINE)
    lock = json.loads((SOURCES / "package-lock.json").read_text())["packages"]
    assert {name for name, _, _ in heads} >= {"react", "react-dom", "scheduler", "zustand", "@urql/core"}
    for name, version, licence in heads:
        assert version == lock[f"node_modules/{name}"]["version"]
        assert licence in ("MIT", "ISC", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MPL-2.0")
    for part in licences.split("=" * 80)[1:]:
        assert "Permission is hereby granted" in part or not part.split("\n\n")[0].endswith(", MIT")


def test_page_and_server_have_one_table_of_colours():
    scene = (SOURCES / "src" / "scene" / "scene.ts").read_text(encoding="utf-8")
    table = re.search(r"export const COLOURS = \[(.*?)\] as const;", scene, re.DOTALL)
    assert table is not None
    assert re.findall(r'"(#\w+)"', table[1]) == ["#{:02x}{:02x}{:02x}".format(*colour) for colour in COLOURS]


def test_page_and_server_number_colours_alike():
    """The page's first object is 1."""
    scene = (SOURCES / "src" / "scene" / "scene.ts").read_text(encoding="utf-8")
    assert "COLOURS[(id - 1) % COLOURS.length]" in scene
    assert [object_colour(number) for number in (1, 9, 10, 0)] == [COLOURS[0], COLOURS[8], COLOURS[0], COLOURS[8]]
