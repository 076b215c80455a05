"""What is shown of the suite, by processor and device, and said of it in the summary."""

import json

import pytest
from figure_results import CPU, GPU, put, row, subject
from figures import chart
from figures.documents import SECTIONS
from figures.kernels import measured
from figures.results import Results

AVX2 = CPU | {"capability": "AVX2"}


def test_a_table_of_a_case(tmp_path):
    """What no row has, gets no column. Notes say what is not timed; those that some rows have are numbered."""
    first = {
        "official": subject(2.0, 2.5, 4.0, peak=1000.0, note="holes are filled by scipy; 7 frames before the first"),
        "sam2fast": subject(0.04, 0.05, 0.08, peak=800.0),
        "sam2fast compiled": subject(note="not asked for"),
    }
    late = {"official": subject(0.3), "sam2fast": subject(note="WRONG: differs")}
    rows = [row("boxes", first, objects=8), row("boxes", late, objects=16, history=10_000)]
    put(tmp_path, "suite-cpu", [rows[0] | {"note": "so many"}, rows[1] | {"note": "so many"}])
    text = SECTIONS["suite"](Results(tmp_path))
    header, _, one, two = [line for line in text.splitlines() if line.startswith("|")]
    columns = "objects | frames before | official | sam2fast | ratio of sam2fast"
    assert header == f"| model, side, dtype | {columns} | peak MiB of official | peak MiB of sam2fast | notes |"
    assert one == ("| tiny, 1024, fp32 | 8 | – | 2.50 s | 50.0 ms | **50.00×** | 1,000 | 800 | 1 |")
    assert two == "| tiny, 1024, fp32 | 16 | 10,000 | 0.30 s | – | – | – | – | 2 |"
    assert "So many. 1: official: holes are filled by scipy. 2: sam2fast: WRONG: differs." in text
    assert "#### Boxes" in text and "two threads of an AMD EPYC" in text and "not asked for" not in text


def test_profiles_and_ious_have_columns(tmp_path):
    both = {"official": subject(0.02), "sam2fast": subject(0.005) | {"graphs_mib": 1234.4}}
    device = {"busy us": 4050.4, "overlap us": 1312.0, "encodes": 1, "host us": 900.0, "host waits us": None}
    rows = [row("video throughput", both, objects=2) | {"iou": {"sam2fast": [0.25, 0.9996]}, "device": device}]
    rows.append(row("video throughput", both, objects=1))
    put(tmp_path, "suite-nvidia-h200", rows, GPU)
    head, _, first, second = [line for line in SECTIONS["gpu"](Results(tmp_path)).splitlines() if line.startswith("|")]
    assert "| graphs MiB of sam2fast |" in head and all("| 1,234 |" in line for line in (first, second))
    assert "| least IoU of sam2fast | encodes | GPU busy, µs | overlap, µs | host thread, µs |" in head
    assert "| 0.250 | 1.00 | 4,050 | 1,312 | 900 |" in first and "| – | – | – | – | – |" in second


def test_the_newest_file_of_each_processor_is_shown(folder):
    slow = {"official": subject(2.0, 2.2, 2.4), "sam2fast": subject(0.5, 0.55, 0.6)}
    put(folder, "suite-cpu", [row("image encode", slow), row("video steady frame", slow, objects=16)], AVX2)
    text = SECTIONS["suite"](Results(folder))
    new, old = text.split("### AMD EPYC with AVX512")
    assert "**4.00×**" in new and "suite-cpu-2030-01-02" in new and "suite-cpu-2026-11-20" in old
    assert "suite-cpu-2026-11-21" not in text and "transformers" not in text


