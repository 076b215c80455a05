"""What is shown of curves, compilers, training, the web demo and masks."""

import json

from figure_results import CPU, point, put
from figures.results import Results
from figures.sections import SECTIONS, charts


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
    said = SECTIONS["many-objects"](results)
    assert said.startswith("a frame with 1 to 64 objects is done 2.00 to 2.00 times as fast as by the official package")
    assert "| **2.00×** | under 5 MiB and under 5 MiB |" in text


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


def test_how_masks_agree(folder):
    done = "three photographs are done 6.7 to 9.4 times as fast as by the official generator"
    said = SECTIONS["masks-ratio"](Results(folder))
    assert said == f"{done}, with as many masks, each of an IoU of at least 0.9995 with one of its"
    newest = max(folder.glob("automatic-masks-*.json"))
    data = json.loads(newest.read_text())
    data["rows"][0]["masks"]["sam2fast"] += 1
    newest.write_text(json.dumps(data))
    said = SECTIONS["masks-ratio"](Results(folder))
    assert said == f"{done}, with an IoU of at least 0.9995 of those masks that both find"
