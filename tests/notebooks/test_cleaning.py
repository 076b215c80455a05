"""Cleaning of executed notebooks before they are stored."""

import json
import runpy
import sys

import pytest
from checkout import ROOT

SCRIPT = ROOT / "notebooks" / "clean.py"


def stream(*text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": list(text)}


def executed(*outputs, count=1):
    """A notebook of one executed cell."""
    image = {"image/jpeg": "/9j/4AAQ\n", "text/plain": ["<Figure size 640x480 with 1 Axes>"]}
    shown = {"output_type": "display_data", "data": image, "metadata": {"needs_background": "light"}}
    times = {"execution": {"iopub.status.busy": "2026-01-01T00:00:00Z"}}
    cell = {"cell_type": "code", "id": "a1b2", "metadata": times, "execution_count": count, "source": ["1\n"]}
    metadata = {"language_info": {"name": "python", "version": "3.11.2"}}
    return {"cells": [cell | {"outputs": [*outputs, shown]}], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture
def clean(tmp_path, monkeypatch):
    """Cleans notebooks, and returns those that were written."""

    def run(**notebooks):
        source, target = tmp_path / "from", tmp_path / "to"
        source.mkdir()
        target.mkdir()
        for name, notebook in notebooks.items():
            (source / f"{name}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(source), str(target)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in target.iterdir()}

    return run


def test_outputs_that_differ_between_runs_are_removed(clean):
    notebook = clean(one=executed(stream("a\n"), stream("b\n", "c\n")))["one"]
    (cell,) = notebook["cells"]
    assert cell["id"] == "cell-01" and cell["metadata"] == {} and cell["source"] == ["1\n"]
    assert cell["outputs"] == [
        stream("a\n", "b\n", "c\n"),
        {"output_type": "display_data", "data": {"image/jpeg": "/9j/4AAQ\n"}, "metadata": {}},
    ]
    assert "3.11" not in json.dumps(notebook)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (executed(stream("careful\n", name="stderr")), "two, cell-01 wrote to the error stream: careful"),
        (executed({"output_type": "error", "ename": "KeyError", "evalue": "'a'"}), "two, cell-01 failed: KeyError"),
        (executed(count=None), "two, cell-01 was not run"),
    ],
    ids=["warned", "failed", "not-run"],
)
def test_a_refused_notebook_prevents_all_writes(clean, tmp_path, wrong, said):
    with pytest.raises(SystemExit, match=said):
        clean(one=executed(), two=wrong)
    assert not list((tmp_path / "to").iterdir())