def test_the_summary_has_a_column_for_each_processor(folder):
    slow = {"official": subject(2.0, 2.2, 2.4), "sam2fast": subject(0.5, 0.55, 0.6)}
    small = row("image encode", {"official": subject(0.2), "sam2fast": subject(0.1)}, image_size=256)
    given = row("video steady frame", slow, objects=1, history=10)
    rows = [row("image encode", slow), small, given, row("video steady frame", slow, objects=16)]
    put(folder, "suite-cpu", rows, AVX2)
    lines = [line for line in SECTIONS["summary"](Results(folder, "../")).splitlines() if line.startswith("| ")]
    assert lines[:2] == [
        "| official → sam2fast | AMD EPYC with AVX2 | AMD EPYC with AVX512 |",
        "| an image | **4.00×**, 2.20 s → 0.55 s | **2.16×**, 2.15 s → 0.99 s |",
    ]
    assert "| a frame of a video, one object | – | **2.24×**, 5.12 s → 2.29 s |" in lines
    assert "| a frame of a video, 16 objects | **4.00×**, 2.20 s → 0.55 s | – |" in lines
    assert lines[-1] == "| all masks of a photograph | – | **8.13×**, 327.54 s → 40.30 s |"  # the middle one of three


@pytest.mark.parametrize(
    ("kind", "case", "setting", "difference", "shown"),
    [
        ("suite-cpu", "peak memory", {"objects": 4, "history": 100}, {"sam2fast": 1.6e-4}, "1.6e-4"),
        ("suite-nvidia-h200", "predict", {}, {"sam2fast": 1.8e-4}, "1.8e-4"),
        ("curves-cpu", "", {}, {"sam2fast": 1.9e-4}, "1.9e-4"),
        ("suite-cpu", "predict", {"dtype": "bf16"}, {"sam2fast": 0.5}, "4.8e-6"),
        ("suite-cpu", "automatic masks", {}, {"sam2fast": 0.5}, "4.8e-6"),
    ],
)
def test_the_largest_difference_in_fp32(folder, kind, case, setting, difference, shown):
    """Of any case and any kind of file, but for shares of masks; without other files of this processor."""
    both = {"official": subject(2.0), "sam2fast": subject(0.5)}
    put(folder, kind, [row(case, both, **setting) | {"difference": difference}], GPU if "nvidia" in kind else AVX2)
    next(folder.rglob("suite-cpu-2026-11-21.json")).unlink()
    next(folder.rglob("curves-cpu-2026-11-21.json")).unlink() if kind != "curves-cpu" else None
    put(folder, "curves-cpu", [row("", both) | {"difference": {"sam2fast": 4.8e-6}}], date="2029-01-01")
    assert SECTIONS["seen-difference"](Results(folder)) == shown


def test_a_gpu_appears_with_its_file(folder):
    for path in folder.rglob("*nvidia*"):  # those of the repository
        path.unlink()
    results = Results(folder, "../")
    assert SECTIONS["gpu-state"](results) == "nothing has been measured on a GPU"
    fast = {"official": subject(0.02, 0.022, 0.03), "sam2fast": subject(0.005, 0.0055, 0.006)}
    put(folder, "suite-nvidia-h200", [row("image encode", fast)], GPU)
    text = SECTIONS["gpu"](results)
    assert "### NVIDIA H200" in text and "| 22.0 ms | 5.50 ms |" in text
    assert SECTIONS["gpu-state"](results) == "nothing has been measured on a GPU", "no frame of a video"
    kernels = {"parts": {"micro": []}, "machine": {"device": "NVIDIA B200", "commit": CLEAN}}
    (folder / "nvidia-b200-2030-01-02.json").write_text(json.dumps(kernels))
    assert "(../bench/results/nvidia-b200-2030-01-02.json)" in SECTIONS["gpu"](results)
    assert "### Kernels" not in SECTIONS["gpu"](results)
    kernels["parts"]["sentences"] = [{"sentence": "`nms` is fast."}, {"sentence": "`mlp` is slow.", **LATE}]
    kernels["date"] = "2030-01-02"
    (folder / "nvidia-b200-2030-01-02.json").write_text(json.dumps(kernels))
    listed = "### Kernels on NVIDIA B200, 2030-01-02\n\n- `nms` is fast.\n- `mlp` is slow. (timed out)\n\n"
    assert listed in SECTIONS["gpu"](results)
    assert "H200" not in SECTIONS["suite"](results)  # it is no file of a CPU


DIRTY, CLEAN, LATE = "0123456789ab-dirty", "0123456789ab", {"verdict": "FAILED: timed out after 75 s"}


