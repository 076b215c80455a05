"""Documents show what was measured: every generated table, sentence and chart against the result files."""

import functools
import json
import re
import shutil
from pathlib import Path

import pytest
from figures import documents, markers
from figures.charts import STYLE, Chart, draw, numbers, svg
from figures.results import KINDS, FiguresError, Results
from figures.sections import SECTIONS, charts

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
CPU = {"cpu": "AMD EPYC", "capability": "AVX512", "cores": 2, "threads": 2, "python": "3.11.7", "torch": "2.13.0+cpu"}
GPU = CPU | {"gpu": "NVIDIA H200", "driver": "570"}
TWO = ("official", "sam2fast")


@pytest.fixture
def folder(tmp_path):
    """A copy of the result files, to which others can be added; none of what has no file at first."""
    optional = [
        re.compile(KINDS[kind][0]) for kind in ("suite", "curves", "compile-modes", "transformers", "suite-gpu")
    ]
    (tmp_path / "results").mkdir()
    for path in RESULTS.glob("*.json"):
        if not any(pattern.match(path.name) for pattern in optional):
            shutil.copy(path, tmp_path / "results")
    return tmp_path / "results"


def put(folder, name, rows, machine=CPU, date="2030-01-02"):
    (folder / f"{name}-{date}.json").write_text(json.dumps({"date": date, "machine": machine, "rows": rows}))


