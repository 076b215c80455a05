"""Result files for tests of the figures made of them."""

import json
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "bench" / "results"
CPU = {"cpu": "AMD EPYC", "capability": "AVX512", "cores": 2, "threads": 2, "python": "3.11.7", "torch": "2.13.0+cpu"}
GPU = CPU | {"device": "NVIDIA H200", "gpu": "NVIDIA H200", "driver": "570", "commit": "0123456789ab"}


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
             for n in timed if n != first and first in timed}  # fmt: skip
    facts = {"size": "t", "dtype": "fp32", "image_size": 1024, "objects": None, "history": None} | setting
    differences = {name: 3e-6 for name in ratio}
    return {"case": case, **facts, "subjects": subjects, "ratio": ratio, "difference": differences, "note": ""}