def test_the_sentence_on_gpus_has_the_newest_frame_of_tiny_on_each(tmp_path):
    both = {"official": subject(0.02), "official vos_optimized": subject(note="timed out"), "sam2fast": subject(0.004)}
    frame = row("video throughput", both, objects=1)
    put(tmp_path, "suite-nvidia-b200", [frame], GPU | {"gpu": "B200"}, "2030-01-01")
    more = row("video throughput", both, objects=4)
    put(tmp_path, "suite-nvidia-h200", [more, frame | {"commit": DIRTY}], GPU, "2030-01-01")
    compiled = {**both, "official vos_optimized": subject(0.01), "sam2fast": subject(0.005)}
    put(tmp_path, "suite-nvidia-h200", [row("video throughput", compiled, objects=1) | LATE], GPU, "2030-01-02")
    eager = "5.0 times as fast as the official package in eager mode"
    assert SECTIONS["gpu-state"](Results(tmp_path, "../")) == (
        "a frame of tiny with one object takes 5.00 ms, 4.0 times as fast as the official package in eager mode, 2.0 "
        f"times as fast as its compiled predictor, on NVIDIA H200 (timed out); 4.00 ms, {eager}, on B200 "
        "([what the marks say](../docs/benchmarks.md#gpus))"
    )


def test_profiles_are_shown_by_part(tmp_path):
    """The encoder's time and the step's, by their streams, of the newest profile of each model."""
    assert "Not profiled yet" in SECTIONS["gpu-profile"](Results(tmp_path))
    times = {(21, "_resize_and_normalise_kernel"): 40.0, (21, "nvjet_sm90"): 600.0, (21, "nvjet_sm90_bias"): 48.0,
             (7, "_attend_kernel"): 800.0, (7, "_encode_kernel"): 90.0, (7, "nvjet_sm90"): 264.0,
             (23, "Memcpy HtoD"): 242.0, (7, "unknown"): 3.0, (7, "cudnn_fort_native_sdpa"): 130.0}  # fmt: skip
    rows = [{"model": "t", "kernel": "all", "us": 9e9}]
    rows += [{"model": "t", "kernel": name, "stream": stream, "us": us} for (stream, name), us in times.items()]
    old = [{**row, "us": 1.0, "us a frame": 2 * row["us"]} for row in rows[1:]]
    for date, some in ("2030-01-01", old), ("2030-01-02", rows):
        for model in ("t", "l") if some is old else ("t",):
            data = {"machine": GPU, "parts": {"profile": [{**row, "model": model} for row in some]}}
            (tmp_path / f"nvidia-{model}-{date}.json").write_text(json.dumps(data))
    text = SECTIONS["gpu-profile"](Results(tmp_path))
    assert "| part | tiny, NVIDIA H200 | large, NVIDIA H200 |" in text
    for line in ("attention to memory | 0 + 890 | 0 + 1,780", "matrix multiplications | 648 + 264 | 1,296 + 528",
                 "uploads | 242 + 0 | 484 + 0", "attention by cuDNN | 0 + 130 | 0 + 260",
                 "**sum** | **930 + 1,287** | **1,860 + 2,574**"):  # fmt: skip
        assert f"| {line} |" in text


