"""Checks the version and the papers in CITATION.cff, CHANGELOG.md and README.md."""

import re

import yaml
from document_blocks import ROOT

import sam2fast

CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
BIBTEX = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Citation")[2]


def test_versions() -> None:
    latest = re.search(r"^## (\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert CITATION["version"] == sam2fast.__version__
    assert latest and sam2fast.__version__.startswith(f"{latest[1]}.")


def test_the_paper_comes_first() -> None:
    paper = CITATION["preferred-citation"]
    assert re.findall(r"^@(\w+)\{", BIBTEX, re.MULTILINE) == ["article", "software"]
    assert f"{{{paper['title']}}}" in BIBTEX and str(paper["year"]) in BIBTEX


def test_authors_of_the_paper() -> None:
    listed = re.search(r"author  = \{(.+?)\},\n", BIBTEX, re.DOTALL)
    assert listed
    names = [name.replace(r"{\"a}", "ä").replace(r"{\'a}", "á") for name in re.split(r"\s+and\s+", listed[1])]
    authors = CITATION["preferred-citation"]["authors"]
    assert [" ".join(name.split()) for name in names] == [f"{a['family-names']}, {a['given-names']}" for a in authors]
