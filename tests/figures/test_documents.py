"""Documents show what was measured: every generated table, sentence and chart against the result files."""

import functools
import json
import re
from pathlib import Path

import pytest
from figure_results import RESULTS
from figures import documents, markers
from figures.charts import Chart, numbers, svg
from figures.results import KINDS, FiguresError, Results
from figures.sections import SECTIONS, charts

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made():
    """Every generated file's text, by name."""
    return documents.generate(ROOT, RESULTS)


def test_documents_show_what_was_measured(tmp_path):
    assert documents.main(["--out", str(tmp_path)]) == 0
    made = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    drawn = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / documents.DRAWINGS).iterdir())
    assert [name for name in made if name.endswith(".svg")] == drawn
    assert {"README.md", "docs/benchmarks.md"} <= set(made)
    for name in made:
        expected, present = (tmp_path / name).read_text(), (ROOT / name).read_text()
        if name.endswith(".svg"):
            assert numbers(present) == numbers(expected) != {}, f"{name} is old; run: make figures"
        else:
            assert present == expected, f"{name} is old; run: make figures"


def test_nothing_changes_the_second_time(made, tmp_path):
    assert sorted(documents.write(tmp_path, made)) == sorted(made) and documents.write(tmp_path, made) == []
    assert documents.generate(ROOT, RESULTS) == made


def test_every_part_is_in_a_document_and_every_link_leads_somewhere(made):
    texts = {name: text for name, text in made.items() if name.endswith(".md")}
    unused = set(SECTIONS) - {part for text in texts.values() for part in markers.names(text)}
    assert not unused, f"no document has <!-- figures:NAME --> for {unused}"
    for name, text in texts.items():
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            target = (ROOT / name).parent / link
            assert target.exists() or target.resolve().relative_to(ROOT).as_posix() in made, f"{name}: {link}"
    shown = {Path(link).name for text in texts.values() for link in re.findall(r"\]\(([^)]+\.svg)\)", text)}
    assert shown == {Path(name).name for name in made if name.endswith(".svg")}


def test_check_names_what_is_old(made, tmp_path, monkeypatch, capsys):
    documents.write(tmp_path, made)
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    # Drawing takes most of the time, and gives the same each time, as other tests show.
    drawings = functools.cache(lambda chart: svg(Chart(**json.loads(chart))))
    monkeypatch.setattr(documents, "svg", lambda chart: drawings(json.dumps(chart._asdict())))
    options = ["--check", "--results", str(RESULTS)]
    readme, drawing = tmp_path / "README.md", tmp_path / "docs/figures/video.svg"
    readme.write_text(re.sub(r"\d\.\d\d s \|", "0.01 s |", readme.read_text(), count=1))
    other = numbers(drawing.read_text())
    other["series"]["sam2fast"][0] = 0.01
    drawing.write_text(svg(Chart(**other)))
    (tmp_path / "docs/figures/left-over.svg").write_text("<svg/>")
    assert documents.main(options) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["README.md", "docs/figures/video.svg", "docs/figures/left-over.svg"]
    assert readme.read_text() != made["README.md"]  # nothing was changed
    assert documents.main(["--results", str(RESULTS)]) == 0 and documents.main(options) == 0
    assert not (tmp_path / "docs/figures/left-over.svg").exists()


def test_the_newest_date_counts(folder):
    old = json.loads((folder / "set-image-cpu-2026-11-20.json").read_text())
    newer = json.loads(json.dumps(old))
    newer["rows"][0]["median_s"]["sam2fast"] = 0.123
    (folder / "set-image-cpu-2027-01-01.json").write_text(json.dumps(newer))
    (folder / "set-image-cpu-notes.json").write_text("no date: not looked at")
    results = Results(folder)
    assert results.newest("set-image").name == "set-image-cpu-2027-01-01.json"
    text = SECTIONS["set-image"](results)
    assert "| tiny | fp32 | 2.15 s | 0.12 s |" in text and "set-image-cpu-2027-01-01.json" in text
    assert 0.123 in charts(results)["set-image"].series["sam2fast"]


@pytest.mark.parametrize("kind", ["set-image", "video", "encoder", "automatic-masks", "stream-memory", "nano-real"])
def test_a_missing_file_is_named(folder, kind, tmp_path, monkeypatch, capsys):
    for path in folder.glob(f"{KINDS[kind][0]}-*.json"):
        path.unlink()
    with pytest.raises(FiguresError, match=f"{KINDS[kind][0]}-DATE.json.*{KINDS[kind][1]}"):
        documents.generate(ROOT, folder)
    out = tmp_path / "out"
    assert documents.main(["--results", str(folder), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and not out.exists()


def test_a_damaged_file_is_named(folder):
    (folder / "video-cpu-2030-01-01.json").write_text("{")
    with pytest.raises(FiguresError, match="video-cpu-2030-01-01.json is not JSON"):
        documents.generate(ROOT, folder)


def test_what_has_no_file_is_said_to_be_unmeasured(folder):
    results = Results(folder)
    for kind in ("suite", "curves", "transformers", "compile-modes"):
        assert SECTIONS[kind](results).startswith("Not measured yet: ")
    assert SECTIONS["many-objects"](results).endswith("has not been measured yet")
    assert SECTIONS["gpu"](results) == "Nothing has been measured on a GPU."
    assert SECTIONS["gpu-state"](results) == "nothing has been measured on a GPU"
    assert not [name for name in charts(results) if name.startswith(("suite", "curves", "transformers", "compile"))]


def test_markers_amid_a_line_and_of_their_own():
    text = "a <!-- figures:x -->old<!-- /figures --> b\n\n<!-- figures:y -->\nold\n<!-- /figures -->\nend\n"
    done = markers.replace(text, {"x": "5 s", "y": "| t |"}.__getitem__)
    own = "<!-- figures:y -->\n\n| t |\n\n<!-- /figures -->"
    assert done == f"a <!-- figures:x -->5 s<!-- /figures --> b\n\n{own}\nend\n"
    assert markers.replace(done, {"x": "5 s", "y": "| t |"}.__getitem__) == done and markers.names(done) == ["x", "y"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a <!-- figures:x -->old\n", "no counterpart"),
        ("a old<!-- /figures -->\n", "no counterpart"),
        ("a <!-- figures:x -->1 <!-- figures:y -->2<!-- /figures -->\n", "no counterpart"),
        ("a <!-- figures: x -->1<!-- /figures -->\n", "misspelt"),
        ("<!-- figures:x -->1<!-- /figures --> begins a line\n", "'x' has to have lines of its own"),
        ("a <!-- figures:x -->\n1\n<!-- /figures -->\n", "'x' has to have lines of its own"),
    ],
)
def test_markers_that_are_wrong(text, reason):
    with pytest.raises(FiguresError, match=reason):
        markers.replace(text, str)


def test_an_unknown_part_is_named(tmp_path):
    (tmp_path / "README.md").write_text("a <!-- figures:fps -->1<!-- /figures -->\n")
    with pytest.raises(FiguresError, match="README.md: there is no part 'fps'; the parts are summary, "):
        documents.generate(tmp_path, RESULTS)


def test_paragraphs_are_broken_where_it_is_asked(folder):
    narrow = SECTIONS["automatic-masks"](Results(folder, "../", wraps=True))
    assert max(len(line) for line in narrow.splitlines() if not line.startswith("|")) <= 120
    assert SECTIONS["automatic-masks"](Results(folder)).count("\n") < narrow.count("\n")
    assert "](../bench/results/" in narrow