@pytest.mark.parametrize(
    ("about", "fields", "shown"),
    [
        (CPU, {"commit": DIRTY}, ""),
        (GPU, {"commit": CLEAN}, ""),
        (GPU, {"commit": CLEAN, "verdict": "FAILED: WRONG: another row"}, ""),
        (GPU, {"commit": DIRTY}, " (uncommitted changes)"),
        (GPU | {"commit": DIRTY}, {}, " (uncommitted changes)"),
        (GPU | {"commit": DIRTY}, {"commit": CLEAN}, ""),
        (GPU | {"commit": None}, {}, " (unknown commit)"),
        (GPU, {"commit": None}, " (unknown commit)"),
        (GPU | {"commit": None}, {"commit": CLEAN}, ""),
        (CPU | {"commit": None}, {}, ""),
        (GPU, LATE, " (timed out)"),
        (GPU, LATE | {"commit": DIRTY}, " (timed out, uncommitted changes)"),
    ],
)
def test_rows_that_do_not_count_are_marked(tmp_path, about, fields, shown):
    """In the tables of whole calls and of kernels."""
    both = {"official": subject(0.02), "sam2fast": subject(0.005)}
    put(tmp_path, "suite-some-device", [row("image encode", both) | fields], about)
    results = Results(tmp_path)
    assert f"| tiny, 1024, fp32{shown} |" in SECTIONS["gpu" if "gpu" in about else "suite"](results)
    micro = {"op": "nms", "shape": "3", "dtype": "bool", "subject": "triton", "p50 ms": 1.0, "of limit": 0.5} | fields
    kernels = {"parts": {"micro": [micro]}, "machine": {"device": "CPU", **about}}
    (tmp_path / "some-device-2030-01-02.json").write_text(json.dumps(kernels))
    assert f"| 3, bool{shown} |" in measured(results, ["nms"])


def test_cells_of_the_page_to_choose(tmp_path):
    """The newest time on each processor, with a link and a mark; a dash if nothing was measured."""
    results = Results(tmp_path, "../")
    assert SECTIONS["choose-image"](results) == SECTIONS["choose-gpu-frame"](results) == "–"
    encoded = row("image encode", {"sam2fast": subject(0.5)})
    put(tmp_path, "suite-cpu", [encoded, row("image encode", {"sam2fast": subject(0.1)}, size="b+")])
    put(tmp_path, "suite-cpu", [row("image encode", {"sam2fast": subject(0.7)})], date="2029-01-01")
    put(tmp_path, "suite-cpu", [row("image encode", {"sam2fast": subject(2.0)})], AVX2, date="2028-01-01")
    new = "[0.50 s](../bench/results/suite-cpu-2030-01-02.json) (AVX512)"
    old = "[2.00 s](../bench/results/suite-cpu-2028-01-01.json) (AVX2)"
    assert SECTIONS["choose-image"](results) == f"{new}, {old}"
    frame = row("video throughput", {"sam2fast": subject(0.0116)}, size="l", dtype="bf16", objects=1)
    put(tmp_path, "suite-nvidia-h200", [frame | {"verdict": "FAILED: timed out after 75 s"}], GPU)
    link = "[11.6 ms](../bench/results/suite-nvidia-h200-2030-01-02.json)"
    assert SECTIONS["choose-gpu-frame"](results) == f"{link} (NVIDIA H200) (timed out)"
    memory = row("peak memory", {"sam2fast": subject(0.5, peak=805.7)})
    put(tmp_path, "suite-cpu", [memory, row("peak memory", {"sam2fast": subject()})])
    assert SECTIONS["choose-image-memory"](results).startswith("[806 MiB](")


def test_the_chart_shows_gpus_with_their_marks(folder):
    """A bar for each measured GPU, with its dtype; the newest row of a GPU counts, and needs the official package."""
    for path in folder.rglob("*nvidia*"):
        path.unlink()
    without = chart.speed(Results(folder))
    assert "NVIDIA" not in without and chart.ON_GPUS not in without
    assert ">AMD EPYC with AVX512, fp32<" in without and ">One thread, Meta's weights." in without
    both = {"official": subject(0.02), "sam2fast": subject(0.004)}
    frame = row("video throughput", both, objects=1, dtype="bf16")
    put(folder, "suite-nvidia-h200", [frame | LATE], GPU)
    put(
        folder,
        "suite-nvidia-l4",
        [row("video throughput", {"sam2fast": both["sam2fast"]}, objects=1)],
        GPU | {"gpu": "L4"},
    )
    drawn = chart.speed(Results(folder))
    assert ">NVIDIA H200, bf16<" in drawn and ">5.00× (timed out)<" in drawn and chart.PROVISIONAL[0] in drawn
    assert "L4" not in drawn
    put(folder, "suite-nvidia-h200", [frame], GPU, "2030-01-03")
    drawn = chart.speed(Results(folder))
    assert ">5.00×<" in drawn and chart.ON_GPUS in drawn and chart.PROVISIONAL[0] not in drawn
