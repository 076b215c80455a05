"""What is shown of the suite, by processor and device, and said of it in the summary."""

import json

import pytest
from figure_results import CPU, GPU, TWO, point, put, row, subject
from figures.results import FiguresError, Results
from figures.sections import SECTIONS, charts


def test_the_suite_takes_the_place_of_older_files(folder):
    slow = {"official": subject(2.0, 2.2, 2.4), "sam2fast": subject(0.5, 0.55, 0.6)}
    put(folder, "suite-cpu", [row("image encode", slow), row("video steady frame", slow, objects=3)])
    results = Results(folder)
    assert "| tiny | fp32 | 2.20 s | 0.55 s | **4.00×** | 3.0e-6 |" in SECTIONS["set-image"](results)
    assert "medians of 3" in SECTIONS["set-image"](results) and "set-image-cpu" not in SECTIONS["set-image"](results)
    assert "| tiny | fp32 | 3 | 2.20 s | 0.55 s | **4.00×** | 3.0e-6 |" in SECTIONS["video"](results)
    assert "997 MiB" in SECTIONS["long-video"](results)
    assert charts(results)["video"].places == ["tiny fp32, 3 obj."]
    peaks = {"official": subject(1.0, peak=2000.0), "sam2fast": subject(1.0, peak=900.0)}
    given = [row("image encode", slow), row("video steady frame", slow, objects=1, history=10)]
    rows = [*given, row("peak memory", peaks), row("peak memory", peaks, objects=4, history=100)]
    put(folder, "suite-cpu", rows, date="2030-01-04")
    assert "| 2.20 s | 0.55 s | **4.00×** | 3.0e-6 | 2000 → 900 MiB |" in SECTIONS["set-image"](results)
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


def test_the_largest_difference_of_every_table_in_fp32(folder):
    """From any case, any kind of file and either processor, but for shares of masks and what is not the official's."""
    both = {"official": subject(2.0), "sam2fast": subject(0.5)}

    def seen(kind, setting, difference, machine=CPU, subjects=both):
        found = row(*setting[:1], subjects, **setting[1]) | {"curve": "objects", "difference": difference}
        put(folder, kind, [found], machine, date="2031-01-01")
        text = SECTIONS["seen-difference"](Results(folder))
        (folder / f"{kind}-2031-01-01.json").unlink()
        return text

    before = SECTIONS["seen-difference"](Results(folder))
    assert before == "4.5e-6"  # of four objects in the newest file of videos
    tracked = ("peak memory", {"objects": 4, "history": 100})
    assert seen("suite-cpu", tracked, {"sam2fast": 1.6e-5, "sam2fast compiled": 1.5e-5}) == "1.6e-5"
    assert seen("suite-cpu", tracked, {"sam2fast": 1.5e-5, "sam2fast compiled": 1.7e-5}) == "1.7e-5"
    assert seen("suite-nvidia-h200", tracked, {"sam2fast": 1.8e-5}, GPU) == "1.8e-5"
    assert seen("curves-cpu", ("", {"objects": 1}), {"sam2fast": 1.9e-5}) == "1.9e-5"
    assert seen("suite-cpu", ("predict", {"dtype": "bf16"}), {"sam2fast": 0.5}) == before
    assert seen("suite-cpu", ("automatic masks", {}), {"sam2fast": 0.5}) == before
    ours = {"official": subject(note="not installed"), "sam2fast": subject(0.5), "sam2fast fast": subject(0.5)}
    assert seen("suite-cpu", ("predict", {}), {"sam2fast fast": 5e-5}, subjects=ours) == before
    encoder = {"size": "t", "dtype": "fp32", "batch": 1, "median_s": {}, "ratio": {}}
    put(folder, "encoder-cpu", [encoder | {"errors": {"official compiled": 9e-5, "sam2fast compiled": 2.1e-5}}])
    assert SECTIONS["seen-difference"](Results(folder)) == "2.1e-5"


def test_a_processor_with_other_vector_units_has_its_own_table(folder):
    slow = {"official": subject(2.0, 2.2, 2.4), "sam2fast": subject(0.5, 0.55, 0.6)}
    put(folder, "suite-cpu", [row("image encode", slow)], CPU | {"capability": "AVX2"})
    results = Results(folder)
    new, old = SECTIONS["set-image"](results).split("`set_image` at")[1:]
    assert "**4.00×**" in new and "AVX2" in new and "AVX512" in old and "set-image-cpu" in old
    assert charts(results)["set-image"].places == ["tiny fp32"]
    assert SECTIONS["video"](results).count("seconds per steady frame") == 1