def subject(*samples, peak=None, note=""):
    ordered = sorted(samples) or [None]
    return {
        "samples_s": list(samples), "median_s": ordered[len(ordered) // 2], "min_s": ordered[0], "max_s": ordered[-1],
        "first_s": 9.0, "compile_s": None, "peak_mib": peak, "note": note,
    }  # fmt: skip


def row(case, subjects, **setting):
    timed = [name for name, figures in subjects.items() if figures["samples_s"]]
    first = next(iter(subjects))
    ratio = {n: dict.fromkeys(("median", "min", "max"), subjects[first]["median_s"] / subjects[n]["median_s"])
             for n in timed if n != first}  # fmt: skip
    facts = {"size": "t", "dtype": "fp32", "image_size": 1024, "objects": None, "history": None} | setting
    differences = {name: 3e-6 for name in ratio}
    return {"case": case, **facts, "subjects": subjects, "ratio": ratio, "difference": differences, "note": ""}


# ---- the documents ----


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
    assert {part for text in texts.values() for part in markers.names(text)} == set(SECTIONS)
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


# ---- the files ----


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
    assert SECTIONS["gpu"](results) == "Nothing has been measured on a GPU."
    assert SECTIONS["gpu-state"](results) == "nothing has been measured on a GPU"
    assert not [name for name in charts(results) if name.startswith(("suite", "curves", "transformers", "compile"))]


# ---- markers ----


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
    with pytest.raises(FiguresError, match="README.md: there is no part 'fps'; the parts are set-image, "):
        documents.generate(tmp_path, RESULTS)


def test_paragraphs_are_broken_in_docs_alone(folder):
    narrow = SECTIONS["automatic-masks"](Results(folder, "../", wraps=True))
    assert max(len(line) for line in narrow.splitlines() if not line.startswith("|")) <= 120
    assert SECTIONS["automatic-masks"](Results(folder)).count("\n") < narrow.count("\n")
    assert "](../bench/results/" in narrow


# ---- each kind ----


def test_the_suite_takes_the_place_of_older_files(folder):
    slow = {"official": subject(2.0, 2.2, 2.4), "sam2fast": subject(0.5, 0.55, 0.6)}
    put(folder, "suite-cpu", [row("image encode", slow), row("video steady frame", slow, objects=3)])
    results = Results(folder)
    assert "| tiny | fp32 | 2.20 s | 0.55 s | **4.00×** |" in SECTIONS["set-image"](results)
    assert "medians of 3" in SECTIONS["set-image"](results) and "set-image-cpu" not in SECTIONS["set-image"](results)
    assert "| tiny | fp32 | 3 | 2.20 s | 0.55 s | **4.00×** |" in SECTIONS["video"](results)
    assert SECTIONS["seen-difference"](results) == "3.0e-6"
    assert "997 MiB" in SECTIONS["long-video"](results)
    assert charts(results)["video"].places == ["tiny fp32, 3 obj."]
    peaks = {"official": subject(1.0, peak=2000.0), "sam2fast": subject(1.0, peak=900.0)}
    given = [row("image encode", slow), row("video steady frame", slow, objects=1, history=10)]
    rows = [*given, row("peak memory", peaks), row("peak memory", peaks, objects=4, history=100)]
    put(folder, "suite-cpu", rows, date="2030-01-04")
    assert "| 2.20 s | 0.55 s | **4.00×** | 2000 → 900 MiB |" in SECTIONS["set-image"](results)
    assert "four objects through 100 frames with tiny at 1024×1024" in SECTIONS["long-video"](results)
    # A frame after a given number of frames is for the table of the suite.
    assert "suite-cpu-2030-01-02" in SECTIONS["video"](results)
    (folder / "suite-cpu-2030-01-04.json").unlink()
    # A suite that lacks the case, or has not timed it, leaves them.
    put(folder, "suite-cpu", [row("predict", slow), row("image encode", slow | {"sam2fast": subject(note="no")})],
        date="2030-01-03")  # fmt: skip
    assert "suite-cpu-2030-01-02" in SECTIONS["set-image"](results)
    (folder / "suite-cpu-2030-01-02.json").unlink()
    assert "set-image-cpu" in SECTIONS["set-image"](results)


def test_a_processor_with_other_vector_units_has_its_own_table(folder):
    slow = {"official": subject(2.0, 2.2, 2.4), "sam2fast": subject(0.5, 0.55, 0.6)}
    put(folder, "suite-cpu", [row("image encode", slow)], CPU | {"capability": "AVX2"})
    results = Results(folder)
    new, old = SECTIONS["set-image"](results).split("`set_image` at")[1:]
    assert "**4.00×**" in new and "AVX2" in new and "AVX512" in old and "set-image-cpu" in old
    assert charts(results)["set-image"].places == ["tiny fp32"]
    assert SECTIONS["video"](results).count("seconds per steady frame") == 1


def test_tables_of_the_suite(folder):
    subjects = {
        "official": subject(2.0, 2.5, 4.0, peak=1000.4),
        "sam2fast": subject(0.04, 0.05, 0.08, peak=800.0),
        "sam2fast compiled": subject(note="no compiler"),
    }
    late = row("boxes", {"official": subject(0.2, 0.3, 0.4)}, objects=16, history=10_000)
    put(folder, "suite-cpu", [row("boxes", subjects, objects=8), late])
    text = SECTIONS["suite"](Results(folder))
    header, _, first, second = [line for line in text.splitlines() if line.startswith("|")]
    assert header.startswith("| model | dtype | side | objects | frames before | official | sam2fast |")
    assert first == (
        "| tiny | fp32 | 1024 | 8 |  | 2.50 s (2.00–4.00 s) | 50.0 ms (40.0–80.0 ms) | – | **50.00×** (50.00–50.00) "
        "| 3.0e-6 | 1,000 / 800 / – |"
    )
    assert second.startswith("| tiny | fp32 | 1024 | 16 | 10,000 | 0.30 s (0.20–0.40 s) | – | – | – |")
    assert "95 and 99" not in text
    assert "### Boxes" in text and "sam2fast compiled: no compiler." in text and "two threads of an AMD EPYC" in text
    chart = charts(Results(folder))["suite-boxes"]
    assert chart.series == {"official": [2.5, 0.3], "sam2fast": [0.05, None]}
    assert chart.places == ["8 obj.", "16 obj. after 10000"]


def test_tails_of_latencies(folder):
    tail = {"p50_s": 0.3, "p95_s": 0.38, "p99_s": 0.395}
    put(folder, "suite-cpu", [row("stream latency", {name: subject(0.2, 0.3, 0.4) | tail for name in TWO})])
    text = SECTIONS["suite"](Results(folder))
    assert "95 and 99 of 100 within, official / sam2fast |" in text
    assert text.splitlines()[6].endswith("| 0.38 s, 0.40 s / 0.38 s, 0.40 s |")


def test_a_gpu_appears_with_its_file(folder):
    fast = {"official": subject(0.02, 0.022, 0.03), "sam2fast": subject(0.005, 0.0055, 0.006)}
    put(folder, "suite-nvidia-h200", [row("image encode", fast)], GPU)
    put(folder, "curves-cuda", [point("history", 10)], GPU)
    results = Results(folder, "../")
    text = SECTIONS["gpu"](results)
    assert (
        "### NVIDIA H200" in text
        and "#### Image encode" in text
        and "| 22.0 ms (20.0–30.0 ms) | 5.50 ms (5.00–6.00 ms) | **4.00×**" in text
    )
    assert "curves-gpu-history.svg" in text and "Nothing" not in text
    assert SECTIONS["gpu-state"](results) == "measured on NVIDIA H200: [benchmarks](../docs/benchmarks.md)"
    assert {"suite-nvidia-h200-image-encode", "curves-gpu-history"} <= set(charts(results))
    kernels = {"parts": {"micro": []}, "machine": {"device": "NVIDIA B200"}}
    (folder / "nvidia-b200-2030-01-02.json").write_text(json.dumps(kernels))
    assert "[NVIDIA B200](../bench/results/nvidia-b200-2030-01-02.json)" in SECTIONS["gpu"](results)
    assert SECTIONS["gpu-state"](results).startswith("measured on NVIDIA B200 and NVIDIA H200: ")
    # It is no file of a CPU.
    assert "set-image-cpu" in SECTIONS["set-image"](results) and SECTIONS["suite"](results).startswith("Not measured")


def point(curve, number):
    subjects = {"official": subject(0.2, 0.3, 0.4), "sam2fast": subject(0.1, 0.15, 0.2)}
    setting = {"objects": 1, "history": 16, "image_size": 256, curve: number}
    made = {"curve": curve, **row("", subjects, **setting)}
    if curve == "history":
        made["growth_mib"] = {name: {"resident": number / 10, "device": None} for name in TWO}
    return made


def test_curves(folder):
    points = [point("objects", n) for n in (1, 64)] + [point("history", n) for n in (10, 10_000)]
    put(folder, "curves-cpu", points)
    results = Results(folder, "../")
    text = SECTIONS["curves"](results)
    assert "| 64 | 0.30 s (0.20 s to 0.40 s) | 0.15 s (0.10 s to 0.20 s) | **2.00×** |" in text
    assert (
        "| 10,000 | 0.30 s (0.20 s to 0.40 s) | 0.15 s (0.10 s to 0.20 s) | **2.00×** | 1,000 MiB and 1,000 MiB |"
        in text
    )
    over_objects, over_history = (charts(results)[f"curves-{curve}"] for curve in ("objects", "history"))
    assert over_objects.places == [1, 64] and over_history.places == [10, 10_000]
    assert over_history.series == {"official": [0.3, 0.3], "sam2fast": [0.15, 0.15]}
    assert over_objects.logarithmic == "xy" and over_history.logarithmic == "x"
    assert "| **2.00×** | under 5 MiB and under 5 MiB |" in text


def test_transformers(folder):
    subjects = {"transformers": subject(2.0, 3.0, 4.0), "sam2fast": subject(1.0, 1.5, 2.0)}
    put(folder, "suite-transformers-cpu", [row("predict", subjects)])
    text = SECTIONS["transformers"](Results(folder))
    assert "| model | dtype | side | transformers | sam2fast | ratio | difference |" in text and "**2.00×**" in text
    assert SECTIONS["suite"](Results(folder)).startswith("Not measured")
    assert "transformers-predict" in charts(Results(folder))


def test_compile_modes(folder):
    facts = {"model": "nano", "dtype": "float32", "first_s": 1.5, "median_s": 0.2, "spread": [0.19, 0.25]}
    rows = [{"mode": "eager", "compile_s": None, "difference": None, **facts},
            {"mode": "exported", "compile_s": 12.3, "difference": 2e-6, **facts}]  # fmt: skip
    put(folder, "compile-modes-cpu", rows)
    text = SECTIONS["compile-modes"](Results(folder))
    assert "| eager | nano | float32 | – | 1.50 s | 0.200 s | 0.190 s to 0.250 s | – |" in text
    assert "| exported | nano | float32 | 12.30 s | 1.50 s | 0.200 s | 0.190 s to 0.250 s | 2.0e-6 |" in text
    assert charts(Results(folder))["compile-modes"].series["later masks"] == [0.2, 0.2]


def test_training_memory(folder):
    def memory(recipe, side, saved, measured=None):
        sizes = {"weights": 308.4, "gradients": 44.8, "optimizer": 89.6, "saved": saved, "saved_measured": measured}
        about = {"recipe": f"sam2.1_training/sam2.1_hiera_b+_{recipe}", "overrides": [], "side": side, "frames": 8}
        return {**about, "objects": 3, "parameters": {"all": 80_850_178, "learning": 11_743_362}, "mib": sizes}

    rows = [memory("24GB", 256, 100.0, 101.0), memory("24GB", 512, 400.0), memory("24GB", 1024, 1600.0)]
    put(folder, "training-memory-cpu", [*rows, memory("lora", 256, 1.0), {**rows[2], "overrides": ["a=1"], "side": 1}])
    text = SECTIONS["training-memory"](Results(folder))
    assert "| `24GB` | 11.7 million | 308, 45, 90 | 100, 101 | 400, – | 1,600 | **2.0 GiB** |" in text
    assert "lora" not in text  # which is not complete
    assert "for eight frames and three objects" in text
    assert "meets what is counted at 1024 within 0.0 percent, and what is counted is within 1.0 percent of" in text
    put(folder, "training-memory-cpu", [*rows[:2], memory("24GB", 1024, 1700.0)], date="2030-01-03")
    assert "within 5.9 percent" in SECTIONS["training-memory"](Results(folder))


def test_own_masks(folder):
    for path in folder.glob("own-masks-*.json"):
        path.unlink()
    assert SECTIONS["own-masks"](Results(folder)).startswith("Not measured yet: ")
    names = ("1 click", "1 click, best of 3", "3 clicks", "box")
    state = {"objects": 60, "miou": dict(zip(names, (51.04, 57.0, 66.7, 80.0), strict=True))}
    drawn = {"objects": 9, "one_click_miou": 59.3, "one_click_miou_best_of_3": 70.1}
    kept = {"pictures": drawn, **{f"clips_{prompt}": {"objects": 7, "J&F": 60.5} for prompt in ("click", "mask")}}
    data = {"machine": CPU, "pictures": 48, "held_out": 30, "updates": 120, "training": {"cpu_seconds": 90.0}}
    after = {"objects": 60, "miou": {name: 61.26 for name in names}}
    data |= {"own": {"before": state, "after": after}, "kept": {"before": kept, "after": kept}}
    (folder / "own-masks-cpu-2030-01-02.json").write_text(json.dumps(data))
    text = SECTIONS["own-masks"](Results(folder, "../"))
    assert "| snakes, one click: mean IoU | 51.0 | 61.3 |" in text
    assert "| drawn clips, a mask: J&F | 60.5 | 60.5 |" in text
    assert "120 updates took 1.5 minutes of one core's time. The 60 snakes are on 30 other" in text
    assert "with 9 and 7 things" in text and "(../bench/results/own-masks-cpu-2030-01-02.json)" in text


def test_serve_load(folder):
    for path in folder.glob("serve-load-*.json"):
        path.unlink()
    not_measured = SECTIONS["serve-load"](Results(folder))
    assert not_measured.startswith("Not measured yet: ")
    row = {"sessions": 4, "complete": 4, "failures": [], "frames_per_s": 30.04, "clicks": 70}
    row |= {"click_p50_s": 0.25, "click_p95_s": 0.4}
    data = {"machine": CPU, "model": "nano", "frames": 48, "frame": [240, 320], "together": [row]}
    data |= {"resident_mib": {"0": 900.2, "10": 903.0, "100": 1904.4}}
    (folder / "serve-load-cpu-2030-01-02.json").write_text(json.dumps(data))
    text = SECTIONS["serve-load"](Results(folder, "../"))
    assert "| 4 | 30.0 | 70 | 0.25 s | 0.40 s |" in text
    assert "48 frames of 320×240" in text and "(../bench/results/serve-load-cpu-2030-01-02.json)" in text
    assert "held 900 MiB afterwards, and 1,904 MiB when 100 more sessions" in text
    for broken in ({"complete": 3}, {"failures": ["the one that clicks: BUSY"]}):
        (folder / "serve-load-cpu-2030-01-02.json").write_text(json.dumps(data | {"together": [row | broken]}))
        assert SECTIONS["serve-load"](Results(folder)) == not_measured


def test_memory_comes_from_the_newest_run_that_has_it(folder):
    text = SECTIONS["automatic-masks"](Results(folder))
    assert "[another run](bench/results/automatic-masks-cpu-2026-11-20.json)" in text
    for path in folder.glob("automatic-masks-*.json"):
        data = json.loads(path.read_text())
        if data["rows"][0]["peak_mib"]:
            path.unlink()
    with pytest.raises(FiguresError, match="automatic-masks-cpu-DATE.json. with what is needed"):
        SECTIONS["automatic-masks"](Results(folder))


# ---- charts ----


def test_bars_are_as_long_as_what_they_stand_for():
    chart = Chart("title", "seconds", {"official": [2.0, 4.0], "sam2fast": [1.0, None]}, ["a", "b"])
    (axes,) = draw(chart).axes
    lengths = {bars.get_label(): [bar.get_width() for bar in bars] for bars in axes.containers}
    assert lengths == {"official": [2.0, 4.0], "sam2fast": [1.0, 0.0]}
    assert [label.get_text() for label in axes.texts] == ["2", "4", "1"]


def test_lines_go_through_the_points():
    chart = Chart("t", "s", {"a": [1.0, 2.0, 3.0], "b": [None, 5.0, 6.0]}, [1, 10, 100], x="frames", logarithmic="x")
    (axes,) = draw(chart).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines == {"a": [[1, 1], [10, 2], [100, 3]], "b": [[10, 5], [100, 6]]}
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_ylim()[0]) == ("log", "linear", 0)
    (axes,) = draw(chart._replace(logarithmic="xy")).axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_drawings_are_small_bare_and_always_the_same():
    chart = Chart("a < b & c", "seconds", {"official": [2.0], "sam2fast": [1.0]}, ["tiny “fp32”"])
    drawing = svg(chart)
    assert drawing == svg(chart) and numbers(drawing) == chart._asdict()
    assert len(drawing) < 20_000 and "a &lt; b" in drawing
    assert not re.search(r"<dc:date>|matplotlib v|Matplotlib v", drawing)
    # No ground of its own, and a grey that stands out from white as from near-black.
    assert "#ffffff" not in drawing
    grey = (int(STYLE["text.color"][1:3], 16) / 255 + 0.055) / 1.055
    luminance = grey**2.4 + 0.05
    assert min(1.05 / luminance, luminance / 0.056) > 4
