"""Documents show what was measured: every generated part against the result files."""

import json
import re
import shutil
from pathlib import Path

import pytest
from figure_results import RESULTS
from figures import documents
from figures.documents import SECTIONS
from figures.results import FiguresError, Results, table, write

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made():
    """Every generated document's text, by name."""
    return documents.generate(ROOT, RESULTS)


@pytest.fixture
def copied(tmp_path, made, monkeypatch):
    """A copy of the documents, which the program takes for the repository's."""
    for name in made:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    return tmp_path


def test_documents_show_what_was_measured(made):
    assert {"README.md", "docs/benchmarks.md", "bench/results/README.md", "bench/results/kernels.md"} <= set(made)
    for name, text in made.items():
        assert (ROOT / name).read_text() == text, f"{name} is old; run: make figures"


def test_every_part_is_in_a_document_and_every_link_leads_somewhere(made):
    unused = set(SECTIONS) - set(re.findall(r"<!-- figures:([a-z0-9-]+) -->", " ".join(made.values())))
    assert not unused, f"no document has <!-- figures:NAME --> for {unused}"
    for name, text in made.items():
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert ((ROOT / name).parent / link).exists(), f"{name}: {link}"


def test_every_result_file_is_linked_or_shown(made):
    pages = [*made.values(), *(path.read_text() for path in (ROOT / "docs").rglob("*.md"))]
    said = " ".join([*pages, (ROOT / "sam2fast/nano/MODEL_CARD.md").read_text()])
    files = {path.relative_to(RESULTS).as_posix() for path in RESULTS.rglob("*.json")}
    unused = files - set(re.findall(r"bench/results/([^)#\]]+)", said))
    assert not unused, f"no document links {unused}"


def test_check_names_what_is_old(copied, made, capsys):
    assert documents.main(["--check"]) == 0
    page = copied / "docs/index.md"
    page.write_text(re.sub(r"\d\.\d\d s \|", "0.01 s |", page.read_text(), count=1))
    assert documents.main(["--check"]) == 1
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["docs/index.md"]
    assert page.read_text() != made["docs/index.md"]  # nothing was changed
    assert documents.main([]) == 0 and documents.main(["--check"]) == 0


def test_the_newest_date_counts(folder):
    data = json.loads(next(folder.rglob("encoder-cpu-2026-11-20.json")).read_text())
    data["rows"][0]["median_s"]["sam2fast"] = 0.123
    (folder / "encoder-cpu-2027-01-01.json").write_text(json.dumps(data))
    (folder / "encoder-cpu-notes.json").write_text("no date: not looked at")
    text = SECTIONS["encoder"](Results(folder, "../"))
    assert "| tiny | fp32 | 1 | 3.50 s | 0.12 s |" in text and "](../bench/results/encoder-cpu-2027-01-01.json)" in text


@pytest.mark.parametrize("kind", ["encoder-cpu", "automatic-masks-cpu", "curves-cpu", "suite-transformers-cpu"])
def test_a_missing_file_is_named(folder, kind, copied, monkeypatch, capsys):
    monkeypatch.setattr(documents, "RESULTS", folder)
    for path in folder.rglob(f"{kind}-*.json"):
        path.unlink()
    assert documents.main([]) == 1
    error = capsys.readouterr().err
    assert re.match(f"error: .*no file {kind}-DATE.json", error) and error.count("\n") == 1


@pytest.mark.parametrize(
    "kind", ["own-masks-cpu", "encoder-cpu", "suite-cpu", "serve-latency-cpu", "training-memory-cpu"]
)
def test_a_missing_field_is_named(folder, kind):
    path = max(folder.rglob(f"{kind}-*.json"))
    for old in ("median_s", "frames_per_s", "miou", "parameters"):
        path.write_text(path.read_text().replace(f'"{old}"', '"renamed"'))
    with pytest.raises(FiguresError, match=r"the part '.*' lacks a field"):
        documents.generate(ROOT, folder)


def test_fields_and_their_formats():
    values = {"rows": [{"s": 0.05, "n": 2}, {"s": 3.0, "n": 12}], "of": {"J&F": 76.62}, "none": None, "d": 2.3e-6}
    values["link"] = lambda text: f"[{text}]"
    assert write("{rows[0][s]:seconds} {rows[-1][s]:seconds1}", values) == "50.0 ms 3.0 s"
    assert write("{rows[*][s]:max .1f} of {rows[*]:count words}", values) == "3.0 of two"
    assert write("{of[J&F]:.1f} {none[what]:.1f} {d:difference} {link:here}", values) == "76.6 – 2.3e-6 [here]"
    for wrong in ("{rows[2][s]}", "{of[J]}", "{rows[*][t]:max}", "{absent}", "{rows[first]}"):
        with pytest.raises(FiguresError, match="there is no"):
            write(wrong, values)
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a <!-- figures:gpu -->old\n", "no counterpart"),
        ("a old<!-- /figures -->\n", "no counterpart"),
        ("a <!-- figures:gpu -->1 <!-- figures:gpu -->2<!-- /figures -->\n", "no counterpart"),
        ("a <!-- figures: gpu -->1<!-- /figures -->\n", "misspelt"),
        ("<!-- figures:gpu -->1<!-- /figures --> begins a line\n", "'gpu' has to have lines of its own"),
        ("a <!-- figures:gpu -->\n1\n<!-- /figures -->\n", "'gpu' has to have lines of its own"),
        ("a <!-- figures:fps -->1<!-- /figures -->\n", "there is no part 'fps'; the parts are summary, "),
    ],
)
def test_markers_that_are_wrong(tmp_path, text, reason):
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(FiguresError, match=f"README.md: .*{reason}"):
        documents.generate(tmp_path, RESULTS)