def test_the_summary_has_a_column_for_each_processor(folder):
    text = SECTIONS["summary"](Results(folder))  # of files of one processor
    assert text.startswith("| official → sam2fast | AMD EPYC with AVX512 |\n")
    assert "| an image | **2.16×**, 2.15 s → 0.99 s |" in text
    slow = {"official": subject(2.0, 2.2, 2.4), "sam2fast": subject(0.5, 0.55, 0.6)}
    small = row("image encode", {"official": subject(0.2), "sam2fast": subject(0.1)}, image_size=256)
    rows = [row("image encode", slow), small, row("video steady frame", slow, objects=16)]
    put(folder, "suite-cpu", rows, CPU | {"capability": "AVX2"})
    text = SECTIONS["summary"](Results(folder, "../"))
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[0] == "| official → sam2fast | AMD EPYC with AVX2 | AMD EPYC with AVX512 |"
    assert lines[1] == "| an image | **4.00×**, 2.20 s → 0.55 s | **2.16×**, 2.15 s → 0.99 s |"
    assert "| a frame of a video, one object | – | **2.24×**, 5.12 s → 2.29 s |" in lines
    assert "| a frame of a video, 16 objects | **4.00×**, 2.20 s → 0.55 s | – |" in lines
    assert lines[-1] == "| all masks of a photograph | – | **8.13×**, 327.54 s → 40.30 s |"  # the middle one of three
    assert "medians of 3 to 7 runs" in text
    assert "on two threads; all masks of a photograph in one run on one thread, the official" in text
    assert "[1](../bench/results/suite-cpu-2030-01-02.json)" in text
    put(folder, "suite-cpu", rows, CPU | {"capability": "AVX2", "threads": 16})
    assert "the same weights, on two or 16 threads; all masks" in SECTIONS["summary"](Results(folder))


def test_the_summary_says_how_often_and_against_what(folder):
    assert "The official package" not in SECTIONS["summary"](Results(folder))  # of files without notes
    slow = {"official": subject(2.0, note="memories kept; 9 frames before the first"), "sam2fast": subject(0.5)}
    put(folder, "suite-cpu", [row("video steady frame", slow, objects=1)])
    path = max(folder.glob("automatic-masks-*.json"))
    data = json.loads(path.read_text())
    for i, photograph in enumerate(data["rows"]):
        photograph["seconds"] = {name: [1.0] * (3 if i else 2) for name in TWO}
    path.write_text(json.dumps(data))
    text = SECTIONS["summary"](Results(folder))
    assert "all masks of a photograph as medians of 2 to 3 runs on one thread, the official" in text
    assert " The official package in videos: memories kept. Samples: " in text
    assert ", as medians of 2 to 3 runs ([samples]" in SECTIONS["automatic-masks"](Results(folder))


def test_tables_of_the_suite(folder):
    subjects = {
        "official": subject(2.0, 2.5, 4.0, peak=1000.4),
        "official vos_optimized": subject(note="not asked for"),
        "sam2fast": subject(0.04, 0.05, 0.08, peak=800.0),
        "sam2fast fast": subject(note="for video only"),
        "sam2fast compiled": subject(note="no compiler"),
    }
    early = row("boxes", subjects, objects=8) | {"note": "so many boxes"}
    late = row("boxes", {"official": subject(0.3)}, objects=16, history=10_000) | {"note": "set_image first"}
    put(folder, "suite-cpu", [early, late])
    text = SECTIONS["suite"](Results(folder))
    header, _, first, second = [line for line in text.splitlines() if line.startswith("|")]
    columns = "objects | frames before | official | sam2fast | ratio | difference | peak MiB, official / sam2fast"
    assert header == f"| model | dtype | side | {columns} |"
    assert first == (
        "| tiny | fp32 | 1024 | 8 |  | 2.50 s (2.00–4.00 s) | 50.0 ms (40.0–80.0 ms) | **50.00×** "
        "| 3.0e-6 | 1,000 / 800 |"
    )
    assert second == "| tiny | fp32 | 1024 | 16 | 10,000 | 0.30 s | – | – | – | – / – |"
    assert "95 and 99" not in text and "not asked for" not in text and "vos_optimized" not in text
    missing = "Not timed: sam2fast fast (for video only); sam2fast compiled (no compiler)."
    assert f"\nSo many boxes.\n\nset_image first.\n\n{missing}\n" in text
    assert "### Boxes" in text and "two threads of an AMD EPYC" in text
    chart = charts(Results(folder))["suite-boxes"]
    assert chart.series == {"official": [2.5, 0.3], "sam2fast": [0.05, None]}
    assert chart.places == ["8 obj.", "16 obj. after 10000"]


def test_notes_of_the_suite_are_said_once_where_they_belong(folder):
    """Behind a column's head what is of all its rows, behind a cell what is of that alone."""
    exact, holes = "memories kept in fp32, which it rounds", "holes are filled by scipy"

    def frame(before, note, dtype="fp32", ours="", **setting):
        both = {
            "official": subject(2.0, note=f"{note}; {before} frames before the first"),
            "sam2fast": subject(1.0, note=f"{before} frames before the first") if not ours else subject(note=ours),
            "sam2fast fast": subject(0.5, note=f"{before} frames before the first"),
        }
        return row("video steady frame", both, objects=1, dtype=dtype, **setting)

    rows = [frame(7, f"{exact}; {holes}"), frame(1000, f"{exact}; {holes}", size="l", history=1000)]
    rows += [frame(8, holes, "bf16"), frame(9, holes, size="s", ours="WRONG: differs; not timed")]
    put(folder, "suite-cpu", rows)
    text = SECTIONS["suite"](Results(folder))
    header, _, *lines = [line for line in text.splitlines() if line.startswith("|")]
    assert "| frames before | official <sup>a</sup> | sam2fast | sam2fast fast | ratio of sam2fast |" in header
    assert header.endswith("| difference of sam2fast | difference of sam2fast fast |")
    assert "| tiny | fp32 | 1024 | 1 | 7 | 2.00 s <sup>b</sup> | 1.00 s | 0.50 s |" in lines[0]
    assert "| large | fp32 | 1024 | 1 | 1000 | 2.00 s <sup>b</sup> | 1.00 s |" in lines[1]
    assert "| tiny | bf16 | 1024 | 1 | 8 | 2.00 s | 1.00 s |" in lines[2]
    assert lines[2].endswith("| 3.0e-6 <sup>c</sup> | 3.0e-6 <sup>c</sup> |")  # of holes in bfloat16
    assert "| small | fp32 | 1024 | 1 | 9 | 2.00 s | – <sup>d</sup> | 0.50 s | – |" in lines[3]
    assert lines[3].endswith("| – | 3.0e-6 |")
    said = " ".join(text.split())
    assert f" a: {holes}; b: {exact}; c: mostly of holes that" in said and "; d: WRONG: differs; not timed. " in said
    assert said.count(holes) == said.count(exact) == 1 and "before the first" not in said and "Not timed" not in said


def test_differences_that_are_large_or_nothing(folder):
    both = {"official": subject(2.0), "sam2fast": subject(1.0)}
    rows = [row("video steady frame", both, dtype="bf16", objects=1), row("image encode", both)]
    for found, difference in zip(rows, (2.13, 0.0), strict=True):
        found["difference"] = {"sam2fast": difference}
    put(folder, "suite-cpu", rows)
    results = Results(folder)
    assert "| **2.00×** | 2.1 |" in SECTIONS["video"](results)
    assert "| **2.00×** | 0 |" in SECTIONS["set-image"](results)
    # Images keep their holes, and so do videos where the official package cannot fill them.
    assert SECTIONS["suite"](results).count("<sup>") == 1
    rows[0]["subjects"]["official"]["note"] = "holes are not filled: its extension is missing"
    put(folder, "suite-cpu", rows)
    assert "mostly of holes" not in SECTIONS["suite"](Results(folder))


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


def test_transformers(folder):
    subjects = {"transformers": subject(2.0, 3.0, 4.0), "sam2fast": subject(1.0, 1.5, 2.0)}
    put(folder, "suite-transformers-cpu", [row("predict", subjects)])
    text = SECTIONS["transformers"](Results(folder))
    assert "| model | dtype | side | transformers | sam2fast | ratio | difference |" in text and "**2.00×**" in text
    assert SECTIONS["suite"](Results(folder)).startswith("Not measured")
    assert "transformers-predict" in charts(Results(folder))


def test_memory_comes_from_the_newest_run_that_has_it(folder):
    text = SECTIONS["automatic-masks"](Results(folder))
    assert "[another run](bench/results/automatic-masks-cpu-2026-11-20.json)" in text
    for path in folder.glob("automatic-masks-*.json"):
        data = json.loads(path.read_text())
        if data["rows"][0]["peak_mib"]:
            path.unlink()
    with pytest.raises(FiguresError, match="automatic-masks-cpu-DATE.json. with what is needed"):
        SECTIONS["automatic-masks"](Results(folder))
